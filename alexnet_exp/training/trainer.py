"""Lightning's Trainer, as the settings and the placement say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import PassThroughProfiler

from alexnet_exp.config.schema import Trainer
from alexnet_exp.processes.ranks import is_srun_rank
from alexnet_exp.training.checkpoints.format import FlushedIO
from alexnet_exp.training.devices import Placement
from alexnet_exp.training.strategy import strategy_of

# Settings of ours that Lightning's Trainer does not know, and those that we pass as something else.
OURS = (
    *("gpus", "compile", "channels_last", "accelerator", "devices", "strategy", "precision", "enable_progress_bar"),
    *("profiler", "on_nan"),
)
NOTHING = nullcontext()


class Unobserved(PassThroughProfiler):
    """No profiler, at no cost: Lightning's own makes a context manager anew for each of some eighty hooks of a step."""

    def profile(self, action_name: str) -> Any:
        return NOTHING


def build_trainer(
    settings: Trainer, placement: Placement, callbacks: Sequence[pl.Callback], loggers: Sequence[Logger]
) -> pl.Trainer:
    """A Trainer that logs, saves and shows progress by these callbacks and loggers alone."""
    if placement.precision == "32-true":
        # cuDNN's convolutions would round their factors to TF32's 10 bits by default: float32 here means float32
        torch.backends.cudnn.allow_tf32 = False
    passed = {key: value for key, value in vars(settings).items() if key not in OURS}
    trainer = pl.Trainer(
        **passed,
        profiler=settings.profiler or Unobserved(),
        accelerator=placement.accelerator,
        devices=placement.devices,
        strategy=strategy_of(placement.strategy),
        precision=placement.precision,  # type: ignore[arg-type]
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        plugins=[FlushedIO(), *_environment()],
        # with ours among the callbacks Lightning adds none of its own where this is true, and refuses ours where not
        enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        enable_autolog_hparams=False,
        default_root_dir=os.devnull,
    )
    # in every step it asks all ranks whether one has heard SIGTERM, and waits; see `distributed.py`
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
    return trainer


def _nothing() -> None:
    pass


def _environment() -> list[ClusterEnvironment]:
    """Who started the ranks, where Lightning would guess wrong; empty where its guess is right."""
    if "LOCAL_RANK" not in os.environ and is_srun_rank():
        # its own requeueing saves a checkpoint inside the signal handler, in the middle of a step
        return [SLURMEnvironment(auto_requeue=False)]
    if shutil.which("srun") and not TorchElasticEnvironment.detect():
        # in an allocation it takes a process that is alone, or a rank of `launch.py`, for one of SLURM's tasks
        return [LightningEnvironment()]
    return []
