"""Composes configurations from `conf/`, the user's own YAML files and overrides; reports every bad override at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alexnet_exp.config.composer import Composer, GroupOptions, parse_override, to_plain
from alexnet_exp.config.composition import Composition, validate_new_run
from alexnet_exp.config.diagnose import GROUPS_OF_ANY_KEY, MACHINE_GROUP, diagnose, find_misleading
from alexnet_exp.config.overrides import find_altered_texts, quote_text, sweep_overrides
from alexnet_exp.config.schema import COLLECTIONS, NODES, Config
from alexnet_exp.config.user_class import ROLES, TARGET_KEY
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.paths import conf_dir, group_names, groups

VERSION_BASE = "1.3"
ROOT_CONFIG = "config"


@cache
def register() -> None:
    """Registers the dataclasses in Hydra's ConfigStore: `defaults: [/schema/optim/sgd@_here_, _self_]` types a file."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    for group, classes in {**NODES, **COLLECTIONS}.items():
        for name, cls in classes.items():
            store.store(group=f"schema/{group}", name=name, node=cls)


def check_config_dir(config_dir: str | None) -> None:
    """Raises UserError if the folder does not exist, or has a file of a shipped name, which Hydra would ignore."""
    if config_dir is None:
        return
    folder = Path(config_dir)
    if not folder.is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder")
    for file in sorted(folder.rglob("*.yaml")):
        relative = file.relative_to(folder)
        if (conf_dir() / relative).exists():
            raise UserError(
                f"--config-dir {config_dir}: {relative} is the name of a shipped file; give yours another name"
            )


