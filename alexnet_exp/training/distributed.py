"""Provides the share of the images that a rank processes, and the agreement of ranks on signals at step boundaries.

Ranks that each hold the whole network share the images. Ranks that hold one column each process all of them. Code that
counts images, or draws random numbers for each rank, calls `replica` and `replicas`: `trainer.global_rank` and
`trainer.world_size` only count processes.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist


def replica(trainer: Any) -> int:
    """Returns which part of the images this rank processes: 0 to `replicas` - 1. Ranks may share one."""
    shared = _sampler_arguments(trainer)
    return int(trainer.global_rank if shared is None else shared["rank"])


def replicas(trainer: Any) -> int:
    """Returns the number of parts into which the images are divided: how many ranks a sum over images includes."""
    shared = _sampler_arguments(trainer)
    return int(trainer.world_size if shared is None else shared["num_replicas"])


def _sampler_arguments(trainer: Any) -> dict[str, int] | None:
    """Returns the arguments that Lightning's strategy gives to samplers; None on one device."""
    shared: dict[str, int] | None = getattr(trainer, "distributed_sampler_kwargs", None)
    return shared


class Agreement:
    """Gives every rank the maximum over all ranks of some numbers, at the same step.

    With several ranks the answer is one step late: the numbers are exchanged while the next step is computed. They are
    exchanged in CPU memory, so that no GPU waits for it. Every rank must call it equally often.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._asked: tuple[Any, torch.Tensor] | None = None

    def ask(self, trainer: pl.Trainer, *values: int) -> tuple[int, ...]:
        """Returns the maximum of each of `values` over all ranks, one step late; a single rank's own at once."""
        if trainer.world_size == 1:
            return values
        answer = self._answer() or (0,) * len(values)
        self._ask(values)
        return answer

    def ask_now(self, trainer: pl.Trainer, *values: int) -> tuple[int, ...]:
        """Returns the same at once, including the values of the step before."""
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
        sent = torch.tensor(values, dtype=torch.int64)
        self._asked = dist.all_reduce(sent, dist.ReduceOp.MAX, group=self._group, async_op=True), sent

    def _answer(self) -> tuple[int, ...] | None:
        if self._asked is None:
            return None
        work, received = self._asked
        self._asked = None
        work.wait()
        return tuple(received.tolist())
