"""Says in one plain line what goes wrong in a way that numbers alone do not tell, with the likely knob."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytorch_lightning as pl

from alexnet_exp.model.spec import Norm
from alexnet_exp.training.callbacks.recorder import AfterMetrics
from alexnet_exp.training.metrics import metrics_of_epoch

log = logging.getLogger(__name__)

STUCK = 0.01  # of ln(classes): a loss this near to it after an epoch has learned nothing
MOST_OF_THE_TIME = 0.5
ENOUGH_STEPS = 20


class Watch(AfterMetrics):
    """Warns, once each: the loss stays at ln(classes); the steps wait for data more than half their time.

    `norm` is the network's, None where it is not known: batch norm is advised where it is another.
    """

    def __init__(self, classes: int, norm: Norm | None):
        self.chance = math.log(classes)
        self.classes = classes
        self.knobs = "try another optim.lr (ten times smaller, ten times larger)"
        if norm not in (None, Norm.bn):
            self.knobs += ", or model=bn"
        self._waited = self._worked = 0.0
        self._steps = 0
        self._said: set[str] = set()
        self._mark = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._waited, self._worked, self._steps = 0.0, 0.0, 0
        self._mark = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._waited += (now - self._mark) if self._steps else 0.0  # the first wait of an epoch is the workers' start
        self._mark = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._worked += now - self._mark
        self._mark, self._steps = now, self._steps + 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = time.perf_counter()  # a validation in mid-epoch is no waiting

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        share = self._waited / max(self._waited + self._worked, 1e-9)
        if self._steps >= ENOUGH_STEPS and share > MOST_OF_THE_TIME:
            self._say(
                "data",
                f"{share:.0%} of the time is spent waiting for data; try more data.workers, or a smaller data.size",
            )
        loss = metrics_of_epoch(trainer, pl_module, validated=False).get("train/loss")
        enough = trainer.current_epoch >= 1 and trainer.global_step >= ENOUGH_STEPS
        if loss is not None and enough and abs(loss - self.chance) < STUCK * self.chance:
            self._say(
                "stuck",
                f"the training loss is still ln({self.classes}) = {self.chance:.3f}: nothing is learned; {self.knobs}",
            )

    def _say(self, what: str, line: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning(line)
