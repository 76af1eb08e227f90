"""Which files of a folder are images, and how folders are laid out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_exp.data.listing import find_layout, list_files
from alexnet_exp.settings import UserError

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
    assert str(error.value) == f"{tmp_path}/caf\\udce9: the folder's name is not in UTF-8, and is a class's; rename it"


LISTED = """
import sys
from pathlib import Path
from alexnet_exp.data.listing import find_layout, list_files
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
