"""Provides the progress bar of a terminal; without one, the log has a line for each epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

# Drawing takes time from the training loop, and reading the loss waits for the device.
REFRESHES_PER_SECOND = 4


class Progress(RichProgressBar):
    """Lightning's rich bar, on stderr, with the newest loss."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=REFRESHES_PER_SECOND, console_kwargs={"stderr": True})
        self._next = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if now >= self._next or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._next = now + 1 / REFRESHES_PER_SECOND
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning counts epochs from 0; the log and metrics.csv count from 1.
        epochs = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        loss = getattr(pl_module, "last_loss", None)
        return {} if loss is None else {"loss": f"{loss.item():.4f}"}


def wants_bar(setting: bool | None) -> bool:
    """Returns whether to show the bar: the setting, or by default whether stderr is a terminal."""
    return sys.stderr.isatty() if setting is None else setting
