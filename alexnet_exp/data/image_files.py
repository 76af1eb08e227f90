"""Provides the image files and classes of a folder.

It does not import torch, because a folder is checked before torch is imported.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from alexnet_exp.errors import UserError, nfc, one_line

# HEIC is listed so that it is rejected by name, not silently ignored.
HEIC_SUFFIXES = {".heic", ".heif"}
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".avif"),
    *HEIC_SUFFIXES,
}

# Names of the folder of a split, case-insensitive: those of torchvision, Keras, Roboflow and Hugging Face.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class FolderLayout:
    """The folders of the splits under one root, and the classes.

    classes: sorted names of the class folders in `train` that contain an image. empty: those without images.
    """

    root: Path
    train: Path
    val: Path | None
    test: Path | None
    classes: list[str]
    empty: list[str]

    def unused_images(self) -> list[str]:
        """Returns the places of unused images: other folders in the root, and images outside class folders."""
        used = {folder for folder in (self.train, self.val, self.test) if folder}
        beside = [] if self.train == self.root else [self.root / name for name in class_folders(self.root)]
        found = [f"{folder.name}/" for folder in beside if folder not in used and _contains_images(folder)]
        for folder in sorted({self.root, *used}):
            count = len(loose_images(folder))
            if count:
                found.append(f"{count:,} image{'s' if count > 1 else ''} directly in {folder.name}/")
        return found


class FileStamp(NamedTuple):
    """Size in bytes and time of modification of a file, by which a change of it is detected."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class ImageFiles:
    """Image files under a folder, and the index of each one's class.

    names: sorted paths relative to `folder`: `CLASS/FILE`, or `CLASS/FOLDER/FILE` for a nested file.
    """

    folder: Path
    names: list[str]
    labels: list[int]

    def paths(self) -> list[str]:
        """Returns the full paths of the files."""
        return [os.path.join(self.folder, name) for name in self.names]  # noqa: PTH118 (fast for a million files)

    @cached_property
    def stamps(self) -> array[int]:
        """Size and modification time of each file in turn: int64 [2 N], read once, by one call per file."""
        return read_stamps(self.paths())

    def stamp(self, row: int) -> FileStamp:
        """Returns the stamp of file number `row` at the first use of `stamps`."""
        return FileStamp(*self.stamps[2 * row : 2 * row + 2])


