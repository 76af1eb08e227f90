"""Determines the folder of a sweep from its command, so that the same command finds the same folder."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from alexnet_exp.config.compose import compose
from alexnet_exp.config.composer import GroupOptions, parse_override
from alexnet_exp.config.diagnose import GROUPS_OF_ANY_KEY
from alexnet_exp.config.overrides import quote_text
from alexnet_exp.errors import Problem, Refused, UserError
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs import lock
from alexnet_exp.runs.start import has_run
from alexnet_exp.runs.sweep_plan import SWEEP_FILE
from alexnet_exp.sweep.plan.naming import settings_of, sort_overrides, sweep_name

if TYPE_CHECKING:
    from omegaconf import DictConfig

# The values in conf/config.yaml; any other value was set by the user.
_DEFAULT_DIR, _DEFAULT_SUBDIR = "outputs/${name}/sweep", "${hydra.job.num}"
DEFAULT_SWEEP_NAME = "sweep"  # if the jobs have different names
MULTIRUN_FILE = "multirun.yaml"  # written by Hydra's sweepers


def select_folder(overrides: Sequence[str], config_dir: str | None, settings: DictConfig) -> Path:
    """Returns the sweep's folder: outputs/<name>/<swept settings>-<hash of the command>, or the user's hydra.sweep.dir.

    settings: the configuration with the node `hydra`, of a `HydraSession`. Raises UserError if hydra.sweep.subdir is
    set.
    """
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(settings.hydra.sweep, resolve=False)
    assert isinstance(raw, dict)
    if raw["subdir"] != _DEFAULT_SUBDIR:
        instead = "it cannot be set, because a job's folder is named after its settings; leave it out"
        raise Refused([Problem("hydra.sweep.subdir", raw["subdir"], instead)])
    if raw["dir"] != _DEFAULT_DIR:
        return Path(_own_folder(settings))
    swept = _swept(overrides, settings)
    parent = OUTPUTS / _name(overrides, swept, config_dir, settings)
    folder = parent / sweep_name(swept, overrides, config_dir)
    return folder if folder.exists() else _find_in_another_order(parent, overrides, config_dir) or folder


def _find_in_another_order(parent: Path, overrides: Sequence[str], config_dir: str | None) -> Path | None:
    """Returns the folder of a sweep with the same overrides in another order, if their order has no effect."""
    in_order = sort_overrides(overrides)
    if in_order is None:
        return None
    for file in sorted(parent.glob(f"*/{SWEEP_FILE}")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            other = parse_command(json.loads(file.read_text(encoding="utf-8"))["command"])
            if sort_overrides(other.overrides) == in_order and other.config_dir == config_dir:
                return file.parent
    return None


def parse_command(command: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments of a sweep's command with Hydra's parser; raises ValueError if they are invalid."""
    from hydra._internal.utils import get_args_parser

    def raise_error(message: str) -> NoReturn:
        raise ValueError(message)

    parser = get_args_parser()
    parser.error = raise_error  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(command))


def create_folder(master: DictConfig) -> Path:
    """Creates the sweep's folder `hydra.sweep.dir`; raises UserError if it cannot be written or contains a run."""
    folder = Path(master.hydra.sweep.dir)
    if has_run(folder):
        raise Refused([Problem("hydra.sweep.dir", folder, "this folder contains a run; write another folder")])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise Refused([Problem("hydra.sweep.dir", folder, f"cannot be written ({reason}); write another folder")])
    return folder


@contextmanager
def remove_if_unplanned(folder: Path) -> Iterator[None]:
    """Removes the folders created within it if the sweep is rejected or stopped before its plan is written."""
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    finally:
        if created and not (folder / SWEEP_FILE).exists():
            with suppress(OSError):
                # Sweepers write these before all jobs and settings have been validated.
                for name in (MULTIRUN_FILE, lock.LOCK_FILE):
                    (folder / name).unlink(missing_ok=True)
                for each in created:
                    each.rmdir()  # fails on a folder in which a launcher of Hydra's has run jobs


def _own_folder(settings: DictConfig) -> str:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return str(settings.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        raise UserError(f"hydra.sweep.dir: {str(error).splitlines()[0]}") from None


def _swept(overrides: Sequence[str], settings: DictConfig) -> dict[str, str]:
    """Returns the settings with several values, of a file or the command line, with their texts."""
    params = settings.hydra.sweeper.get("params") or {}
    texts = settings_of([*(quote_text(f"{key}={value}") for key, value in params.items()), *overrides])
    parsed = [parse_override(f"{key}={value}") for key, value in texts.items()]
    return {each.key_or_group: texts[_key(each)] for each in parsed if each.is_sweep_override()}


def _key(parsed: Any) -> str:
    return str(parsed.get_key_element()).lstrip("+~")


def _name(overrides: Sequence[str], swept: dict[str, str], config_dir: str | None, settings: DictConfig) -> str:
    """Returns the name that all jobs have, or `DEFAULT_SWEEP_NAME` if the swept settings give them different names."""
    naming_keys = [key for key in swept if key == "name" or key in GROUPS_OF_ANY_KEY]
    if not naming_keys:
        # An invalid name is rejected later, with all other problems; until then it must not select another folder.
        is_invalid = set(str(settings.name)) & set("/\\") or settings.name == ".."
        return DEFAULT_SWEEP_NAME if is_invalid else str(settings.name)
    parsed = [parse_override(f"{key}={swept[key]}", GroupOptions(config_dir)) for key in naming_keys]
    if not all(each.is_discrete_sweep() for each in parsed):
        return DEFAULT_SWEEP_NAME
    fixed = [override for override in overrides if override.lstrip("+~").partition("=")[0] not in swept]
    fixed = [override for override in fixed if not override.startswith("hydra")]
    names = set()
    with suppress(UserError):  # a job that does not compose is reported later, with all other problems
        for values in itertools.product(*(list(each.sweep_string_iterator()) for each in parsed)):
            selected = [f"{key}={value}" for key, value in zip(naming_keys, values, strict=True)]
            names.add(str(compose([*fixed, *selected], config_dir)["name"]))
    return names.pop() if len(names) == 1 else DEFAULT_SWEEP_NAME
