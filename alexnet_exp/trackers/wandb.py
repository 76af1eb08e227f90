"""Weights & Biases: a run for every run folder; those of a sweep's jobs are a group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers import WandbLogger

from alexnet_exp.endings import Ending
from alexnet_exp.schema import Config, Wandb
from alexnet_exp.trackers.closing import Closing
from alexnet_exp.trackers.values import experiment_of, sweep_of, tested


class WandbRun(WandbLogger, Closing):
    """Lightning's logger, whose run ends with ours and not with the process: a process may train several."""

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Its summary gets our final metrics, of the weights that were tested, not the last of each curve."""
        if tested(metrics):
            self.log_metrics(tested(metrics), step)
        self.experiment.summary.update({**metrics, "status": ending.status})
        self.experiment.finish(exit_code=ending.code)


def start(settings: Wandb, config: Config, run: Path) -> WandbRun:
    """A new run; offline, its folder lies in that of ours. It begins when something is logged."""
    sweep = sweep_of(run.resolve())
    return WandbRun(
        name=f"{experiment_of(run, config.name)}/{run.name}",
        save_dir=run,
        project=settings.project,
        entity=settings.entity,
        offline=settings.offline,
        group=sweep.name if sweep is not None else None,
        job_type="train" if sweep is None else "sweep",
        tags=list(config.tags),
        notes=config.note or None,
    )
