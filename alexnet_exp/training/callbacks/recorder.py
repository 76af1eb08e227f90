"""Provides the callback that writes metrics.csv, steps.csv and the log's line of each epoch, and feeds the loggers."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from alexnet_exp.config.schema import OnNan
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.status import NotFiniteError
from alexnet_exp.training.distributed import replicas
from alexnet_exp.training.metrics import metrics_of_epoch

log = logging.getLogger(__name__)

NOT_FINITE_ADVICE = "try a smaller optim.lr, or trainer.gradient_clip_val=1"
STEPS_AT_ONCE = 50  # losses that wait on the device before they are read: reading waits for the device
# No wider than the usual terminal.
EPOCH_HEADER = "epoch   train loss  top-1  val loss  top-1  top-5      lr  img/s  seconds    MB"


class AfterMetrics(Checkpoint):
    """A callback whose `on_train_epoch_end` is called when the epoch's means are known.

    The LightningModule's own `on_train_epoch_end` computes them, and the only callbacks that Lightning calls after
    that are its `Checkpoint`s.
    """


class Recorder(AfterMetrics):
    """Records on rank 0; every rank checks the losses, which are means over all ranks, unless `on_nan` is `skip`.

    `newest` has the last value of each `split/metric`, `by_epoch` those of each epoch.
    """

    def __init__(self, folder: RunFolder | None, on_nan: OnNan = OnNan.stop):
        self.folder, self.on_nan = folder, on_nan
        self.newest: dict[str, float] = {}
        self.by_epoch: dict[int, dict[str, float]] = {}
        self._waiting: list[tuple[int, Tensor, float]] = []
        self._of_this_step: list[Tensor] = []
        self._rate: float | None = None  # the learning rate of the last step; None until the first
        self._stepped = False
        self.validated_at: int | None = None  # the step of this epoch's last validation; None before the first
        self._images = self._all_images = 0
        self._seconds = 0.0
        self._epoch_start = self._validation_start = self._validation_seconds = self._training_seconds = 0.0

    @property
    def images_per_s(self) -> float | None:
        """Training images per second over the whole run, without validation; None before the first epoch's end."""
        return self._all_images / self._seconds if self._seconds > 0 else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.folder is not None:
            log.info(EPOCH_HEADER)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self._validation_seconds = self._training_seconds = 0.0
        self._images, self.validated_at = 0, None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_seconds += time.perf_counter() - self._validation_start
        self.validated_at = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs. The losses up to here are in the file: they have been read before."""
        return {
            "newest": dict(self.newest),
            "by_epoch": {epoch: dict(metrics) for epoch, metrics in self.by_epoch.items()},
            "rate": self._rate,
            "validated_at": self.validated_at,
            "images": (self._images, self._all_images),
            "seconds": (self._seconds, time.perf_counter() - self._epoch_start),
            "seconds_of_epoch": (self._validation_seconds, self._training_seconds),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.newest.clear()  # in place: other objects hold this dictionary
        self.newest.update(state_dict["newest"])
        self.by_epoch = state_dict["by_epoch"]
        # A checkpoint of an earlier version has no step; one of an epoch's end does not need it.
        self._rate, self.validated_at = state_dict["rate"], state_dict.get("validated_at")
        self._images, self._all_images = state_dict["images"]
        self._seconds, since = state_dict["seconds"]
        self._epoch_start = time.perf_counter() - since  # of an epoch in progress; a new one sets it again
        self._validation_seconds, self._training_seconds = state_dict["seconds_of_epoch"]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # Not at the batch's end: by then a user's scheduler has set the rate of the next step.
        self._rate, self._stepped = float(optimizer.param_groups[0]["lr"]), True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += _size(batch)
        # Measured here: what callbacks do between the last batch and the epoch's end is not training.
        self._training_seconds = time.perf_counter() - self._epoch_start - self._validation_seconds
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            # Lightning has divided it by `accumulate_grad_batches`: the sum over the batches is the mean of the step.
            self._of_this_step.append(loss.detach())
        if not self._stepped:
            return
        if self._of_this_step:
            first, *others = self._of_this_step
            loss = torch.stack(self._of_this_step).sum() if others else first
            self._waiting.append((trainer.global_step, loss, self._rate or 0.0))
        self._of_this_step, self._stepped = [], False
        if len(self._waiting) >= STEPS_AT_ONCE:
            self.read_steps(trainer)

    def read_steps(self, trainer: pl.Trainer) -> None:
        """Reads the waiting losses from the device, writes them, and raises NotFiniteError where one is not finite.

        A collective: every rank calls it after the same step, and reads the same means.
        """
        if not self._waiting:
            return
        steps, losses, rates = zip(*self._waiting, strict=True)
        self._waiting = []
        means = torch.stack(losses)
        if trainer.world_size > 1:
            means = trainer.strategy.reduce(means, reduce_op="mean")
        rows = list(zip(steps, means.tolist(), rates, strict=True))
        if self.folder is not None:
            self.folder.append_steps(rows)
        for step, loss, _ in rows:
            if self.on_nan is OnNan.stop and not math.isfinite(loss):
                raise NotFiniteError(f"the loss is {loss} at step {step}; {NOT_FINITE_ADVICE}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.read_steps(trainer)
        seconds = time.perf_counter() - self._epoch_start
        training = self._training_seconds
        images = self._images * replicas(trainer)
        self._all_images, self._seconds = self._all_images + images, self._seconds + training
        metrics = metrics_of_epoch(trainer, pl_module, validated=self.validated_at is not None)
        self.newest |= metrics
        self.by_epoch[trainer.current_epoch + 1] = metrics
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": self._rate,
            **metrics,
            "seconds": round(seconds, 3),
            "images_per_s": round(images / training, 1) if training > 0 else None,
        }
        if self.folder is None:
            return
        self.folder.append_metrics(row)
        self.folder.update(metrics=self.newest, epochs=row["epoch"])  # for a run that is interrupted later
        log.info(epoch_line(row, trainer.max_epochs, memory_used(pl_module.device)))
        for logger in trainer.loggers:
            logger.log_metrics({key: value for key, value in row.items() if isinstance(value, float)}, step=row["step"])
            logger.save()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes the steps before a failure. Not with several ranks: the mean needs all of them."""
        if trainer.world_size == 1:
            with suppress(NotFiniteError, OSError, RuntimeError):  # the first exception is the one to report
                self.read_steps(trainer)


def epoch_line(row: dict[str, Any], epochs: int | None, memory: int) -> str:
    """Returns the fixed-width line of one epoch, under `EPOCH_HEADER`; a dash for a missing number."""

    def number(key: str, width: int, form: str) -> str:
        value = row.get(key)
        return f"{'-' if value is None else format(value, form):>{width}}"

    of = f"/{epochs}" if epochs and epochs > 0 else ""
    return (
        f"{str(row['epoch']) + of:<8}{number('train/loss', 10, '.4f')}{number('train/top1', 7, '.4f')}"
        f"{number('val/loss', 10, '.4f')}{number('val/top1', 7, '.4f')}{number('val/top5', 7, '.4f')}"
        f"{number('lr', 8, '.1e')}{number('images_per_s', 7, '.0f')}{number('seconds', 9, '.1f')}{memory / 2**20:>6.0f}"
    )


def memory_used(device: torch.device) -> int:
    """Returns the peak memory in bytes: of torch's allocator on a GPU, of the process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _size(batch: Any) -> int:
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    return len(first) if isinstance(first, Tensor) else 0
