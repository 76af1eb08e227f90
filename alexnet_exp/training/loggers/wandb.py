"""Provides the Weights & Biases logger: a W&B run for each run folder, a group for each sweep."""

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
from alexnet_exp.training.loggers.base import EPOCH_KEY, Tracker
from alexnet_exp.training.loggers.naming import experiment_of, sweep_of, test_metrics

log = logging.getLogger(__name__)

WANDB_NOTE_FILE = "wandb.json"  # in the run folder: the id of the W&B run, and the step of the last row that W&B has
# Seconds to wait for a server, unless the environment sets them. Unsent data stays in the run folder, for `wandb sync`.
TIMEOUT_SECONDS = {"init_timeout": 20.0, "finish_timeout": 20.0}


class WandbRun(WandbLogger, Tracker):
    """Lightning's logger, whose W&B run ends with our run and not with the process, which may train several."""

    def __init__(self, note: Path, **options: Any) -> None:
        noted = _read_note(note)
        self.note, self.logged = note, noted.get("step")
        self._noted_id = noted.get("id") or secrets.token_hex(4)
        super().__init__(id=self._noted_id, **options)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records the step of a row once W&B's own process has the row, which it saves before it sends it."""
        super().log_metrics(metrics, step)
        if EPOCH_KEY in metrics:
            self.write_note(step)

    def write_note(self, step: int | None) -> None:
        """Writes the id of the W&B run and the step of its last row into the run folder."""
        with atomic_write(self.note) as file:
            file.write((json.dumps({"id": self._noted_id, "step": step}) + "\n").encode())

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Writes the final metrics, of the tested weights, into the summary, over the last values of the curves."""
        if test_metrics(metrics):
            self.log_metrics(test_metrics(metrics), step)
        self.experiment.summary.update({**metrics, "status": str(ending.status)})  # W&B writes the name of an enum
        self.experiment.finish(exit_code=ending.code)


def start(settings: Wandb, config: Config, run: Path) -> WandbRun:
    """Returns the W&B run for the folder `run`: the one that the folder has, or a new one.

    Offline, its files are in that folder. Where W&B cannot be reached or the login fails, it is offline too, and a
    warning says so.
    """
    if settings.offline:
        if os.environ.get("WANDB_MODE", "offline") not in ("offline", "disabled"):
            log.warning("logger=wandb: WANDB_MODE is ignored: the run is offline; write logger.wandb.offline=false")
        return _open(settings, config, run, "offline")
    import wandb

    try:
        return _open(settings, config, run, "online")
    except wandb.Error as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        send = f"wandb sync {run / 'wandb' / 'offline-run-*'}"
        log.warning(f"logger=wandb: {reason}; the W&B run is offline, upload it later with: {send}")
        wandb.teardown()  # its process still has the run that failed to start
        return _open(settings, config, run, "offline")


def _open(settings: Wandb, config: Config, run: Path, mode: str) -> WandbRun:
    import wandb

    sweep = sweep_of(run.resolve())
    timeouts: dict[str, Any] = {
        name: seconds
        for name, seconds in TIMEOUT_SECONDS.items()
        if name in wandb.Settings.model_fields and f"WANDB_{name.upper()}" not in os.environ
    }
    logger = WandbRun(
        run / WANDB_NOTE_FILE,
        name=f"{experiment_of(run, config.name)}/{run.name}",
        save_dir=run,
        project=settings.project or os.environ.get("WANDB_PROJECT") or "alexnet_exp",
        entity=settings.entity,
        group=sweep.name if sweep is not None else None,
        job_type="train" if sweep is None else "sweep",
        tags=list(config.tags),
        notes=config.note or None,
        settings=wandb.Settings(**timeouts),
        mode=mode,  # not Lightning's `offline`, which is a variable of the whole process's environment
    )
    logger.write_note(logger.logged)
    _ = logger.experiment  # starts the W&B run, or raises
    return logger


def _read_note(file: Path) -> dict[str, Any]:
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
        return {"id": str(noted["id"]), "step": None if noted["step"] is None else int(noted["step"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # an unreadable note is ignored
