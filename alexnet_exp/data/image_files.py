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

from alexnet_exp.errors import UserError, nfc, one_line

# HEIC is listed so that it is refused by name, not silently left out.
HEIC_SUFFIXES = {".heic", ".heif"}
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".avif"),
    *HEIC_SUFFIXES,
}


# The names of a split's folder, in any case: torchvision's and Keras's, Roboflow's, Hugging Face's.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class FolderLayout:
    """The folders of class folders under one root, and the classes: those of the training folder that hold an image.

    empty: class folders of the training folder without images.
    """

    root: Path
    train: Path
    val: Path | None
    test: Path | None
    classes: list[str]
    empty: list[str]

    def unused_images(self) -> list[str]:
        """What holds images that are not used: folders beside train/, and images outside class folders."""
        used = {folder for folder in (self.train, self.val, self.test) if folder}
        beside = [] if self.train == self.root else [self.root / name for name in class_folders(self.root)]
        found = [f"{folder.name}/" for folder in beside if folder not in used and _holds_images(folder)]
        for folder in sorted({self.root, *used}):
            count = len(loose_images(folder))
            if count:
                found.append(f"{count:,} image{'s' if count > 1 else ''} directly in {folder.name}/")
        return found


class FileStamp(NamedTuple):
    """What tells a file from what it is after a change: its size in bytes and the time when it was last written."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class ImageFiles:
    """Image files under `folder`, as `CLASS/FILE` in sorted order, and the index of each one's class.

    A file deeper in a class's folder is `CLASS/FOLDER/FILE`.
    """

    folder: Path
    names: list[str]
    labels: list[int]

    def paths(self) -> list[str]:
        """The files' full paths."""
        return [os.path.join(self.folder, name) for name in self.names]  # noqa: PTH118 (a million of them)

    @cached_property
    def stamps(self) -> array[int]:
        """Each file's size and time of change, one after the other; they are looked up once, with one call a file."""
        return read_stamps(self.paths())

    def stamp(self, row: int) -> FileStamp:
        """What file number `row` was when this was first asked of any of them."""
        return FileStamp(*self.stamps[2 * row : 2 * row + 2])


