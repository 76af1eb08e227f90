"""Which folder a sweep has: that of its command, so that the same command comes back to it."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from alexnet_exp.config.compose import WHOLE, compose
from alexnet_exp.config.composer import Options, parsed_override
from alexnet_exp.config.overrides import exact
from alexnet_exp.errors import Problem, Refused, UserError
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs import lock
from alexnet_exp.runs.start import has_run
from alexnet_exp.runs.sweep_plan import SWEEP_FILE
from alexnet_exp.sweep.plan.naming import in_any_order, settings_of, sweep_name

if TYPE_CHECKING:
    from omegaconf import DictConfig

# As conf/config.yaml has them: what differs from them is the user's own.
_DIR, _SUBDIR = "outputs/${name}/sweep", "${hydra.job.num}"
OF_SEVERAL = "sweep"  # instead of a name, where the jobs have several
MULTIRUN = "multirun.yaml"  # Hydra's own


def choose(overrides: Sequence[str], config_dir: str | None, settings: DictConfig) -> Path:
    """The sweep's folder: outputs/<name>/<what is swept>-<hash of the command>, or the user's own hydra.sweep.dir.

    settings: as `config.settings_of_hydra` gives them. Raises UserError where the user names the jobs' folders too.
    """
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(settings.hydra.sweep, resolve=False)
    assert isinstance(raw, dict)
    if raw["subdir"] != _SUBDIR:
        instead = "leave it out: a job's folder is named from what varies and a hash of its configuration"
        raise Refused([Problem("hydra.sweep.subdir", raw["subdir"], instead)])
    if raw["dir"] != _DIR:
        return Path(_own(settings))
    swept = _swept(overrides, settings)
    beside = OUTPUTS / _name(overrides, swept, config_dir, settings)
    folder = beside / sweep_name(swept, overrides, config_dir)
    return folder if folder.exists() else _in_another_order(beside, overrides, config_dir) or folder


def _in_another_order(beside: Path, overrides: Sequence[str], config_dir: str | None) -> Path | None:
    """The folder of the sweep whose command has the same overrides in another order, where that has no meaning."""
    what = in_any_order(overrides)
    if what is None:
        return None
    for file in sorted(beside.glob(f"*/{SWEEP_FILE}")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            words = json.loads(file.read_text(encoding="utf-8"))["command"]
            theirs = flags_of(words)
            if in_any_order(theirs.overrides) == what and theirs.config_dir == config_dir:
                return file.parent
    return None


def flags_of(command: Sequence[str]) -> argparse.Namespace:
    """The words of a sweep's command, as Hydra's own parser takes them apart. Raises ValueError where it cannot."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ValueError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(command))


def make(master: DictConfig) -> Path:
    """The sweep's folder `hydra.sweep.dir`, made if need be; raises UserError where it cannot be written."""
    folder = Path(master.hydra.sweep.dir)
    if has_run(folder):
        raise Refused([Problem("hydra.sweep.dir", folder, "this folder contains a run; write another folder")])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = None if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        why = error.strerror
    if why:
        raise Refused([Problem("hydra.sweep.dir", folder, f"no sweep can be written there ({why})")])
    return folder


@contextmanager
def left_as_it_was(folder: Path) -> Iterator[None]:
    """Where the sweep is refused or stopped before it is planned, takes away again what was made for it."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    finally:
        if made and not (folder / SWEEP_FILE).exists():
            with suppress(OSError):
                # made by a sweeper before all jobs and settings have been looked at
                for name in (MULTIRUN, lock.LOCK_FILE):
                    (folder / name).unlink(missing_ok=True)
                for each in made:
                    each.rmdir()  # not what holds anything: a launcher of Hydra's own has run jobs there


def _own(settings: DictConfig) -> str:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return str(settings.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        raise UserError(f"hydra.sweep.dir: {str(error).splitlines()[0]}") from None


def _swept(overrides: Sequence[str], settings: DictConfig) -> dict[str, str]:
    """What is listed with several values, by a file or on the command line, as it is written."""
    params = settings.hydra.sweeper.get("params") or {}
    texts = settings_of([*(exact(f"{key}={value}") for key, value in params.items()), *overrides])
    parsed = [parsed_override(f"{key}={value}") for key, value in texts.items()]
    return {each.key_or_group: texts[_key(each)] for each in parsed if each.is_sweep_override()}


def _key(parsed: Any) -> str:
    return str(parsed.get_key_element()).lstrip("+~")


def _name(overrides: Sequence[str], swept: dict[str, str], config_dir: str | None, settings: DictConfig) -> str:
    """The name that all jobs have; `OF_SEVERAL` where what is swept gives them different ones."""
    naming = [key for key in swept if key == "name" or key in WHOLE]
    if not naming:
        # a name that is no folder's is refused with all else that is wrong, and must not lead elsewhere until then
        return OF_SEVERAL if set(str(settings.name)) & set("/\\") or settings.name == ".." else str(settings.name)
    parsed = [parsed_override(f"{key}={swept[key]}", Options(config_dir)) for key in naming]
    if not all(each.is_discrete_sweep() for each in parsed):
        return OF_SEVERAL
    fixed = [override for override in overrides if override.lstrip("+~").partition("=")[0] not in swept]
    fixed = [override for override in fixed if not override.startswith("hydra")]
    names = set()
    with suppress(UserError):  # what does not compose is told with all the rest
        for values in itertools.product(*(list(each.sweep_string_iterator()) for each in parsed)):
            chosen = [f"{key}={value}" for key, value in zip(naming, values, strict=True)]
            names.add(str(compose([*fixed, *chosen], config_dir)["name"]))
    return names.pop() if len(names) == 1 else OF_SEVERAL
