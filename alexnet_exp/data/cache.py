"""Images decoded once: a plain .npy file, named by what it was made from, so that a stale one is never read.

The file is mapped into memory. Its pages are the system's, one copy for all processes that map it: ranks, the jobs of a
sweep, a second run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torchvision
from torch import Tensor

from alexnet_exp.data.images import read_images
from alexnet_exp.data.listing import Files
from alexnet_exp.data.spec import Decode
from alexnet_exp.settings import UserError

GB = 10**9
# What `data.decode=auto` keeps: a minute or two of decoding on two cores, which an evaluation can wait for as well.
AUTO_BYTES = 8 * GB
AUTO_SHARE = 0.1
# A file being written is on the disk up to a multiple of this: from there an interrupted one is continued.
SYNC_BYTES = 1 << 28
# Of the way from a file's bytes to pixels (data/images.py): counted up with every change that may move one of them.
DECODER = f"2, torchvision {torchvision.__version__}"


def decoded(files: Files, size: int, folder: Path) -> Tensor:
    """uint8 [N, 3, size, size] of `files`, from the cache in `folder` or decoded and put there.

    An older file of the same folder (an image was added, removed or touched since) is deleted when the new one stands.
    Raises UserError where it cannot be written.
    """
    cached = _Cached(files, size, folder)
    try:
        cached.make()
    except OSError as error:
        raise UserError(_unwritable(folder, error)) from error
    return mapped(cached.path)


def kept(files: Files, size: int, decode: Decode, folder: Path) -> tuple[Tensor | None, str]:
    """`decoded` as far as `decode` allows it, or None: to be decoded at each use; and which it is, in a few words.

    Raises UserError where `decode` is once and the disk has no room, or `folder` cannot be written.
    """
    if decode is Decode.always:
        return None, "decoded at each use, as data.decode=always asks"
    cached = _Cached(files, size, folder)
    if not cached.ready():
        free = _free(folder)
        needed = f"{cached.bytes / GB:.3g} GB of decoded images, {free / GB:.3g} GB free in {folder}"
        if decode is Decode.once and cached.bytes > free:
            raise UserError(
                f"data.decode=once: {needed}; write data.cache=FOLDER on a disk with room, or data.decode=always"
            )
        if decode is Decode.auto and cached.bytes > min(AUTO_BYTES, AUTO_SHARE * free):
            return None, f"decoded at each use ({needed}; data.decode=once keeps them)"
    try:
        cached.make()
    except OSError as error:
        if decode is Decode.auto:
            return None, f"decoded at each use ({_unwritable(folder, error)})"
        raise UserError(_unwritable(folder, error)) from error
    return mapped(cached.path), f"decoded once, into {folder}"


def mapped(path: Path) -> Tensor:
    """The array in a .npy file, mapped into memory."""
    # "c": torch warns of an array that it could not write to
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _unwritable(folder: Path, error: OSError) -> str:
    return f"data.cache={folder}: cannot be written ({error.strerror}); write data.cache=FOLDER"


def digest(*texts: str) -> str:
    """A short name for these texts."""
    return hashlib.blake2b("\n".join(texts).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()


class _Cached:
    """The file that holds `files` at `size`, in `folder`."""

    def __init__(self, files: Files, size: int, folder: Path):
        self.files, self.size, self.folder = files, size, folder
        self.stem = f"{files.folder.name}-{size}px-{digest(str(files.folder.resolve()))}"
        self.path = folder / f"{self.stem}-{digest(DECODER, *_states(files))}.npy"
        self.image_bytes = 3 * size * size
        self.bytes = len(files.names) * self.image_bytes

    def ready(self) -> bool:
        """Whether it stands, whole."""
        return self.path.exists() and self.path.stat().st_size == len(self._header()) + self.bytes

    def make(self) -> None:
        """Writes it where it does not stand yet, or waits for the process that does.

        Raises OSError where it cannot be written, and UserError for a damaged image.
        """
        if self.ready():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with _held(self.path.with_suffix(".part")) as file:
            part = Path(file.name)
            try:
                if not self.ready():
                    self._write(file)
                    part.replace(self.path)
            except (OSError, UserError):
                # not continued: the disk needs the room, or an image will be another
                part.unlink(missing_ok=True)
                raise
            part.unlink(missing_ok=True)
        # the finished ones: what another process is writing is its own
        for stale in set(self.folder.glob(f"{escape(self.stem)}-*.npy")) - {self.path}:
            stale.unlink(missing_ok=True)

    def _write(self, file: BinaryIO) -> None:
        """Image after image: a full disk then is an error, where it would kill a process that maps the file."""
        header = self._header()
        block = max(1, SYNC_BYTES // self.image_bytes)  # images
        # whole blocks with something after them: each was on the disk before the next was begun
        blocks = max(0, file.seek(0, os.SEEK_END) - len(header) - 1) // (block * self.image_bytes)
        done = min(blocks * block, len(self.files.names))
        file.truncate(len(header) + done * self.image_bytes if done else 0)
        file.seek(0, os.SEEK_END)
        if not done:
            file.write(header)
        paths = self.files.paths()[done:]
        for number, image in enumerate(read_images(paths, self.size, f"Decoding {self.files.folder.name}"), done + 1):
            file.write(image.numpy().data)
            if number % block == 0 or number == len(self.files.names):
                file.flush()
                os.fsync(file.fileno())

    def _header(self) -> bytes:
        shape = (len(self.files.names), 3, self.size, self.size)
        header = BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return header.getvalue()


@contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`, open and locked: of several processes one writes, and the others wait for it."""
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # whoever had the lock may have renamed or removed the file meanwhile
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue
            yield file
            return


def _free(folder: Path) -> int:
    """Bytes free on the disk where `folder` is, or will be made."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(there).free


def _states(files: Files) -> list[str]:
    stats = (os.stat(path) for path in files.paths())  # noqa: PTH116 (60,000 of them)
    return [f"{name}\0{s.st_size}\0{s.st_mtime_ns}" for name, s in zip(files.names, stats, strict=True)]