def read_stamps(paths: list[str]) -> array[int]:
    """`Files.stamps` of these. Raises UserError for a file that is not there, or is none: a folder, a pipe."""
    noted = array("q")
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 (a million of them)
        except OSError as error:
            raise UserError(unreadable_message(path, error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{one_line(path)}: is named as an image, but is no file; remove it")
        noted.extend(FileStamp.of(status))
    return noted


def find_layout(root: str | None) -> FolderLayout:
    """How images are laid out under `root`: `train/CLASS/*` (`val/`, `test/` optional) or `CLASS/*`.

    A split's folder may have any name of `SPLIT_NAMES`. Images are found at any depth below their class folder, as
    torchvision's ImageFolder finds them. Raises UserError for a folder that is missing, holds no images in class
    folders, has one class only, or two folders for one split, and where `val` or `test` has a class that `train` lacks.
    """
    if root is None:
        raise UserError(
            "data.root=null: must be a folder of images, as train/CLASS/* or CLASS/*; write data.root=FOLDER"
        )
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"data.root={root}: there is no such folder")
    # a folder `train` without folders in it is a class of that name
    parted = _split_folder(base, "train", root)
    train = parted or base
    folders = class_folders(train)
    classes = [name for name in folders if _holds_images(train / name)]
    for name in classes:
        _check_name(train / name)
    twice = next((name for name in classes if name != nfc(name) and nfc(name) in classes), None)
    if twice is not None:
        raise UserError(
            f"data.root={root}: two class folders have the same name, {one_line(nfc(twice))}, in two Unicode forms; "
            "rename or join them"
        )
    if not classes:
        raise UserError(f"data.root={root}: no images in class folders; lay them as train/CLASS/* or CLASS/*")
    if not parted and all(_split_of(name) and class_folders(base / name) for name in classes):
        found = one_line(", ".join(classes))
        raise UserError(
            f"data.root={root}: has {found}, but no training folder; name the folder of training images train"
        )
    if len(classes) == 1:
        deeper = class_folders(train / classes[0])
        instead = f"; if {one_line(', '.join(deeper[:3]))} are classes, write data.root={train / classes[0]}"
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
    """The image files of each class under `folder`, at any depth; a class may have none.

    Raises UserError for a HEIC file.
    """
    names: list[str] = []
    labels: list[int] = []
    # an archive made on macOS may spell an accent otherwise than the training images' folder does
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
    """Sorted names of the folders in `folder`; none where there is no such folder."""
    if not folder.is_dir():
        return []
    with _scan(folder) as entries:
        return sorted(entry.name for entry in entries if not _is_hidden(entry.name) and entry.is_dir())


def images_under(folder: Path) -> list[str]:
    """Sorted names of the image files in `folder` and in the folders below it, relative to it."""
    return sorted(_images_under(folder))


def loose_images(folder: Path) -> list[str]:
    """Sorted names of the image files directly in `folder`; none where there is no such folder."""
    return sorted(_images_under(folder, nested=False)) if folder.is_dir() else []


def reject_heic_name(path: Path) -> None:
    """Raises UserError if the name of `path` says that it is HEIC."""
    if path.suffix.lower() in HEIC_SUFFIXES:
        raise UserError(heic_message(path))


def unreadable_message(path: str | Path, error: OSError, instead: str = "replace or remove it") -> str:
    """The line for a file that the system does not give."""
    return f"{one_line(path)}: cannot be read ({error.strerror or error}); {instead}"


def heic_message(path: str | Path) -> str:
    """The line that a HEIC file gets."""
    return (
        f"{one_line(path)}: HEIC images cannot be read; convert it to JPEG (for instance: magick photo.heic photo.jpg)"
    )


def _split_of(name: str) -> str | None:
    """The split that a folder of this name holds: train, val or test."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def _split_folder(base: Path, split: str, root: str) -> Path | None:
    """The folder of `split` in `base`, if it holds class folders; for val and test, class folders with images.

    Raises UserError where two folders are named so.
    """
    named = [base / name for name in class_folders(base) if _split_of(name) == split]
    found = [
        folder
        for folder in named
        if any(split == "train" or _holds_images(folder / name) for name in class_folders(folder))
    ]
    if len(found) > 1:
        names = " and ".join(f"{folder.name}/" for folder in found)
        raise UserError(f"data.root={root}: {names} both hold {split} images; keep one of them")
    return found[0] if found else None


def _check_classes(folder: Path | None, classes: list[str], root: str) -> None:
    """Raises UserError where `folder` holds images of a class that is not among `classes`."""
    if folder is None:
        return
    known = set(map(nfc, classes))
    unknown = sorted(name for name in class_folders(folder) if nfc(name) not in known and _holds_images(folder / name))
    if unknown:
        named = one_line(", ".join(unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise UserError(f"data.root={root}: {folder.name}/ has classes that train/ lacks: {named}; move or remove them")


def _check_name(folder: Path) -> None:
    """The classes' names go into files of text. Raises UserError for one that is no text."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{one_line(folder)}: the folder's name is not in UTF-8, and is a class's; rename it") from None


def _holds_images(folder: Path) -> bool:
    return next(_images_under(folder), None) is not None


def _images_under(folder: Path, nested: bool = True, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of the image files in `folder`, relative to it, and at any depth below it unless `nested` is false.

    Hidden files (.DS_Store, ._x.jpg), other types, and links to a folder that holds them are left out: `above` has the
    real paths of the folders on the way down. Raises UserError for what is named as an image, but is a folder, a pipe
    or a link that leads nowhere.
    """
    inside = []
    with _scan(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 (a million of them)
                if not entry.is_file():
                    raise UserError(f"{one_line(entry.path)}: is named as an image, but is no file; remove it")
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
    """The entries of `folder`. Raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise UserError(unreadable_message(folder, error, "make it readable, or remove it")) from error