def compose(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """Returns the composed configuration as plain containers, interpolations resolved, not validated.

    Raises `Refused` with a problem for each override that cannot be used.
    """
    return _compose_both(overrides, config_dir)[1]


def compose_yaml(overrides: Sequence[str], config_dir: str | None = None) -> str:
    """Returns the composed configuration as YAML, interpolations as they are written; raises as `compose` does."""
    return OmegaConf.to_yaml(_compose_both(overrides, config_dir)[0])


def compose_run(
    overrides: Sequence[str], config_dir: str | None = None, composer: Composer | None = None
) -> Composition:
    """Composes and validates the configuration of a run that is to be started.

    composer: that of `config_dir`, if there are several configurations to compose. Raises UserError, as `compose` and
    `validate_new_run` do.
    """
    return validate_new_run(_compose_both(overrides, config_dir, composer)[1])


def _compose_both(
    overrides: Sequence[str], config_dir: str | None, composer: Composer | None = None
) -> tuple[DictConfig, dict[str, Any]]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    check_config_dir(config_dir)
    composer = composer or composer_of(config_dir)
    try:
        config = composer(overrides)
        container = to_plain(config)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise Refused(diagnose(list(overrides), config_dir, error, composer)) from error
    refuse_misleading(overrides, config_dir)
    return config, container


def refuse_misleading(overrides: Sequence[str], config_dir: str | None) -> None:
    """Raises Refused for overrides that Hydra accepts but that have another effect than they seem to."""
    misleading = list(find_misleading(overrides, config_dir))
    if misleading:
        raise Refused(misleading)


def diagnose_jobs(jobs: Iterable[Sequence[str]], config_dir: str | None) -> None:
    """Composes and validates jobs by their overrides; raises UserError with each problem of any of them once."""
    problems = JobProblems(config_dir)
    for overrides in jobs:
        with problems.gathered(overrides):
            validate_new_run(to_plain(problems.composer(overrides)))
    problems.done()


class JobProblems:
    """Collects the problems of the jobs of a sweep, each once.

    The jobs of a grid share overrides, and the diagnosis of each override takes time. Overrides that were diagnosed for
    an earlier job are not diagnosed again.
    """

    def __init__(self, config_dir: str | None):
        self.config_dir = config_dir
        self.composer = composer_of(config_dir)
        self._lines = dict[str, None]()
        self._overrides = dict[str, None]()  # of all jobs
        self._seen: set[str] = set()

    @contextmanager
    def gathered(self, overrides: Sequence[str]) -> Iterator[None]:
        """Collects the error that composing or checking a job raises inside the block."""
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        self._overrides |= dict.fromkeys(overrides)
        try:
            yield
        except UserError as error:
            self.note(error)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if not self._seen.issuperset(overrides) or not self._lines:
                self.note(Refused(diagnose(list(overrides), self.config_dir, error, self.composer)))
                self._seen |= set(overrides)

    def note(self, error: UserError) -> None:
        """Adds the lines of an error."""
        self._lines |= dict.fromkeys(str(error).splitlines())

    def done(self) -> None:
        """Raises UserError with all collected problems, and with misleading overrides."""
        misleading = list(find_misleading(list(self._overrides), self.config_dir)) if not self._lines else []
        if misleading:
            self.note(Refused(misleading))
        if self._lines:
            raise UserError("\n".join(self._lines))


def each_job(overrides: Sequence[str], config_dir: str | None = None) -> Iterator[list[str]]:
    """Returns the overrides of each job of a grid (`model=lrn,bn seed=1,2`): their product, in Hydra's order."""
    choices = []
    for text in overrides:
        parsed = parse_override(text, GroupOptions(config_dir))
        if parsed.is_hydra_override():
            continue
        if parsed.is_sweep_override() and parsed.is_discrete_sweep():
            choices.append(sweep_overrides(parsed))
        else:
            choices.append([parsed.input_line or ""])
    return (list(job) for job in itertools.product(*choices))


def check_texts(config_dir: str) -> None:
    """Raises UserError for text in the user's YAML files that YAML reads as a number or a boolean."""
    files = [*Path(config_dir).rglob("*.yaml"), *(conf_dir() / MACHINE_GROUP).glob("*.yaml")]
    lines = [
        f"{file}: {key}: {text} is a number or true to YAML; write {last}: '{text}'"
        for file in sorted(files)
        for key, last, text in find_altered_texts(file)
    ]
    if lines:
        raise UserError("\n".join(lines))


def prepare_overrides(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Returns the overrides for Hydra: text stays text, and an argument of a user's class needs no `+`."""
    if config_dir:
        check_texts(config_dir)
    given = list(map(quote_text, overrides))
    unclear = [text for text in given if config_dir and re.match(rf"({'|'.join(ROLES)})\.[^=]+=", text)]
    if not unclear:
        return given
    options = groups(config_dir)
    # sweeps over other settings would only multiply the compositions
    wanted = {text.partition(".")[0] for text in unclear} | GROUPS_OF_ANY_KEY
    chosen = [text for text in given if text.partition("=")[0] in options.keys() & wanted]
    try:
        jobs = [composer_of(config_dir)(job) for job in each_job(chosen, config_dir)]
    except Exception:  # invalid options are reported with the other problems
        return given
    return [
        f"++{text}" if text in unclear and any(_is_new_argument(text, job) for job in jobs) else text for text in given
    ]


def _is_new_argument(override: str, config: DictConfig) -> bool:
    """Returns whether a setting is a new argument of a node with `_target_`."""
    node: Any = config
    for part in override.partition("=")[0].split("."):
        if not isinstance(node, DictConfig) or node._is_none():
            return False
        if part not in node:
            return TARGET_KEY in node
        node = node._get_node(part)
    return False


def composer_of(config_dir: str | None) -> Composer:
    """Returns the composer of single configurations, without Hydra's own node."""
    return Composer(lambda overrides: _compose(overrides, config_dir), group_names(config_dir))


def _compose(overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    import hydra

    register()
    with _apart(), hydra.initialize_config_dir(version_base=VERSION_BASE, config_dir=str(conf_dir())):
        return hydra.compose(config_name=ROOT_CONFIG, overrides=[*overrides, *_searchpath(config_dir)])


@contextmanager
def _apart() -> Iterator[None]:
    """Allows another initialization of Hydra inside the block, because jobs are composed while Hydra runs a command."""
    from hydra.core.global_hydra import GlobalHydra

    one = GlobalHydra.instance()
    before, one.hydra = one.hydra, None
    try:
        yield
    finally:
        one.hydra = before


def _searchpath(config_dir: str | None) -> list[str]:
    return [f"hydra.searchpath=[{Path(config_dir).resolve().as_uri()}]"] if config_dir else []
