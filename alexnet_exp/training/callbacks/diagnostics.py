"""Warns about common training failures and the setting to change."""

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

CHANCE_TOLERANCE = 0.01  # of ln(classes): a loss this close to it after an epoch has learned nothing
MOST_WAITING_SHARE = 0.5  # of an epoch's time
FEWEST_STEPS = 20  # in an epoch: fewer are not judged


class Diagnostics(AfterMetrics):
    """Warns once where the loss stays at ln(classes), and once where steps wait for data more than half of the time.

    norm: of the network, None where it is unknown; batch norm is suggested where the network has another.
    """

    def __init__(self, classes: int, norm: Norm | None):
        self.chance_loss = math.log(classes)
        self.classes = classes
        self.advice = "try another optim.lr (ten times smaller, ten times larger)"
        if norm not in (None, Norm.bn):
            self.advice += ", or model=bn"
        self._waited = self._worked = 0.0
        self._steps = 0
        self._warned: set[str] = set()
        self._mark = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._waited, self._worked, self._steps = 0.0, 0.0, 0
        self._mark = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._waited += (
            (now - self._mark) if self._steps else 0.0
        )  # the first wait of an epoch is the start of the workers
        self._mark = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._worked += now - self._mark
        self._mark, self._steps = now, self._steps + 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = time.perf_counter()  # a validation in mid-epoch does not count as waiting

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        share = self._waited / max(self._waited + self._worked, 1e-9)
        if self._steps >= FEWEST_STEPS and share > MOST_WAITING_SHARE:
            self._warn_once(
                "data",
                f"{share:.0%} of the time is spent waiting for data; try a larger data.workers or a smaller data.size",
            )
        loss = metrics_of_epoch(trainer, pl_module, validated=False).get("train/loss")
        enough = trainer.current_epoch >= 1 and trainer.global_step >= FEWEST_STEPS
        if loss is not None and enough and abs(loss - self.chance_loss) < CHANCE_TOLERANCE * self.chance_loss:
            self._warn_once(
                "stuck",
                f"the training loss stays at ln({self.classes}) = {self.chance_loss:.3f}, that of random guesses; "
                f"{self.advice}",
            )

    def _warn_once(self, what: str, line: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning(line)
