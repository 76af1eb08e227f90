"""Image files of a folder, and the layout of folders."""

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


def test_other_files_are_ignored(tmp_path: Path, make_images: MakeImages) -> None:
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


def test_splits_are_found_and_other_folders_ignored(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {"cat": 1, "dog": 1, "empty": 0})
    make_images(tmp_path / "test", {"dog": 1})
    make_images(tmp_path / "other", {"owl": 1})
    layout = find_layout(str(tmp_path))
    assert (layout.classes, layout.empty) == (["cat", "dog"], ["empty"])
    assert (layout.train, layout.val, layout.test) == (tmp_path / "train", None, tmp_path / "test")
    # labels are indices of the training classes
    assert list_files(tmp_path / "test", layout.classes).labels == [1]


@pytest.mark.parametrize("val", ["valid", "validation", "dev", "Val"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Testing")])
def test_alternative_split_names_are_found(
    tmp_path: Path, make_images: MakeImages, train: str, val: str, test: str
) -> None:
    for split, classes in ((train, {"cat": 2, "dog": 1}), (val, {"cat": 1}), (test, {"dog": 1})):
        make_images(tmp_path / split, classes)
    layout = find_layout(str(tmp_path))
    assert (layout.train, layout.val, layout.test) == (tmp_path / train, tmp_path / val, tmp_path / test)
    assert layout.unused_images() == []


def test_class_names_match_in_both_unicode_forms(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {"caf\u00e9": 2, "tea": 1})
    make_images(tmp_path / "val", {"cafe\u0301": 1, "tea": 1})
    layout = find_layout(str(tmp_path))
    assert layout.val == tmp_path / "val"
    files = list_files(layout.val, layout.classes)
    assert (files.names, files.labels) == (["cafe\u0301/000.png", "tea/000.png"], [0, 1])
    make_images(tmp_path / "train", {"cafe\u0301": 1})
    with pytest.raises(UserError, match="two class folders have the same name"):
        find_layout(str(tmp_path))


def test_two_folders_for_one_split_are_rejected(tmp_path: Path, make_images: MakeImages) -> None:
    for split in ("train", "val", "valid"):
        make_images(tmp_path / split, {"cat": 1, "dog": 1})
    with pytest.raises(UserError) as error:
        find_layout(str(tmp_path))
    assert str(error.value) == f"data.root={tmp_path}: val/ and valid/ both contain val images; keep one of them"


def test_splits_without_a_training_folder_are_rejected(tmp_path: Path, make_images: MakeImages) -> None:
    for split in ("valid", "test"):
        make_images(tmp_path / split, {"cat": 1, "dog": 1})
    with pytest.raises(
        UserError, match="contains test, valid, but no training folder; rename the folder of training images"
    ):
        find_layout(str(tmp_path))


def test_unused_images_are_reported(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {"cat": 1, "dog": 1})
    make_images(tmp_path / "extra", {"cat": 1})
    make_images(tmp_path, {"test": 3})  # images without classes, as in a competition
    (tmp_path / "labels").mkdir()
    shutil.copy(tmp_path / "test" / "000.png", tmp_path / "train" / "loose.png")
    shutil.copy(tmp_path / "test" / "000.png", tmp_path / "title.png")
    root = f"1 image directly in {tmp_path.name}/"
    assert find_layout(str(tmp_path)).unused_images() == ["extra/", "test/", root, "1 image directly in train/"]


def test_nested_images_belong_to_their_class_folder(tmp_path: Path, make_images: MakeImages) -> None:
    """The same files in the same order as by torchvision's ImageFolder, without hidden files."""
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


def test_cyclic_links_between_folders_end(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "self").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "other").symlink_to(tmp_path / "dog")
    (tmp_path / "dog" / "back").symlink_to(tmp_path / "cat")
    assert list_files(tmp_path, ["cat"]).names == ["cat/000.png", "cat/other/000.png"]


def test_root_one_level_too_high_is_rejected(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "photos", {"cat": 1, "dog": 1})
    with pytest.raises(UserError) as error:
        find_layout(str(tmp_path))
    assert str(error.value) == (
        f"data.root={tmp_path}: only one class, photos, in {tmp_path}; at least two are needed; "
        f"if cat, dog are the classes, write data.root={tmp_path}/photos"
    )


def test_class_may_be_named_train(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"plane": 1, "train": 1})
    layout = find_layout(str(tmp_path))
    assert (layout.train, layout.classes) == (tmp_path, ["plane", "train"])


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere", "link in a circle", "link to a device"])
def test_non_file_with_the_name_of_an_image_is_rejected(tmp_path: Path, make_images: MakeImages, kind: str) -> None:
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


def test_link_to_an_image_is_listed(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "dog" / "link.png").symlink_to(tmp_path / "cat" / "000.png")
    files = list_files(tmp_path, ["cat", "dog"])
    assert files.names[2] == "dog/link.png"
    assert files.stamp(2) == files.stamp(0)


def test_file_removed_during_listing_is_an_error(tmp_path: Path, make_images: MakeImages) -> None:
    files = list_files(make_images(tmp_path, {"cat": 1, "dog": 1}), ["cat", "dog"])
    (tmp_path / "dog" / "000.png").unlink()
    with pytest.raises(UserError, match=r"dog/000\.png: cannot be read \(No such file"):
        files.stamp(0)


def test_class_name_that_is_not_utf8_is_rejected(tmp_path: Path, make_images: MakeImages) -> None:
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
def test_listing_needs_one_system_call_per_file(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "images", {"cat": 60, "dog": 60})
    trace = ["strace", "-f", "-e", "trace=file,desc", "-o", str(tmp_path / "trace")]
    command = [*trace, sys.executable, "-c", LISTED, str(tmp_path / "images")]
    if subprocess.run([*trace, "true"], check=False).returncode:
        pytest.skip("strace may not trace here")
    subprocess.run(command, check=True)
    listing, stamps = (tmp_path / "trace").read_text().split("/dev/null", 1)
    assert ".png" not in listing, "names alone"
    assert stamps.count(".png") == 120
