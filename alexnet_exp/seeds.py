"""Where randomness comes from: every stream of random numbers is a function of the seed and of where it is used.

Nothing depends on what happened before: order is f(seed, epoch), augmentation and dropout are f(seed, epoch, batch,
rank). A run that goes on from a checkpoint therefore draws what the uninterrupted run would have drawn. No torch here.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *where: int | str) -> int:
    """A seed of 63 bits for the place `where`, e.g. `derive(seed, "order", epoch)`.

    Distinct places give unrelated seeds (BLAKE2b), unlike `seed + epoch`, where seed 1 in epoch 2 repeats seed 2 in
    epoch 1. Fits `torch.Generator.manual_seed` and `numpy.random.default_rng`.
    """
    text = "/".join([str(int(seed)), *map(str, where)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
