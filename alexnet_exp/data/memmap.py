"""Provides decoded images of a memory-mapped file, each checked by a checksum before its first use.

All processes that map the file (ranks, jobs of a sweep, other runs) share one copy of its pages. Checking all images at
the start would read hundreds of gigabytes.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_exp.errors import one_line

log = logging.getLogger(__name__)

CHECKSUM_DTYPE = np.dtype("<u4")


def checksum(image: Tensor) -> int:
    """Returns the CRC-32 of the pixels of one image."""
    return zlib.crc32(image.numpy().data)


class MappedImages:
    """The images of a file: uint8 `shape` [N, C, H, W] from byte `start`, followed by their checksums."""

    def __init__(self, path: Path, shape: tuple[int, int, int, int], start: int):
        self.path, self.start = path, start
        # mode "c" (copy on write): torch warns about read-only arrays, and repairs stay in this process
        self.array = torch.from_numpy(np.memmap(path, np.uint8, "c", start, shape))
        self.image_bytes = self.array[0].numel()
        self.sums = np.fromfile(path, CHECKSUM_DTYPE, offset=start + self.array.numel())
        self._unchecked = torch.ones(len(self.array), dtype=torch.bool)
        self._has_warned = False

    def damaged(self, rows: Tensor) -> Tensor:
        """Returns the positions in `rows` [n] of images that differ from their checksums: int64 [m].

        An intact image is checked once.
        """
        unchecked = self._unchecked[rows].nonzero().flatten()
        differs = [checksum(self.array[row]) != self.sums[row] for row in rows[unchecked].tolist()]
        is_damaged = torch.tensor(differs, dtype=torch.bool)
        self._unchecked[rows[unchecked[~is_damaged]]] = False
        return unchecked[is_damaged]

    def repair(self, row: int, image: Tensor) -> None:
        """Replaces a damaged image with `image`, also in the file if it is writable."""
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                f"{one_line(self.path)}: image {row} is damaged on the disk; such images are decoded again from their "
                "files, without loss of data"
            )
        self.array[row] = image
        self.sums[row] = checksum(image)
        self._unchecked[row] = False
        try:
            with self.path.open("r+b") as file:
                file.seek(self.start + row * self.image_bytes)
                file.write(image.numpy().data)
                file.seek(self.start + self.array.numel() + row * CHECKSUM_DTYPE.itemsize)
                file.write(self.sums[row].tobytes())
        except OSError:  # every process then repairs its own copy
            pass
