"""Writes a run's numbers: metrics.csv (a row an epoch), steps.csv, the loggers, and a line an epoch in the log."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from alexnet_exp.runs.folder import RunFolder

log = logging.getLogger(__name__)

STEPS_AT_ONCE = 50  # how many losses wait on the device before they are read: reading one stops the device
HEADER = "epoch  train: loss   top-1    val: loss   top-1   top-5        lr  images/s  seconds    memory"


class NotFinite(RuntimeError):
    """The loss became NaN or infinite."""


class Recorder(Checkpoint):
    """Records on rank 0; every rank checks its losses.

    A `Checkpoint`, because Lightning calls those after the LightningModule's own `on_train_epoch_end`, where the epoch's
    means are made.
    """

    def __init__(self, folder: RunFolder | None):
        self.folder = folder
        self.pending: list[tuple[int, Tensor, float]] = []
        self.micro_losses: list[Tensor] = []
        self.images = 0
        self.epoch_seconds = self.train_seconds = self.validation_seconds = 0.0
        self.total_images = 0
        self.total_seconds = 0.0
        self._epoch_start = self._validation_start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.folder is not None:
            log.info(HEADER)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self.validation_seconds, self.images = 0.0, 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validation_seconds += time.perf_counter() - self._validation_start

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.images += _size(batch)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        # Lightning has divided the loss by the number of batches that make a step: their sum is the step's mean
        self.micro_losses.append(loss.detach())
        if trainer.fit_loop._should_accumulate():
            return
        self.pending.append((trainer.global_step, torch.stack(self.micro_losses).sum(), _rate(trainer)))
        self.micro_losses = []
        if len(self.pending) >= STEPS_AT_ONCE:
            self._read_steps()

    def _read_steps(self) -> None:
        """Reads the waiting losses from the device at once, writes them, and stops the run where one is not a number."""
        if not self.pending:
            return
        steps, losses, rates = zip(*self.pending, strict=True)
        self.pending = []
        values = torch.stack(losses).tolist()
        if self.folder is not None:
            self.folder.append_steps(list(zip(steps, values, rates, strict=True)))
        for step, value in zip(steps, values, strict=True):
            if not math.isfinite(value):
                raise NotFinite(f"the loss is {value} at step {step}; try a smaller optim.lr, or trainer.gradient_clip_val=1")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read_steps()
        self.epoch_seconds = time.perf_counter() - self._epoch_start
        seconds = self.epoch_seconds - self.validation_seconds
        images = self.images * trainer.world_size
        self.total_images, self.total_seconds = self.total_images + images, self.total_seconds + seconds
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": _rate(trainer),
            **metrics_of(trainer, pl_module, ("train", "val")),
            "seconds": round(self.epoch_seconds, 3),
            "images_per_s": round(images / seconds, 1) if seconds > 0 else None,
        }
        if self.folder is None:
            return
        self.folder.append_metrics(row)
        log.info(epoch_line(row, trainer.max_epochs, memory_used(pl_module.device)))
        for logger in trainer.loggers:
            logger.log_metrics({key: value for key, value in row.items() if isinstance(value, float)}, step=row["step"])
            logger.save()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        try:
            self._read_steps()
        except (NotFinite, OSError):  # the run is ending for a reason of its own, which must be the one that is told
            return


def metrics_of(trainer: pl.Trainer, module: pl.LightningModule, splits: tuple[str, ...]) -> dict[str, float]:
    """The newest `split/metric` values: our module's exact ones, a user's module's as it logged them."""
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    exact = getattr(module, "metrics", {})
    found = {**logged, **exact}
    return {key: value for key, value in found.items() if key.partition("/")[0] in splits}


def epoch_line(row: dict[str, Any], epochs: int | None, memory: int) -> str:
    """The fixed-width line of one epoch, under `HEADER`."""

    def number(key: str, form: str) -> str:
        value = row.get(key)
        width = int(form.partition(".")[0].lstrip("<>"))
        return f"{value:{form}}" if isinstance(value, (int, float)) else f"{'-':>{width}}"

    of = f"/{epochs}" if epochs and epochs > 0 else ""
    return (
        f"{str(row['epoch']) + of:<6}{number('train/loss', '12.4f')}{number('train/top1', '8.4f')}"
        f"{number('val/loss', '13.4f')}{number('val/top1', '8.4f')}{number('val/top5', '8.4f')}"
        f"{number('lr', '10.2e')}{number('images_per_s', '10.0f')}{number('seconds', '9.1f')}{memory / 2**20:>7.0f} MB"
    )


def memory_used(device: torch.device) -> int:
    """The most memory used so far, bytes: the GPU's allocator's, or the process's resident size on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _rate(trainer: pl.Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else math.nan


def _size(batch: Any) -> int:
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    return len(first) if isinstance(first, Tensor) else 0
