"""Checks the command in a sweep's folder before it is run again: the folder may come from somebody else.

On the command line, the user may write `hydra.callbacks`, `hydra.sweeper._target_` or shell lines for SLURM. From a
folder, only this package's settings are accepted, and those of Hydra's that set the number of trials and jobs.
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

SWEEP_FLAGS = ("-m", "--multirun")
SWEEP_DIR_KEY = "hydra.sweep.dir"
ALLOWED_PLUGINS = {"hydra/sweeper": ("grid", "optuna"), "hydra/launcher": ("process", "slurm")}
# Without `storage`, a URL, and `setup` and `additional_parameters`, which contain lines for a shell.
SWEEPER_KEYS = ("n_trials", "sampler", "seed", "direction", "study_name", "pruner", "startup_trials", "warmup_epochs")
LAUNCHER_KEYS = (
    *("jobs", "wait", "partition", "account", "qos", "timeout_min", "cpus_per_task", "gpus_per_node"),
    *("mem_gb", "nodes", "tasks_per_node"),
)
ALLOWED_HYDRA_KEYS = {
    *(f"hydra.sweeper.{key}" for key in SWEEPER_KEYS),
    *(f"hydra.launcher.{key}" for key in LAUNCHER_KEYS),
}
SETTING_REFERENCE = re.compile(r"\$\{[\w.]+\}")  # ${model.width}
JOB_SCRIPT_VALUE = re.compile(r"[\w.,:/+@ -]*")  # has no effect in a shell but as a value


def checked_command(plan: SweepPlan) -> list[str]:
    """Returns the arguments of a plan's command, without `hydra.sweep.dir`.

    Raises UserError if it was run in another working folder, or contains an argument that a folder must not set.
    """
    if not _is_working_folder(plan.cwd):
        raise UserError(f"{plan.folder}: the search was started in {plan.cwd}; run resume in that folder")
    arguments = [argument for argument in plan.command if not argument.startswith(f"{SWEEP_DIR_KEY}=")]
    for argument in arguments:
        if not argument.startswith("-"):
            check_overrides(plan, [argument])
        elif argument not in SWEEP_FLAGS:
            raise _error(plan, argument)
    return arguments


def check_overrides(plan: SweepPlan, overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Raises UserError for the first of the plan's `overrides` that a folder must not set."""
    options = groups(config_dir)
    for override in overrides:
        if not _is_allowed(override, options):
            raise _error(plan, override)


def _error(plan: SweepPlan, argument: str) -> UserError:
    return UserError(
        f"{plan.folder / SWEEP_FILE}: its command contains {argument!r}, which is not accepted from a folder; "
        "if the sweep is your own, run its original command"
    )


def _is_working_folder(cwd: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(cwd).samefile(Path.cwd())
    return False


def _is_allowed(override: str, options: dict[str, list[str]]) -> bool:
    from alexnet_exp.config.composer import parse_override

    if "${" in SETTING_REFERENCE.sub("", override):  # such as ${oc.env:TOKEN}, whose value would be written to files
        return False
    try:
        parsed = parse_override(override)
    except UserError:
        return False
    key = parsed.key_or_group
    if parsed.package is not None:
        return False
    if key in ALLOWED_PLUGINS:
        return parsed.value() in ALLOWED_PLUGINS[key]
    if key in ALLOWED_HYDRA_KEYS:
        return JOB_SCRIPT_VALUE.fullmatch(str(parsed.value())) is not None
    if key in options:
        # Hydra would read model=../../elsewhere/file from that path.
        return all(value is None or str(value) in options[key] for value in _selected_options(parsed))
    return key.partition(".")[0] in Config.__dataclass_fields__ and "/" not in key


def _selected_options(parsed: Any) -> Iterator[Any]:
    """Yields the options that an override of a group selects."""
    from hydra.core.override_parser.types import ValueType

    if parsed.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return  # it selects existing options only
    if parsed.is_sweep_override():
        if not parsed.is_discrete_sweep():
            yield parsed.input_line  # not an option, so it is rejected
            return
        for text in parsed.sweep_string_iterator():
            yield from filter(None, re.split(r"[\[\],\s]+", text))
    elif isinstance(parsed.value(), list):
        yield from parsed.value()
    elif not parsed.is_delete() or parsed.value() not in (None, ""):
        yield parsed.value()
