"""Weights & Biases: a run for every run folder; those of a sweep's jobs are a group."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from alexnet_exp.atomic import atomic_write
from alexnet_exp.config.schema import Config, Wandb
from alexnet_exp.runs.status import Ending
from alexnet_exp.training.loggers.base import ROW, Tracker
from alexnet_exp.training.loggers.naming import experiment_of, sweep_of, tested

log = logging.getLogger(__name__)

FILE = "wandb.json"  # in the run's folder: the id of its run there, and the step of the last row that was handed over
# Seconds to wait for a server that does not answer, where the environment says nothing else. What was not sent by then
# lies in the run's folder, for `wandb sync`.
PATIENCE = {"init_timeout": 20.0, "finish_timeout": 20.0}


class WandbRun(WandbLogger, Tracker):
    """Lightning's logger, whose run ends with ours and not with the process: a process may train several."""

    def __init__(self, note: Path, **options: Any) -> None:
        noted = _noted(note)
        self.note, self.logged = note, noted.get("step")
        self._noted_id = noted.get("id") or secrets.token_hex(4)
        super().__init__(id=self._noted_id, **options)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Notes the step of a row once W&B's own process has it, which writes it down before it sends it."""
        super().log_metrics(metrics, step)
        if ROW in metrics:
            self.write_note(step)

    def write_note(self, step: int | None) -> None:
        """Says in the run's folder which run of W&B it is, and how far that is."""
        with atomic_write(self.note) as file:
            file.write((json.dumps({"id": self._noted_id, "step": step}) + "\n").encode())

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Its summary gets our final metrics, of the weights that were tested, not the last of each curve."""
        if tested(metrics):
            self.log_metrics(tested(metrics), step)
        self.experiment.summary.update({**metrics, "status": ending.status})
        self.experiment.finish(exit_code=ending.code)


def start(settings: Wandb, config: Config, run: Path) -> WandbRun:
    """The W&B run that stands for the folder `run`: the one it had, or a new one.

    Offline, it lies in that folder; so it does where W&B cannot be reached or knows no such user, and the log says so.
    """
    if settings.offline:
        if os.environ.get("WANDB_MODE", "offline") not in ("offline", "disabled"):
            log.warning("logger=wandb: WANDB_MODE is ignored, and nothing is sent; write logger.wandb.offline=false")
        return _begun(settings, config, run, "offline")
    import wandb

    try:
        return _begun(settings, config, run, "online")
    except wandb.Error as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        send = f"wandb sync {run / 'wandb' / 'offline-run-*'}"
        log.warning(f"logger=wandb: {reason}; the run goes on offline there, and is sent later by: {send}")
        wandb.teardown()  # its process still has the run that it could not begin
        return _begun(settings, config, run, "offline")


def _begun(settings: Wandb, config: Config, run: Path, mode: str) -> WandbRun:
    import wandb

    sweep = sweep_of(run.resolve())
    waiting: dict[str, Any] = {
        name: seconds
        for name, seconds in PATIENCE.items()
        if name in wandb.Settings.model_fields and f"WANDB_{name.upper()}" not in os.environ
    }
    logger = WandbRun(
        run / FILE,
        name=f"{experiment_of(run, config.name)}/{run.name}",
        save_dir=run,
        project=settings.project or os.environ.get("WANDB_PROJECT") or "alexnet_exp",
        entity=settings.entity,
        group=sweep.name if sweep is not None else None,
        job_type="train" if sweep is None else "sweep",
        tags=list(config.tags),
        notes=config.note or None,
        settings=wandb.Settings(**waiting),
        mode=mode,  # not Lightning's `offline`, which is a variable of the whole process's environment
    )
    logger.write_note(logger.logged)
    _ = logger.experiment  # it begins here, or says why it cannot
    return logger


def _noted(file: Path) -> dict[str, Any]:
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
        return {"id": str(noted["id"]), "step": None if noted["step"] is None else int(noted["step"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a note that cannot be read is as good as none
