"""Decoded images in a file, mapped into memory, each with a checksum that is looked at before the image is first used.

The pages are the system's, one copy for all processes that map them: ranks, the jobs of a sweep, a second run. To check
all of them at the start would be to read hundreds of gigabytes.
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
    """CRC-32 of the pixels of one image."""
    return zlib.crc32(image.numpy().data)


class MappedImages:
    """The images of a file: uint8 `shape` [N, C, H, W] from byte `start` on, then their checksums."""

    def __init__(self, path: Path, shape: tuple[int, int, int, int], start: int):
        self.path, self.start = path, start
        # "c": torch warns of an array that it could not write to; and what is mended here is this process's own
        self.array = torch.from_numpy(np.memmap(path, np.uint8, "c", start, shape))
        self.image_bytes = self.array[0].numel()
        self.sums = np.fromfile(path, CHECKSUM_DTYPE, offset=start + self.array.numel())
        self._unchecked = torch.ones(len(self.array), dtype=torch.bool)
        self._told = False

    def damaged(self, rows: Tensor) -> Tensor:
        """Which of `rows` [n], as positions in it, differ from their checksums: int64 [m]. A whole one is read once."""
        fresh = self._unchecked[rows].nonzero().flatten()
        differs = [checksum(self.array[row]) != self.sums[row] for row in rows[fresh].tolist()]
        bad = torch.tensor(differs, dtype=torch.bool)
        self._unchecked[rows[fresh[~bad]]] = False
        return fresh[bad]

    def mend(self, row: int, image: Tensor) -> None:
        """Puts `image` in place of the damaged one, in the file too if it can be written."""
        if not self._told:
            self._told = True
            log.warning(
                f"{one_line(self.path)}: image {row} was damaged on the disk; such images are decoded anew from their "
                "files, nothing is lost"
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
        except OSError:  # then every process mends its own
            pass
