"""Small images decoded once: a plain .npy file, named by what it was made from, so that a stale one is never read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_exp.data.images import read_images
from alexnet_exp.data.listing import Files
from alexnet_exp.settings import UserError


def decoded(files: Files, size: int, folder: Path) -> Tensor:
    """uint8 [N, 3, size, size] of `files`, from the cache in `folder` or decoded and put there.

    Mapped into memory: several processes share one copy, and it is read as it is needed. An older file of the same
    folder (an image was added, removed or touched since) is deleted when the new one stands.
    """
    stem = f"{files.folder.name}-{size}px-{_digest(str(files.folder.resolve()))}"
    path = folder / f"{stem}-{_digest(*_states(files))}.npy"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, files, size)
        except OSError as error:
            raise UserError(
                f"data.cache={folder}: cannot be written ({error.strerror}); write data.cache=FOLDER"
            ) from error
        for stale in set(folder.glob(f"{stem}-*.npy")) - {path}:
            stale.unlink(missing_ok=True)
    # "c": torch warns of an array that it could not write to
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _write(path: Path, files: Files, size: int) -> None:
    """Image after image: a full disk then is an error, where it would kill a process that maps the file."""
    part = path.with_suffix(f".{os.getpid()}.part")
    shape = (len(files.names), 3, size, size)
    try:
        with part.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for image in read_images(files.paths(), size, f"Decoding {files.folder.name}"):
                file.write(image.numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _states(files: Files) -> list[str]:
    stats = (os.stat(path) for path in files.paths())  # noqa: PTH116 (60,000 of them)
    return [f"{name}\0{s.st_size}\0{s.st_mtime_ns}" for name, s in zip(files.names, stats, strict=True)]


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\n".join(texts).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
