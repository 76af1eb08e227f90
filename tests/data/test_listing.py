"""Which files of a folder are images, and how folders are laid out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alexnet_exp.data.listing import find_layout, list_files

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
