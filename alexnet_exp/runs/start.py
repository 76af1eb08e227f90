"""What a command may find in a run's folder, checked under the folder's lock before anything is written there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_exp.errors import UserError, yaml_text
from alexnet_exp.runs.folder import flatten, plain
from alexnet_exp.runs.reader import is_run, read_config, read_result
from alexnet_exp.runs.sweep_plan import SweepPlan

# What may change when a run is resumed: how long it trains, where it computes and reads, what is kept and logged.
FREE = (
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.min_epochs", "trainer.min_steps"),
    *("trainer.gpus", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.on_nan"),
    *("schedule.restarts", "schedule.restart_from"),  # of epochs to come: training/continue_run.py checks that
    *("trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.profiler", "trainer.limit_test_batches"),
    *("data.root", "data.workers", "data.cache", "data.decode", "data_root", "logger", "checkpoint", "test"),
    *("tags", "note", "resume"),
)
RUN_THERE = "a run lies there; add resume=true to go on with it, or name another"
DATA_PATHS = ("root", "cache")  # settings of `data` that a relative path may be given for


@dataclass(frozen=True)
class Start:
    """How a command starts a run in a folder.

    files: of `.hydra/`, by name: written once the folder is locked and nothing speaks against the run. new: the folder
    must not hold a run. seen: the `digest` of the folder when the command read it. resumed: whether the command asked
    to resume, so that an earlier request to prune the run no longer counts.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    new: bool = False
    seen: str | None = None
    resumed: bool = False

    def check(self, folder: Path) -> None:
        """Raises UserError where the folder is not, or no longer, as the command needs it. The lock is held."""
        if self.new and holds_run(folder):
            raise UserError(f"hydra.run.dir={folder}: {RUN_THERE}")
        if self.new and SweepPlan.is_in(folder):
            raise UserError(f"hydra.run.dir={folder}: the folder of a sweep; name another")
        if self.seen is not None and self.seen != digest(folder):
            raise UserError(f"{folder}: another command changed it while this one started; type the command again")


def holds_run(folder: Path) -> bool:
    """Whether there is a run in `folder`, in whatever state."""
    return (folder / "result.json").exists() or (folder / "checkpoints").is_dir()


def digest(folder: Path) -> str:
    """A hash of what the run in `folder` says of itself: it changes when the run is resumed, or ends."""
    hashed = hashlib.sha256()
    for name in (".hydra/config.yaml", "result.json"):
        content = b""
        with suppress(OSError):
            content = (folder / name).read_bytes()
        hashed.update(len(content).to_bytes(8, "big") + content)
    return hashed.hexdigest()


def is_free(key: str) -> bool:
    """Whether the setting may be another when a run is resumed."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def refuse_another_experiment(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError where result.json in `folder` is of another experiment than the nested `config`.

    Settings that may change when a run is resumed are not compared; a result.json that is damaged is not either.
    """
    recorded: Any = None
    if is_run(folder):
        with suppress(UserError):
            recorded = read_result(folder).get("config")
    if not isinstance(recorded, dict):
        return
    given = plain(flatten(config))
    for key in sorted(given.keys() | recorded.keys()):
        here, there = yaml_text(given.get(key)), yaml_text(recorded.get(key))
        if here != there and not is_free(key):
            raise UserError(
                f"{folder}: .hydra/config.yaml is not of the run in result.json: {key} is {here} there and {there} in "
                "result.json; write its settings back into .hydra/config.yaml, or start a new run"
            )


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration of the run in `folder`, as `read_config` gives it, for use from any working directory.

    A relative path of its data is one of the folder in which the run was started: where it is not there, of this one.
    Raises UserError where config.yaml and result.json are of two experiments.
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
