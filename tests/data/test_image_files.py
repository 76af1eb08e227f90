"""Which files of a folder are images, and how folders are laid out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_exp.data.image_files import find_layout, list_files
from alexnet_exp.errors import UserError

MakeImages = Callable[..., Path]


def test_junk_is_left_out(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 2, "dog": 1})
    for junk in (".DS_Store", "Thumbs.db", "._000.png", "notes.txt", "labels.csv", "no_suffix"):
        (tmp_path / "cat" / junk).write_bytes(b"junk")
    (tmp_path / "cat" / "001.png").rename(tmp_path / "cat" / "Z.JPEG")
    for folder in ("__MACOSX", ".git"):
        make_images(tmp_path, {folder: 1})
    (tmp_path / "readme.png").write_bytes(b"not in a class folder")
    layout = find_layout(str(tmp_path))
    files = list_files(layout.train, layout.classes)
    assert layout.classes == ["cat", "dog"]
    assert files.names == ["cat/000.png", "cat/Z.JPEG", "dog/000.png"]
    assert files.labels == [0, 0, 1]


def test_parts_are_found_and_other_folders_beside_them_ignored(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {"cat": 1, "dog": 1, "empty": 0})
    make_images(tmp_path / "test", {"dog": 1})
    make_images(tmp_path / "other", {"owl": 1})
    layout = find_layout(str(tmp_path))
    assert (layout.classes, layout.empty) == (["cat", "dog"], ["empty"])
    assert (layout.train, layout.val, layout.test) == (tmp_path / "train", None, tmp_path / "test")
    # labels count among the classes of the training images
    assert list_files(tmp_path / "test", layout.classes).labels == [1]


@pytest.mark.parametrize("val", ["valid", "validation", "dev", "Val"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Testing")])
def test_the_splits_under_their_other_names(
    tmp_path: Path, make_images: MakeImages, train: str, val: str, test: str
) -> None:
    for split, classes in ((train, {"cat": 2, "dog": 1}), (val, {"cat": 1}), (test, {"dog": 1})):
        make_images(tmp_path / split, classes)
    layout = find_layout(str(tmp_path))
    assert (layout.train, layout.val, layout.test) == (tmp_path / train, tmp_path / val, tmp_path / test)
    assert layout.unused_images() == []


def test_names_of_classes_are_the_same_in_either_unicode_form(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {"caf\u00e9": 2, "tea": 1})
    make_images(tmp_path / "val", {"cafe\u0301": 1, "tea": 1})
    layout = find_layout(str(tmp_path))
    assert layout.val == tmp_path / "val"
    files = list_files(layout.val, layout.classes)
    assert (files.names, files.labels) == (["cafe\u0301/000.png", "tea/000.png"], [0, 1])
    make_images(tmp_path / "train", {"cafe\u0301": 1})
    with pytest.raises(UserError, match="two class folders have the same name"):
        find_layout(str(tmp_path))


def test_two_folders_for_one_split_are_refused(tmp_path: Path, make_images: MakeImages) -> None:
    for split in ("train", "val", "valid"):
        make_images(tmp_path / split, {"cat": 1, "dog": 1})
    with pytest.raises(UserError) as error:
        find_layout(str(tmp_path))
    assert str(error.value) == f"data.root={tmp_path}: val/ and valid/ both contain val images; keep one of them"


def test_splits_without_a_training_folder_are_no_classes(tmp_path: Path, make_images: MakeImages) -> None:
    for split in ("valid", "test"):
        make_images(tmp_path / split, {"cat": 1, "dog": 1})
    with pytest.raises(
        UserError, match="contains test, valid, but no training folder; rename the folder of training images"
    ):
        find_layout(str(tmp_path))


def test_images_that_are_not_used_are_named(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {"cat": 1, "dog": 1})
    make_images(tmp_path / "extra", {"cat": 1})
    make_images(tmp_path, {"test": 3})  # images of no class, as in a competition
    (tmp_path / "labels").mkdir()
    shutil.copy(tmp_path / "test" / "000.png", tmp_path / "train" / "loose.png")
    shutil.copy(tmp_path / "test" / "000.png", tmp_path / "title.png")
    root = f"1 image directly in {tmp_path.name}/"
    assert find_layout(str(tmp_path)).unused_images() == ["extra/", "test/", root, "1 image directly in train/"]


def test_images_in_folders_of_a_class_are_the_class_s(tmp_path: Path, make_images: MakeImages) -> None:
    """What torchvision's ImageFolder finds, in its order, without hidden files."""
    from torchvision.datasets import ImageFolder

    make_images(tmp_path / "cat", {"indoors": 2, "outdoors/2024": 1, ".cache": 1})
    make_images(tmp_path, {"dog": 1})
    layout = find_layout(str(tmp_path))
    files = list_files(layout.train, layout.classes)
    assert files.names == ["cat/indoors/000.png", "cat/indoors/001.png", "cat/outdoors/2024/000.png", "dog/000.png"]
    peer = ImageFolder(tmp_path)
    assert [(path, label) for path, label in peer.samples if ".cache" not in path] == list(
        zip(files.paths(), files.labels, strict=True)
    )


