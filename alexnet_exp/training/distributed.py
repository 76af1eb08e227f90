"""Provides the share of the images that a rank processes, and the agreement of ranks on signals at step boundaries.

Ranks that each hold the whole network share the images. Ranks that hold one column each process all of them. Code that
counts images or draws by rank calls `replica` and `replicas`: `trainer.global_rank` and `trainer.world_size` only count
processes.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist


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


class Agreement:
    """Numbers of which every rank hears the greatest that any rank has said, at the same step.

    Of several ranks the answer is that of the step before: the question is sent while the next step is computed. They
    talk over CPU memory, so that a GPU is not stopped for it. Every rank must ask equally often.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._asked: tuple[Any, torch.Tensor] | None = None

    def ask(self, trainer: pl.Trainer, *values: int) -> tuple[int, ...]:
        """The greatest of each of `values` over all ranks, one step late; of one rank its own, at once."""
        if trainer.world_size == 1:
            return values
        answer = self._answer() or (0,) * len(values)
        self._ask(values)
        return answer

    def now(self, trainer: pl.Trainer, *values: int) -> tuple[int, ...]:
        """The same, with what was asked before, and waited for."""
        if trainer.world_size == 1:
            return values
        before = self._answer()
        self._ask(values)
        answer = self._answer()
        assert answer is not None
        return answer if before is None else tuple(map(max, before, answer))

    def _ask(self, values: tuple[int, ...]) -> None:
        if self._group is None:
            gloo = dist.get_backend() == "gloo"
            self._group = dist.group.WORLD if gloo else dist.new_group(backend="gloo")
        said = torch.tensor(values, dtype=torch.int64)
        self._asked = dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group, async_op=True), said

    def _answer(self) -> tuple[int, ...] | None:
        if self._asked is None:
            return None
        work, said = self._asked
        self._asked = None
        work.wait()
        return tuple(said.tolist())
