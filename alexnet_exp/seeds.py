"""Provides the seed of every random stream as a function of the run's seed and of the place where it is used.

No stream depends on earlier draws: the order is f(seed, epoch), augmentation and dropout are f(seed, epoch, batch,
rank). A resumed run therefore draws the same numbers as an uninterrupted one. This module does not import torch.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *where: int | str) -> int:
    """Returns a 63-bit seed for the place `where`, e.g. `derive(seed, "order", epoch)`.

    Different places give unrelated seeds (BLAKE2b). With `seed + epoch`, seed 1 in epoch 2 would repeat seed 2 in
    epoch 1. Valid for `torch.Generator.manual_seed` and `numpy.random.default_rng`.
    """
    text = "/".join([str(int(seed)), *map(str, where)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
