"""`trainer.on_nan=skip`: leaves out the steps whose gradients are not finite, as if their images had not been there."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from alexnet_exp.runs.status import NotFiniteError
from alexnet_exp.training.callbacks.recorder import NOT_FINITE_ADVICE
from alexnet_exp.training.module import AlexNetModule

log = logging.getLogger(__name__)

MOST_IN_A_ROW = 100


class SkipNotFinite(pl.Callback):
    """Before each optimizer step looks at the gradients; one that is NaN or infinite leaves the step out.

    Weights, optimizer state and running averages stay as they were before the step's first batch, and its losses do
    not count in the epoch's mean; the step counts for the schedule. Of several ranks all find the same, since their
    gradients are averaged. Each step waits for the device to be sure. With `16-mixed` a gradient may overflow before
    the scale is found: that is the scaler's affair, which leaves such steps out itself.

    Raises NotFiniteError after `MOST_IN_A_ROW` such steps, behind which no number will come any more.
    """

    def __init__(self) -> None:
        self.skipped = self._in_a_row = 0
        self._before: list[tuple[Tensor, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, AlexNetModule):
            pl_module.only_finite = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._before = [(buffer, buffer.clone()) for buffer in pl_module.buffers()]

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
        finite = bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
        if trainer.strategy.reduce_boolean_decision(finite):  # the columns of one network have gradients of their own
            self._in_a_row = 0
            return
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        if self._in_a_row >= MOST_IN_A_ROW:
            raise NotFiniteError(f"the gradients of {MOST_IN_A_ROW} steps in a row are no numbers; {NOT_FINITE_ADVICE}")
        step = trainer.global_step + 1
        log.warning(f"step {step}: its gradients are no numbers; it is left out ({self.skipped} so far)")
        optimizer.zero_grad(set_to_none=True)  # an optimizer leaves alone what has no gradient
        for buffer, before in self._before:
            buffer.copy_(before)

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]
