"""Provides the callback of `trainer.on_nan=skip`, which skips the steps with non-finite gradients."""

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

MOST_CONSECUTIVE_SKIPS = 100


class SkipNotFinite(pl.Callback):
    """Checks the gradients before each optimizer step, and skips the step where one is NaN or infinite.

    Weights, optimizer state and running averages stay as they were before the step's first batch, and its losses do
    not count in the epoch's mean; the step counts for the schedule. All ranks decide alike, since their gradients are
    averaged. Each step waits for the device. Not used with `16-mixed`: its scaler skips the steps whose gradients
    overflow itself.

    Raises NotFiniteError after `MOST_CONSECUTIVE_SKIPS` such steps.
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
        if trainer.strategy.reduce_boolean_decision(
            finite
        ):  # each column of a network in columns has its own gradients
            self._in_a_row = 0
            return
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        if self._in_a_row >= MOST_CONSECUTIVE_SKIPS:
            raise NotFiniteError(
                f"non-finite gradients in {MOST_CONSECUTIVE_SKIPS} consecutive steps; {NOT_FINITE_ADVICE}"
            )
        step = trainer.global_step + 1
        log.warning(f"step {step}: non-finite gradients; step skipped ({self.skipped} so far)")
        optimizer.zero_grad(set_to_none=True)  # an optimizer ignores parameters without gradients
        for buffer, before in self._before:
            buffer.copy_(before)

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]
