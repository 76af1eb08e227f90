"""A callback that writes down when the steps of a run end, and what saving took: see `saving`.

    ALEXNET_EXP_ALLOW=benchmarks python -m alexnet_exp +callbacks.stopwatch._target_=benchmarks.stopwatch.Stopwatch \\
        +callbacks.stopwatch.file=FILE
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from alexnet_exp.training.checkpoints.callback import Checkpoints


class Stopwatch(pl.Callback):
    """Appends a line of JSON to `file` where fit begins, and behind each batch.

    at: seconds of the machine's monotonic clock, which all its processes share; step; saving: seconds of all saves so
    far, of which that behind this batch is none yet.
    """

    def __init__(self, file: str):
        self.file = Path(file)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._note(trainer, "fit")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._note(trainer, "step")

    def _note(self, trainer: pl.Trainer, what: str) -> None:
        saving = sum(each.saving_seconds for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints))
        line = {"what": what, "at": time.monotonic(), "step": trainer.global_step, "saving": saving}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
