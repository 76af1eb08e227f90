"""Which image files a folder of classes holds. No torch here: a folder is checked before torch is imported."""

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

from alexnet_exp.settings import UserError, one_line

# HEIC is listed so that it is refused by name, not silently left out.
HEIC_SUFFIXES = {".heic", ".heif"}
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".avif"),
    *HEIC_SUFFIXES,
}


@dataclass(frozen=True)
class Layout:
    """The folders of class folders under one root, and the classes: those of the training folder that hold an image."""

    train: Path
    val: Path | None
    test: Path | None
    classes: list[str]
    empty: list[str]


class Stamp(NamedTuple):
    """What tells a file from what it is after a change: its size in bytes and the time when it was last written."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Files:
    """Image files under `folder`, as `CLASS/FILE` in sorted order, and the index of each one's class."""

    folder: Path
    names: list[str]
    labels: list[int]

    def paths(self) -> list[str]:
        """The files' full paths."""
        return [os.path.join(self.folder, name) for name in self.names]  # noqa: PTH118 (a million of them)

    @cached_property
    def stamps(self) -> array[int]:
        """Each file's size and time of change, one after the other; they are looked up once, with one call a file."""
        return stamps(self.paths())

    def stamp(self, row: int) -> Stamp:
        """What file number `row` was when this was first asked of any of them."""
        return Stamp(*self.stamps[2 * row : 2 * row + 2])


def stamps(paths: list[str]) -> array[int]:
    """`Files.stamps` of these. Raises UserError for a file that is not there, or is none: a folder, a pipe."""
    noted = array("q")
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 (a million of them)
        except OSError as error:
            raise UserError(unreadable(path, error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{one_line(path)}: is named as an image, but is no file; remove it")
        noted.extend(Stamp.of(status))
    return noted


def find_layout(root: str | None) -> Layout:
    """How images lie under `root`: `train/CLASS/*` (`val/`, `test/` optional) or `CLASS/*`.

    Raises UserError for a folder that is missing, holds no images in class folders, or only one class, and where `val`
    or `test` has a class that `train` lacks.
    """
    if root is None:
        raise UserError(
            "data.root=null: must be a folder of images, as train/CLASS/* or CLASS/*; write data.root=FOLDER"
        )
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"data.root={root}: there is no such folder")
    # a folder `train` without folders in it is a class of that name
    parted = bool(class_folders(base / "train"))
    train = base / "train" if parted else base
    folders = class_folders(train)
    classes = [name for name in folders if next(_images_in(train / name), None)]
    for name in classes:
        _check_name(train / name)
    if not classes:
        raise UserError(f"data.root={root}: no images in class folders; lay them as train/CLASS/* or CLASS/*")
    if len(classes) == 1:
        raise UserError(
            f"data.root={root}: only one class, {one_line(classes[0])}, in {train}; at least two are needed"
        )
    val, test = (_part(base / part, classes, root) if parted else None for part in ("val", "test"))
    return Layout(train, val, test, classes, [name for name in folders if name not in classes])


def list_files(folder: Path, classes: list[str]) -> Files:
    """The image files of each class under `folder`; a class may have none. Raises UserError for a HEIC file."""
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        files = sorted(_images_in(folder / name))
        for file in files:
            refuse_heic_name(folder / name / file)
        names += [f"{name}/{file}" for file in files]
        labels += [label] * len(files)
    return Files(folder, names, labels)


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder`; none where there is no such folder."""
    if not folder.is_dir():
        return []
    with _listed(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith((".", "__MACOSX")) and e.is_dir())


def loose_images(folder: Path) -> list[str]:
    """Sorted names of the image files directly in `folder`; none where there is no such folder."""
    return sorted(_images_in(folder)) if folder.is_dir() else []


def refuse_heic_name(path: Path) -> None:
    """Raises UserError if the name of `path` says that it is HEIC."""
    if path.suffix.lower() in HEIC_SUFFIXES:
        raise UserError(heic(path))


def unreadable(path: str | Path, error: OSError, instead: str = "replace or remove it") -> str:
    """The line for a file that the system does not give."""
    return f"{one_line(path)}: cannot be read ({error.strerror or error}); {instead}"


def heic(path: str | Path) -> str:
    """The line that a HEIC file gets."""
    return (
        f"{one_line(path)}: HEIC images cannot be read; convert it to JPEG (for instance: magick photo.heic photo.jpg)"
    )


def _part(folder: Path, classes: list[str], root: str) -> Path | None:
    """`folder` if it holds class folders with images, all of them among `classes`."""
    found = [name for name in class_folders(folder) if next(_images_in(folder / name), None)]
    unknown = sorted(set(found) - set(classes))
    if unknown:
        named = one_line(", ".join(unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise UserError(f"data.root={root}: {folder.name}/ has classes that train/ lacks: {named}; move or remove them")
    return folder if found else None


def _check_name(folder: Path) -> None:
    """The classes' names go into files of text. Raises UserError for one that is no text."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{one_line(folder)}: the folder's name is not in UTF-8, and is a class's; rename it") from None


def _images_in(folder: Path) -> Iterator[str]:
    """Names of the image files directly in `folder`; hidden files (.DS_Store, ._x.jpg) and other types are left out.

    Raises UserError for what is named as an image, but is a folder, a pipe or a link that leads nowhere.
    """
    with _listed(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                if not entry.is_file():
                    raise UserError(f"{one_line(entry.path)}: is named as an image, but is no file; remove it")
                yield entry.name


@contextmanager
def _listed(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    """The entries of `folder`. Raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise UserError(unreadable(folder, error, "make it readable, or remove it")) from error
