"""Images decoded once: a plain .npy file, named by what it was made from, so that a stale one is never read.

Behind the pixels, where readers of .npy files do not look, it has a checksum of each image, for `MappedImages`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from glob import escape
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
import torch
import torchvision
from torch import Tensor

from alexnet_exp.atomic import file_lock
from alexnet_exp.data.decode import read_image, read_images
from alexnet_exp.data.image_files import ImageFiles
from alexnet_exp.data.memmap import CHECKSUM_DTYPE, MappedImages, checksum
from alexnet_exp.data.spec import Decode
from alexnet_exp.errors import UserError

BYTES_PER_GB = 10**9
# What `data.decode=auto` keeps: a minute or two of decoding on two cores, which an evaluation can wait for as well.
AUTO_BYTES = 8 * BYTES_PER_GB
AUTO_DISK_FRACTION = 0.1
# Pixels wait to be written to the disk up to this many bytes of them.
SYNC_BYTES = 1 << 28
# Of the way from a file's bytes to pixels (data/images.py), and of the cache file: counted up with every change.
DECODER_VERSION = f"4, torchvision {torchvision.__version__}"


def load_decoded(files: ImageFiles, size: int, folder: Path) -> Tensor:
    """uint8 [N, 3, size, size] of `files`, from the cache in `folder` or decoded and put there; each image is checked.

    An older file of the same folder (an image was added, removed or touched since) is deleted when the new one stands.
    Raises UserError where it cannot be written, or read.
    """
    cached = _CacheFile(files, size, folder)
    try:
        images = cached.opened()
    except OSError as error:
        raise UserError(_unusable_message(folder, error)) from error
    for row in images.damaged(torch.arange(len(files.names))).tolist():
        images.mend(row, read_image(files.folder / files.names[row], size, files.stamp(row)))
    return images.array


def open_cache(files: ImageFiles, size: int, decode: Decode, folder: Path) -> tuple[MappedImages | None, str]:
    """The images as far as `decode` keeps them, or None: to be decoded at each use; and which it is, in a few words.

    Raises UserError where `decode` is once and the disk has no room, or `folder` cannot be written, or read.
    """
    if decode is Decode.always:
        return None, "decoded at each use, as data.decode=always asks"
    cached = _CacheFile(files, size, folder)
    try:
        if not cached.ready():
            free = _free_bytes(folder)
            needed = (
                f"{cached.bytes / BYTES_PER_GB:.3g} GB of decoded images, {free / BYTES_PER_GB:.3g} GB free in {folder}"
            )
            if decode is Decode.once and cached.bytes > free:
                raise UserError(
                    f"data.decode=once: {needed}; write data.cache=FOLDER on a disk with room, or data.decode=always"
                )
            if decode is Decode.auto and cached.bytes > min(AUTO_BYTES, AUTO_DISK_FRACTION * free):
                return None, f"decoded at each use ({needed}; data.decode=once keeps them)"
        return cached.opened(), f"decoded once, into {folder}"
    except OSError as error:
        if decode is Decode.auto:
            return None, f"decoded at each use ({_unusable_message(folder, error)})"
        raise UserError(_unusable_message(folder, error)) from error


def _unusable_message(folder: Path, error: OSError) -> str:
    return f"data.cache={folder}: cannot be used ({error.strerror or error}); write data.cache=FOLDER"


def short_hash(*texts: str) -> str:
    """A short name for these texts."""
    return hashlib.blake2b("\n".join(texts).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()


class _CacheFile:
    """The file that holds `files` at `size`, in `folder`."""

    def __init__(self, files: ImageFiles, size: int, folder: Path):
        self.files, self.size, self.folder = files, size, folder
        self.stem = f"{files.folder.name}-{size}px-{short_hash(str(files.folder.resolve()))}"
        self.path = folder / f"{self.stem}-{short_hash(DECODER_VERSION, *_file_keys(files))}.npy"
        self.shape = (len(files.names), 3, size, size)
        self.image_bytes = 3 * size * size
        self.bytes = len(files.names) * self.image_bytes

    def ready(self) -> bool:
        """Whether it stands, whole as far as header and length tell. Raises OSError where it cannot be read."""
        header = self._header()
        try:
            with self.path.open("rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(0)
                whole = length == len(header) + self.bytes + len(self.files.names) * CHECKSUM_DTYPE.itemsize
                return whole and file.read(len(header)) == header
        except (FileNotFoundError, NotADirectoryError):
            return False

    def opened(self) -> MappedImages:
        """What is in it; it is written before where it does not stand yet, by this process or one that began before.

        Raises OSError where it cannot be written or read, and UserError for a damaged image.
        """
        if not self.ready():
            self._make()
        return MappedImages(self.path, self.shape, len(self._header()))

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path.with_suffix(".part")) as file:
            part = Path(file.name)
            sums = part.with_suffix(".sums")
            try:
                if not self.ready():
                    with sums.open("a+b", buffering=0) as beside:
                        self._write(file, beside)
                    part.replace(self.path)
            except (OSError, UserError):
                # not continued: the disk needs the room, or an image will be another
                part.unlink(missing_ok=True)
                sums.unlink(missing_ok=True)
                raise
            part.unlink(missing_ok=True)
            sums.unlink(missing_ok=True)
        # the finished ones: what another process is writing is its own
        for stale in set(self.folder.glob(f"{escape(self.stem)}-*.npy")) - {self.path}:
            with suppress(OSError):  # of another user's, in a folder for all
                stale.unlink()

    def _write(self, file: BinaryIO, beside: BinaryIO) -> None:
        """Image after image, each one's checksum to `beside`; at the end the checksums behind the images.

        Written, not mapped: a full disk then is an error, where it would kill a process that maps the file.
        """
        header = self._header()
        done = self._done(file, beside)
        file.truncate(len(header) + done * self.image_bytes if done else 0)
        beside.truncate(done * CHECKSUM_DTYPE.itemsize)
        file.seek(0, os.SEEK_END)
        if not done:
            file.write(header)
        todo = [(path, self.files.stamp(row)) for row, path in enumerate(self.files.paths())][done:]
        block = max(1, SYNC_BYTES // self.image_bytes)  # images
        for number, image in enumerate(read_images(todo, self.size, f"Decoding {self.files.folder.name}"), done + 1):
            file.write(image.numpy().data)
            beside.write(CHECKSUM_DTYPE.type(checksum(image)).tobytes())
            if number % block == 0:
                file.flush()
                os.fsync(file.fileno())
        beside.seek(0)
        file.write(beside.read())
        file.flush()
        os.fsync(file.fileno())

    def _done(self, file: BinaryIO, beside: BinaryIO) -> int:
        """How many images of an interrupted writer are there: those before the first that is not what it wrote."""
        file.seek(0)
        header = self._header()
        if file.read(len(header)) != header:
            return 0
        beside.seek(0)
        noted = beside.read()
        sums = np.frombuffer(noted, CHECKSUM_DTYPE, len(noted) // CHECKSUM_DTYPE.itemsize)[: len(self.files.names)]
        for done, wanted in enumerate(sums):
            image = file.read(self.image_bytes)
            if len(image) < self.image_bytes or crc32(image) != wanted:
                return done
        return len(sums)

    def _header(self) -> bytes:
        header = BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": self.shape})
        return header.getvalue()


def _free_bytes(folder: Path) -> int:
    """Bytes free on the disk where `folder` is, or will be made."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(there).free


def _file_keys(files: ImageFiles) -> Iterator[str]:
    for row, name in enumerate(files.names):
        stamp = files.stamp(row)
        yield f"{name}\0{stamp.size}\0{stamp.mtime_ns}"
