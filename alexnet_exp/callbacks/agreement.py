"""What the ranks of a run do together at a step boundary, agreed without any of them waiting for the others."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist


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
