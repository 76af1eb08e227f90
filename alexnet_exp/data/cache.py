"""Provides a cache of decoded images in an .npy file whose name depends on its sources, so that it is never stale.

After the array, where readers of .npy files ignore it, the file has the checksum of each image for `MappedImages`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from glob import escape
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from alexnet_exp.atomic import file_lock
from alexnet_exp.data.decode import read_image, read_images
from alexnet_exp.data.image_files import ImageFiles
from alexnet_exp.data.memmap import CHECKSUM_DTYPE, MappedImages, checksum
from alexnet_exp.data.spec import Decode
from alexnet_exp.errors import UserError

BYTES_PER_GB = 10**9
# Limits of `data.decode=auto`: a minute or two of decoding on two cores, acceptable before an evaluation too, and a
# share of the free disk.
AUTO_BYTES = 8 * BYTES_PER_GB
AUTO_DISK_FRACTION = 0.1
# Written pixels are synced to the disk after this many bytes.
SYNC_BYTES = 1 << 28
# Version of data/decode.py and of the cache file. Increase it with every change of pixels or format.
DECODER_VERSION = f"4, torchvision {version('torchvision')}"  # its import would take two seconds


def load_decoded(files: ImageFiles, size: int, folder: Path) -> Tensor:
    """Returns `files` as uint8 [N, 3, size, size], from the cache in `folder`, which is created first if needed.

    Each image is checked. Older cache files of the same folder (before an image was added, removed or touched) are
    deleted after the new one is complete. Raises UserError if the cache cannot be written or read.
    """
    cache_file = _CacheFile(files, size, folder)
    try:
        images = cache_file.open()
    except OSError as error:
        raise UserError(_unusable_message(folder, error)) from error
    for row in images.damaged(torch.arange(len(files.names))).tolist():
        images.repair(row, read_image(files.folder / files.names[row], size, files.stamp(row)))
    return images.array


def open_cache(files: ImageFiles, size: int, decode: Decode, folder: Path) -> tuple[MappedImages | None, str]:
    """Returns the cached images (None if `decode` says that they are decoded at each use) and a text for the log.

    Raises UserError if `decode` is `once` and the disk is too small, or if `folder` cannot be written or read.
    """
    if decode is Decode.always:
        return None, "decoded at each use (data.decode=always)"
    cache_file = _CacheFile(files, size, folder)
    try:
        if not cache_file.is_complete():
            free = _free_bytes(folder)
            needed = f"{cache_file.bytes / BYTES_PER_GB:.3g} GB of decoded images"
            space = f"{needed}, {free / BYTES_PER_GB:.3g} GB free in {folder}"
            if decode is Decode.once and cache_file.bytes > free:
                raise UserError(
                    f"data.decode=once: {space}; write data.cache=FOLDER on a larger disk, or data.decode=always"
                )
            if decode is Decode.auto and cache_file.bytes > min(AUTO_BYTES, AUTO_DISK_FRACTION * free):
                return None, f"decoded at each use ({space}; data.decode=once caches them)"
        return cache_file.open(), f"decoded once into {folder}"
    except OSError as error:
        if decode is Decode.auto:
            return None, f"decoded at each use ({_unusable_message(folder, error)})"
        raise UserError(_unusable_message(folder, error)) from error


def _unusable_message(folder: Path, error: OSError) -> str:
    return f"data.cache={folder}: not usable ({error.strerror or error}); write another data.cache=FOLDER"


def short_hash(*texts: str) -> str:
    """Returns a short hexadecimal hash of the texts, for file names."""
    return hashlib.blake2b("\n".join(texts).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()


class _CacheFile:
    """The cache file of `files` with stored side `size` in `folder`."""

    def __init__(self, files: ImageFiles, size: int, folder: Path):
        self.files, self.size, self.folder = files, size, folder
        self.stem = f"{files.folder.name}-{size}px-{short_hash(str(files.folder.resolve()))}"
        self.path = folder / f"{self.stem}-{short_hash(DECODER_VERSION, *_file_keys(files))}.npy"
        self.shape = (len(files.names), 3, size, size)
        self.image_bytes = 3 * size * size
        self.bytes = len(files.names) * self.image_bytes

    def is_complete(self) -> bool:
        """Returns whether the file exists and is complete by header and length. Raises OSError if it cannot be read."""
        header = self._header()
        try:
            with self.path.open("rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(0)
                has_length = length == len(header) + self.bytes + len(self.files.names) * CHECKSUM_DTYPE.itemsize
                return has_length and file.read(len(header)) == header
        except (FileNotFoundError, NotADirectoryError):
            return False

    def open(self) -> MappedImages:
        """Returns the images, after this or another process has written the file if it was not complete.

        Raises OSError if it cannot be written or read, and UserError for a damaged source image.
        """
        if not self.is_complete():
            self._create()
        return MappedImages(self.path, self.shape, len(self._header()))

    def _create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path.with_suffix(".part")) as file:
            part = Path(file.name)
            sums = part.with_suffix(".sums")
            try:
                if not self.is_complete():
                    with sums.open("a+b", buffering=0) as sums_file:
                        self._write(file, sums_file)
                    part.replace(self.path)
            except (OSError, UserError):
                # not resumable: the disk is full, or an image has to be replaced
                part.unlink(missing_ok=True)
                sums.unlink(missing_ok=True)
                raise
            part.unlink(missing_ok=True)
            sums.unlink(missing_ok=True)
        # complete files only: an incomplete one belongs to the process that writes it
        for stale in set(self.folder.glob(f"{escape(self.stem)}-*.npy")) - {self.path}:
            with suppress(OSError):  # of another user, in a shared folder
                stale.unlink()

    def _write(self, file: BinaryIO, sums_file: BinaryIO) -> None:
        """Writes the images to `file` and their checksums to `sums_file`; appends the checksums at the end.

        The file is not memory-mapped here, because a full disk would then kill the process instead of raising OSError.
        """
        header = self._header()
        done = self._count_written(file, sums_file)
        file.truncate(len(header) + done * self.image_bytes if done else 0)
        sums_file.truncate(done * CHECKSUM_DTYPE.itemsize)
        file.seek(0, os.SEEK_END)
        if not done:
            file.write(header)
        todo = [(path, self.files.stamp(row)) for row, path in enumerate(self.files.paths())][done:]
        block = max(1, SYNC_BYTES // self.image_bytes)  # images
        for number, image in enumerate(read_images(todo, self.size, f"Decoding {self.files.folder.name}"), done + 1):
            file.write(image.numpy().data)
            sums_file.write(CHECKSUM_DTYPE.type(checksum(image)).tobytes())
            if number % block == 0:
                file.flush()
                os.fsync(file.fileno())
        sums_file.seek(0)
        file.write(sums_file.read())
        file.flush()
        os.fsync(file.fileno())

    def _count_written(self, file: BinaryIO, sums_file: BinaryIO) -> int:
        """Returns the number of valid images of an interrupted writer, before the first damaged or missing one."""
        file.seek(0)
        header = self._header()
        if file.read(len(header)) != header:
            return 0
        sums_file.seek(0)
        content = sums_file.read()
        sums = np.frombuffer(content, CHECKSUM_DTYPE, len(content) // CHECKSUM_DTYPE.itemsize)[: len(self.files.names)]
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
    """Returns the free bytes of the disk of `folder`, which may not exist yet."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(existing).free


def _file_keys(files: ImageFiles) -> Iterator[str]:
    for row, name in enumerate(files.names):
        stamp = files.stamp(row)
        yield f"{name}\0{stamp.size}\0{stamp.mtime_ns}"
