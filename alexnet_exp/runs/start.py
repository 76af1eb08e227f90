"""Checks that a command may start a run in a folder, before it writes anything there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_exp.errors import UserError, yaml_text
from alexnet_exp.runs.folder import flatten, to_json_value
from alexnet_exp.runs.reader import is_run, read_config, read_result
from alexnet_exp.runs.sweep_plan import SweepPlan

# Settings that may change on resume: the length, the devices, where data are read, what is saved and logged.
CHANGEABLE_ON_RESUME = (
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.min_epochs", "trainer.min_steps"),
    *("trainer.gpus", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.on_nan"),
    *("schedule.restarts", "schedule.restart_from"),  # for later epochs only, which training/continue_run.py checks
    *("trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.profiler", "trainer.limit_test_batches"),
    *("data.root", "data.workers", "data.cache", "data.decode", "data_root", "logger", "checkpoint", "test"),
    *("tags", "note", "resume"),
)
ALREADY_A_RUN = "the folder already contains a run; add resume=true to resume it, or name another folder"
DATA_PATHS = ("root", "cache")  # settings of `data` that may be relative paths


@dataclass(frozen=True)
class Start:
    """How a command starts a run in a folder.

    files: the files of `.hydra/` by name, written once the folder is locked and checked. new: the folder must not
    contain a run. seen: the `digest` of the folder when the command read it. resumed: whether the command asked to
    resume, which cancels an earlier request to prune the run.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    new: bool = False
    seen: str | None = None
    resumed: bool = False

    def check(self, folder: Path) -> None:
        """Raises UserError if the folder is not, or no longer, in the state that the command needs.

        Call it with the lock.
        """
        if self.new and has_run(folder):
            raise UserError(f"hydra.run.dir={folder}: {ALREADY_A_RUN}")
        if self.new and SweepPlan.is_in(folder):
            raise UserError(f"hydra.run.dir={folder}: the folder contains a sweep; name another folder")
        if self.seen is not None and self.seen != digest(folder):
            raise UserError(f"{folder}: another command changed the run while this one started; run the command again")


def has_run(folder: Path) -> bool:
    """Returns whether `folder` contains a run with any status."""
    return (folder / "result.json").exists() or (folder / "checkpoints").is_dir()


def digest(folder: Path) -> str:
    """Returns a hash of the run's configuration and result. It changes when the run is resumed or ends."""
    hashed = hashlib.sha256()
    for name in (".hydra/config.yaml", "result.json"):
        content = b""
        with suppress(OSError):
            content = (folder / name).read_bytes()
        hashed.update(len(content).to_bytes(8, "big") + content)
    return hashed.hexdigest()


def may_change_on_resume(key: str) -> bool:
    """Returns whether the setting may change when a run is resumed."""
    return any(key == free or key.startswith(f"{free}.") for free in CHANGEABLE_ON_RESUME)


def refuse_another_experiment(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError if result.json in `folder` records another experiment than the nested `config`.

    It does not compare settings that may change on resume, and ignores a damaged result.json.
    """
    recorded: Any = None
    if is_run(folder):
        with suppress(UserError):
            recorded = read_result(folder).get("config")
    if not isinstance(recorded, dict):
        return
    given = to_json_value(flatten(config))
    for key in sorted(given.keys() | recorded.keys()):
        here, there = yaml_text(given.get(key)), yaml_text(recorded.get(key))
        if here != there and not may_change_on_resume(key):
            raise UserError(
                f"{folder}: .hydra/config.yaml does not match result.json: {key} is {here} in config.yaml and {there} "
                "in result.json; restore .hydra/config.yaml, or start a new run"
            )


def config_of(folder: Path) -> dict[str, Any]:
    """Returns the configuration of the run in `folder`, with data paths that work from any working directory.

    A relative data path is relative to the folder where the run was started; if it does not exist there, to the current
    one. Raises UserError if config.yaml and result.json record different experiments.
    """
    config = read_config(folder)
    refuse_another_experiment(folder, config)
    data, started = config.get("data"), None
    with suppress(UserError):
        started = read_result(folder).get("cwd") if is_run(folder) else None
    if isinstance(data, dict) and isinstance(started, str) and Path(started) != Path.cwd():
        for key in DATA_PATHS:
            given = data.get(key)
            if isinstance(given, str) and not given.startswith("~") and not Path(given).is_absolute():
                there = Path(started) / given
                if there.exists() or not Path(given).exists():
                    data[key] = str(there)
    return config
