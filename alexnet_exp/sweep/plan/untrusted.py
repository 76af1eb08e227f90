"""The command that a search's folder holds, before it is run again: the folder may be somebody else's.

`hydra.callbacks`, `hydra.sweeper._target_`, lines of shell for SLURM: typed, they are the user's own affair. From a
folder, only settings of ours are taken, and of Hydra's those that say how much is tried and how many run at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from alexnet_exp.config.schema import Config
from alexnet_exp.errors import UserError
from alexnet_exp.paths import groups
from alexnet_exp.runs.sweep_plan import SWEEP_FILE, SweepPlan

FLAGS = ("-m", "--multirun")
SWEEP_DIR = "hydra.sweep.dir"
CHOICES = {"hydra/sweeper": ("grid", "optuna"), "hydra/launcher": ("process", "slurm")}
# Not among them: `storage`, an address; `setup` and `additional_parameters`, which are lines for a shell.
SWEEPER = ("n_trials", "sampler", "seed", "direction", "study_name", "pruner", "startup_trials", "warmup_epochs")
LAUNCHER = (
    *("jobs", "wait", "partition", "account", "qos", "timeout_min", "cpus_per_task", "gpus_per_node"),
    *("mem_gb", "nodes", "tasks_per_node"),
)
HYDRAS = {*(f"hydra.sweeper.{key}" for key in SWEEPER), *(f"hydra.launcher.{key}" for key in LAUNCHER)}
REFERENCE = re.compile(r"\$\{[\w.]+\}")  # to another setting: ${model.width}
PLAIN = re.compile(r"[\w.,:/+@ -]*")  # of a value that may get into a job script


def to_run_again(plan: SweepPlan) -> list[str]:
    """The words of a plan's command, without the folder that it names.

    Raises UserError where it was typed in another folder than this one, or asks for what no folder may ask for.
    """
    if not _is_here(plan.cwd):
        raise UserError(f"{plan.folder}: was started in {plan.cwd}; a search goes on where it was: type resume there")
    words = [word for word in plan.command if not word.startswith(f"{SWEEP_DIR}=")]
    for word in words:
        if not word.startswith("-"):
            refuse_foreign(plan, [word])
        elif word not in FLAGS:
            raise _refused(plan, word)
    return words


def refuse_foreign(plan: SweepPlan, overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Raises UserError for the first of `overrides`, out of a plan, that a folder may not ask for."""
    options = groups(config_dir)
    for word in overrides:
        if not _may_ask(word, options):
            raise _refused(plan, word)


def _refused(plan: SweepPlan, word: str) -> UserError:
    return UserError(
        f"{plan.folder / SWEEP_FILE}: it asks for {word!r}, which is not run because a folder says so; "
        "if it is your own, type the command itself again"
    )


def _is_here(cwd: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(cwd).samefile(Path.cwd())
    return False


def _may_ask(word: str, options: dict[str, list[str]]) -> bool:
    from alexnet_exp.config.composer import parsed_override

    if "${" in REFERENCE.sub("", word):  # ${oc.env:TOKEN}: resolved, it would get into what is written
        return False
    try:
        parsed = parsed_override(word)
    except UserError:
        return False
    key = parsed.key_or_group
    if parsed.package is not None:
        return False
    if key in CHOICES:
        return parsed.value() in CHOICES[key]
    if key in HYDRAS:
        return PLAIN.fullmatch(str(parsed.value())) is not None
    if key in options:
        # model=../../elsewhere/file would be read from there
        return all(value is None or str(value) in options[key] for value in _chosen(parsed))
    return key.partition(".")[0] in Config.__dataclass_fields__ and "/" not in key


def _chosen(parsed: Any) -> Iterator[Any]:
    """Every option that an override of a group chooses, one or several, swept or not."""
    from hydra.core.override_parser.types import ValueType

    if parsed.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return  # it chooses among the options
    if parsed.is_sweep_override():
        if not parsed.is_discrete_sweep():
            yield parsed.input_line  # no option
            return
        for text in parsed.sweep_string_iterator():
            yield from filter(None, re.split(r"[\[\],\s]+", text))
    elif isinstance(parsed.value(), list):
        yield from parsed.value()
    elif not parsed.is_delete() or parsed.value() not in (None, ""):
        yield parsed.value()