def read_stamps(paths: list[str]) -> array[int]:
    """Returns `ImageFiles.stamps` of `paths`. Raises UserError for a missing file, a folder or a pipe."""
    stamps = array("q")
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 (fast for a million files)
        except OSError as error:
            raise UserError(unreadable_message(path, error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{one_line(path)}: has the name of an image but is not a file; remove it")
        stamps.extend(FileStamp.of(status))
    return stamps


def find_layout(root: str | None) -> FolderLayout:
    """Returns the layout of the images under `root`: `train/CLASS/*` (`val/`, `test/` optional) or `CLASS/*`.

    The folder of a split may have any of `SPLIT_NAMES`. Images are found at any depth below their class folder, as by
    torchvision's ImageFolder. Raises UserError for a folder that is missing, contains no images in class folders, has
    one class only or two folders for one split, and if `val` or `test` has a class that `train` lacks.
    """
    if root is None:
        raise UserError(
            "data.root=null: must be a folder of images arranged as train/CLASS/* or CLASS/*; write data.root=FOLDER"
        )
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"data.root={root}: no such folder; write the path of an existing folder")
    # a folder `train` without subfolders is a class of that name
    parted = _split_folder(base, "train", root)
    train = parted or base
    folders = class_folders(train)
    classes = [name for name in folders if _contains_images(train / name)]
    for name in classes:
        _check_name(train / name)
    duplicate = next((name for name in classes if name != nfc(name) and nfc(name) in classes), None)
    if duplicate is not None:
        raise UserError(
            f"data.root={root}: two class folders have the same name, {one_line(nfc(duplicate))}, in two Unicode "
            "forms; rename or merge them"
        )
    if not classes:
        raise UserError(f"data.root={root}: no images in class folders; arrange them as train/CLASS/* or CLASS/*")
    if not parted and all(_split_of(name) and class_folders(base / name) for name in classes):
        found = one_line(", ".join(classes))
        raise UserError(
            f"data.root={root}: contains {found}, but no training folder; rename the folder of training images to train"
        )
    if len(classes) == 1:
        deeper = class_folders(train / classes[0])
        instead = f"; if {one_line(', '.join(deeper[:3]))} are the classes, write data.root={train / classes[0]}"
        raise UserError(
            f"data.root={root}: only one class, {one_line(classes[0])}, in {train}; at least two are needed"
            f"{instead if len(deeper) > 1 else ''}"
        )
    val, test = (_split_folder(base, split, root) if parted else None for split in ("val", "test"))
    for folder in (val, test):
        _check_classes(folder, classes, root)
    empty = [name for name in folders if name not in classes]
    return FolderLayout(base, train, val, test, classes, empty)


def list_files(folder: Path, classes: list[str]) -> ImageFiles:
    """Returns the image files of each class under `folder`, at any depth; a class may have none.

    Raises UserError for a HEIC file.
    """
    names: list[str] = []
    labels: list[int] = []
    # folders from macOS may have accents in another Unicode form than the training folder
    accented = not all(map(str.isascii, classes))
    spelled = {nfc(name): name for name in class_folders(folder)} if accented else {}
    for label, known in enumerate(classes):
        name = known if (folder / known).is_dir() else spelled.get(nfc(known))
        if name is None:
            continue
        files = sorted(_images_under(folder / name))
        for file in files:
            reject_heic_name(folder / name / file)
        names += [f"{name}/{file}" for file in files]
        labels += [label] * len(files)
    return ImageFiles(folder, names, labels)


def class_folders(folder: Path) -> list[str]:
    """Returns the sorted names of the folders in `folder`; none if `folder` does not exist."""
    if not folder.is_dir():
        return []
    with _scan(folder) as entries:
        return sorted(entry.name for entry in entries if not _is_hidden(entry.name) and entry.is_dir())


def images_under(folder: Path) -> list[str]:
    """Returns the sorted paths of the image files in and below `folder`, relative to it."""
    return sorted(_images_under(folder))


def loose_images(folder: Path) -> list[str]:
    """Returns the sorted names of the image files directly in `folder`; none if `folder` does not exist."""
    return sorted(_images_under(folder, nested=False)) if folder.is_dir() else []


def reject_heic_name(path: Path) -> None:
    """Raises UserError if `path` has a HEIC suffix."""
    if path.suffix.lower() in HEIC_SUFFIXES:
        raise UserError(heic_message(path))


def unreadable_message(path: str | Path, error: OSError, instead: str = "replace or remove it") -> str:
    """Returns the error message for a file that the system cannot read."""
    return f"{one_line(path)}: cannot be read ({error.strerror or error}); {instead}"


def heic_message(path: str | Path) -> str:
    """Returns the error message for a HEIC file."""
    advice = "convert it to JPEG (for example: magick photo.heic photo.jpg)"
    return f"{one_line(path)}: HEIC images are not supported; {advice}"


def _split_of(name: str) -> str | None:
    """Returns the split of a folder of this name: train, val, test or None."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def _split_folder(base: Path, split: str, root: str) -> Path | None:
    """Returns the folder of `split` in `base` if it contains class folders (with images, for val and test), or None.

    Raises UserError if there are two such folders.
    """
    named = [base / name for name in class_folders(base) if _split_of(name) == split]
    found = [
        folder
        for folder in named
        if any(split == "train" or _contains_images(folder / name) for name in class_folders(folder))
    ]
    if len(found) > 1:
        names = " and ".join(f"{folder.name}/" for folder in found)
        raise UserError(f"data.root={root}: {names} both contain {split} images; keep one of them")
    return found[0] if found else None


def _check_classes(folder: Path | None, classes: list[str], root: str) -> None:
    """Raises UserError if `folder` contains images of a class that is not in `classes`."""
    if folder is None:
        return
    known = set(map(nfc, classes))
    unknown = sorted(
        name for name in class_folders(folder) if nfc(name) not in known and _contains_images(folder / name)
    )
    if unknown:
        named = one_line(", ".join(unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise UserError(f"data.root={root}: {folder.name}/ has classes that train/ lacks: {named}; move or remove them")


def _check_name(folder: Path) -> None:
    """Raises UserError for a class name that is not UTF-8, because class names are written to text files."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{one_line(folder)}: the name of this class folder is not UTF-8; rename it") from None


def _contains_images(folder: Path) -> bool:
    return next(_images_under(folder), None) is not None


def _images_under(folder: Path, nested: bool = True, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yields the paths of the image files in `folder`, relative to it, at any depth if `nested`.

    Hidden files (.DS_Store, ._x.jpg), other types and links to a parent folder are skipped; `above` has the real paths
    of the parent folders. Raises UserError for a folder, a pipe or a broken link with the name of an image.
    """
    inside = []
    with _scan(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 (fast for a million files)
                if not entry.is_file():
                    raise UserError(f"{one_line(entry.path)}: has the name of an image but is not a file; remove it")
                yield entry.name
            elif nested and entry.is_dir():
                inside.append(entry.name)
    if inside:
        above |= {os.path.realpath(folder)}
    for name in inside:
        if os.path.realpath(folder / name) not in above:
            yield from (f"{name}/{file}" for file in _images_under(folder / name, above=above))


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


@contextmanager
def _scan(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Yields the entries of `folder`. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise UserError(unreadable_message(folder, error, "make it readable or remove it")) from error