def test_links_between_folders_end(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "self").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "other").symlink_to(tmp_path / "dog")
    (tmp_path / "dog" / "back").symlink_to(tmp_path / "cat")
    assert list_files(tmp_path, ["cat"]).names == ["cat/000.png", "cat/other/000.png"]


def test_a_root_that_is_one_folder_too_high(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "photos", {"cat": 1, "dog": 1})
    with pytest.raises(UserError) as error:
        find_layout(str(tmp_path))
    assert str(error.value) == (
        f"data.root={tmp_path}: only one class, photos, in {tmp_path}; at least two are needed; "
        f"if cat, dog are the classes, write data.root={tmp_path}/photos"
    )


def test_a_class_may_be_called_train(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"plane": 1, "train": 1})
    layout = find_layout(str(tmp_path))
    assert (layout.train, layout.classes) == (tmp_path, ["plane", "train"])


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere", "link in a circle", "link to a device"])
def test_what_is_named_as_an_image_but_is_no_file_is_refused(
    tmp_path: Path, make_images: MakeImages, kind: str
) -> None:
    make_images(tmp_path, {"cat": 1, "dog": 1})
    path = tmp_path / "dog" / "x.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"to nowhere": "gone.jpg", "in a circle": "x.jpg", "to a device": "/dev/zero"}[kind[5:]])
    with pytest.raises(UserError) as error:
        list_files(tmp_path, ["cat", "dog"])
    assert str(path.parent) in str(error.value)
    assert str(error.value).isprintable()


def test_a_link_to_an_image_is_an_image(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "dog" / "link.png").symlink_to(tmp_path / "cat" / "000.png")
    files = list_files(tmp_path, ["cat", "dog"])
    assert files.names[2] == "dog/link.png"
    assert files.stamp(2) == files.stamp(0)


def test_a_file_that_goes_while_the_folder_is_listed(tmp_path: Path, make_images: MakeImages) -> None:
    files = list_files(make_images(tmp_path, {"cat": 1, "dog": 1}), ["cat", "dog"])
    (tmp_path / "dog" / "000.png").unlink()
    with pytest.raises(UserError, match=r"dog/000\.png: cannot be read \(No such file"):
        files.stamp(0)


def test_a_class_whose_name_is_no_text_is_refused(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 1, "dog": 1, os.fsdecode(b"caf\xe9"): 1})
    with pytest.raises(UserError) as error:
        find_layout(str(tmp_path))
    assert str(error.value) == f"{tmp_path}/caf\\udce9: the name of this class folder is not UTF-8; rename it"


LISTED = """
import sys
from pathlib import Path
from alexnet_exp.data.image_files import find_layout, list_files
layout = find_layout(sys.argv[1])
files = list_files(layout.train, layout.classes)
open("/dev/null").close()
files.stamps, files.stamp(3), files.stamps
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace, to count calls of the system")
def test_a_file_costs_one_call(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "images", {"cat": 60, "dog": 60})
    trace = ["strace", "-f", "-e", "trace=file,desc", "-o", str(tmp_path / "trace")]
    command = [*trace, sys.executable, "-c", LISTED, str(tmp_path / "images")]
    if subprocess.run([*trace, "true"], check=False).returncode:
        pytest.skip("strace may not trace here")
    subprocess.run(command, check=True)
    listing, stamps = (tmp_path / "trace").read_text().split("/dev/null", 1)
    assert ".png" not in listing, "names alone"
    assert stamps.count(".png") == 120
