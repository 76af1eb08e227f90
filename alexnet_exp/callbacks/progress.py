"""The progress bar of a terminal; elsewhere the log's line an epoch is the progress."""

from __future__ import annotations

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

REFRESH_EVERY = 10  # batches: the loss is read from the device at each refresh


class Progress(RichProgressBar):
    """Lightning's rich bar, on stderr, with the newest loss."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=REFRESH_EVERY, console_kwargs={"stderr": True})

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning counts from 0 to one less than there are; the log and metrics.csv count from 1
        epochs = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        loss = getattr(pl_module, "last_loss", None)
        return {} if loss is None else {"loss": f"{loss.item():.4f}"}


def wants_bar(setting: bool | None) -> bool:
    """Whether to show the bar: as set, else where stderr is a terminal."""
    return sys.stderr.isatty() if setting is None else setting
