"""Which part of the images a rank sees: ranks that hold the whole network share them out, columns of one see them all.

Whatever counts images or draws by rank asks here; `trainer.global_rank` and `trainer.world_size` only say how many
processes there are. No torch here.
"""

from __future__ import annotations

from typing import Any


def replica(trainer: Any) -> int:
    """The part of the images that is this rank's: 0 to `replicas` - 1. Ranks of equal number see the same images."""
    shared = _shared_out(trainer)
    return int(trainer.global_rank if shared is None else shared["rank"])


def replicas(trainer: Any) -> int:
    """In how many parts the images are shared out: what a sum over ranks must be a sum of."""
    shared = _shared_out(trainer)
    return int(trainer.world_size if shared is None else shared["num_replicas"])


def _shared_out(trainer: Any) -> dict[str, int] | None:
    """What Lightning's strategy says to samplers; None on one device."""
    shared: dict[str, int] | None = getattr(trainer, "distributed_sampler_kwargs", None)
    return shared
