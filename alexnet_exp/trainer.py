"""Lightning's Trainer, as the settings and the placement say."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from alexnet_exp.callbacks.checkpoints import FlushedIO
from alexnet_exp.devices import Placement
from alexnet_exp.schema import Trainer

# Settings of ours that Lightning's Trainer does not know, and those that we pass as something else.
OURS = ("gpus", "compile", "channels_last", "accelerator", "devices", "strategy", "precision", "enable_progress_bar")


def build_trainer(
    settings: Trainer, placement: Placement, callbacks: Sequence[pl.Callback], loggers: Sequence[Logger]
) -> pl.Trainer:
    """A Trainer that logs, saves and shows progress by these callbacks and loggers alone."""
    passed = {key: value for key, value in vars(settings).items() if key not in OURS}
    return pl.Trainer(
        **passed,
        accelerator=placement.accelerator,
        devices=placement.devices,
        strategy=placement.strategy,
        precision=placement.precision,  # type: ignore[arg-type]
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        plugins=[FlushedIO()],
        # with ours among the callbacks Lightning adds none of its own where this is true, and refuses ours where not
        enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        enable_autolog_hparams=False,
        default_root_dir=os.devnull,
    )
