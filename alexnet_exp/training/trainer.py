"""Builds Lightning's Trainer from the settings and the placement."""

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

# Settings that Lightning's Trainer does not have, and those that are passed in another form.
OWN_SETTINGS = (
    *("gpus", "compile", "channels_last", "accelerator", "devices", "strategy", "precision", "enable_progress_bar"),
    *("profiler", "on_nan", "benchmark"),
)
NO_CONTEXT = nullcontext()


class NoProfiler(PassThroughProfiler):
    """No profiler, without cost: Lightning's own creates a context manager in each of some eighty hooks of a step."""

    def profile(self, action_name: str) -> Any:
        return NO_CONTEXT


def build_trainer(
    settings: Trainer, placement: Placement, callbacks: Sequence[pl.Callback], loggers: Sequence[Logger]
) -> pl.Trainer:
    """Returns a Trainer that logs, saves and shows progress only by these callbacks and loggers."""
    if placement.precision == "32-true":
        # By default cuDNN's convolutions round their factors to TF32's 10 bits: float32 here means float32.
        torch.backends.cudnn.allow_tf32 = False
    passed = {key: value for key, value in vars(settings).items() if key not in OWN_SETTINGS}
    if settings.records_cuda_graphs:
        # Graphs of one network recorded in and outside of inference mode are not compatible:
        # https://github.com/pytorch/pytorch/issues/135892. Lightning evaluates under no_grad then.
        passed["inference_mode"] = False
    trainer = pl.Trainer(
        **passed,
        profiler=settings.profiler or NoProfiler(),
        accelerator=placement.accelerator,
        devices=placement.devices,
        strategy=strategy_of(placement.strategy),
        benchmark=placement.benchmark,
        precision=placement.precision,  # type: ignore[arg-type]
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        plugins=[FlushedIO(), *_environment()],
        # With ours among the callbacks, Lightning adds none where this is true, and rejects ours where it is false.
        enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        enable_autolog_hparams=False,
        default_root_dir=os.devnull,
    )
    # It waits in every step for an answer of all ranks whether one has received SIGTERM; see `distributed.py`.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
    return trainer


def _nothing() -> None:
    pass


def _environment() -> list[ClusterEnvironment]:
    """Returns the environment that started the ranks, where Lightning would detect a wrong one; else an empty list."""
    if "LOCAL_RANK" not in os.environ and is_srun_rank():
        # Lightning's requeueing would save a checkpoint inside the signal handler, in the middle of a step.
        return [SLURMEnvironment(auto_requeue=False)]
    if shutil.which("srun") and not TorchElasticEnvironment.detect():
        # In an allocation Lightning treats a single process, or a rank of `launch.py`, as one of SLURM's tasks.
        return [LightningEnvironment()]
    return []
