"""Ends a run early on request from another process, such as a search that prunes a trial."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from alexnet_exp.runs.folder import PRUNE_FILE
from alexnet_exp.runs.status import Pruned
from alexnet_exp.training.callbacks.recorder import AfterMetrics


class Prune(AfterMetrics):
    """Raises `Pruned` after an epoch where the run folder has the file `prune`, whose text is the reason.

    A file works for every process on every machine that shares the folder.
    """

    def __init__(self, folder: Path):
        self.file = folder / PRUNE_FILE

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reason = None
        if trainer.is_global_zero and self.file.exists():
            reason = self.file.read_text(encoding="utf-8", errors="replace").strip()
        reason = trainer.strategy.broadcast(reason)
        if reason is not None:
            raise Pruned(reason)
