"""Composing a configuration from `conf/`, the user's own YAML and the overrides typed; saying what is wrong with all of them.

Hydra stops at the first bad override, and its advice for an unknown key (`+key=value`) is how a typo comes to be accepted.
So when composing fails, every override is looked at by itself, and `Refused` names each bad one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alexnet_exp.match import match
from alexnet_exp.paths import conf_dir, groups
from alexnet_exp.schema import COLLECTIONS, NODES, Config
from alexnet_exp.settings import NO_VALUE, Problem, Refused, UserError, nearest, one_of
from alexnet_exp.validate import validate

VERSION_BASE = "1.3"
ROOT = "config"


def register() -> None:
    """Puts the dataclasses under the YAML: `defaults: [/schema/optim/sgd@_here_, _self_]` gives a file its types and defaults."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    for group, classes in {**NODES, **COLLECTIONS}.items():
        for name, cls in classes.items():
            store.store(group=f"schema/{group}", name=name, node=cls)


def check_config_dir(config_dir: str | None) -> None:
    """Refuses a user's folder that is not there, or that holds a file of a shipped name: Hydra would ignore one silently."""
    if config_dir is None:
        return
    folder = Path(config_dir)
    if not folder.is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    for file in sorted(folder.rglob("*.yaml")):
        relative = file.relative_to(folder)
        if (conf_dir() / relative).exists():
            raise UserError(f"--config-dir {config_dir}: {relative} is the name of a shipped file; give yours another name")


def compose(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """The composed configuration as plain containers (enums as strings, interpolations resolved), not yet validated.

    Raises `Refused` with a problem for each override that cannot be used.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    check_config_dir(config_dir)
    try:
        return plain(_compose(overrides, config_dir))
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(_diagnose(list(overrides), config_dir, error)) from error


def composed(overrides: Sequence[str], config_dir: str | None = None) -> tuple[Config, dict[str, Any]]:
    """The validated configuration, whose network and data fit each other, and the plain containers it was made from."""
    container = compose(overrides, config_dir)
    config = validate(container)
    match(config)
    return config, container


def plain(config: DictConfig) -> dict[str, Any]:
    """Plain containers of a composed configuration. An enum in a checkpoint would break `weights_only` loading."""
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def each_job(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep over a grid (`model=lrn,bn seed=1,2`): their product, in Hydra's order."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    choices = []
    for parsed in OverridesParser.create().parse_overrides(list(overrides)):
        if parsed.is_sweep_override() and parsed.is_discrete_sweep():
            key = parsed.get_key_element()
            choices.append([f"{key}={value}" for value in parsed.sweep_string_iterator()])
        else:
            choices.append([parsed.input_line or ""])
    return (list(job) for job in itertools.product(*choices))


def _compose(overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    import hydra

    register()
    extra = [f"hydra.searchpath=[{Path(config_dir).resolve().as_uri()}]"] if config_dir else []
    with hydra.initialize_config_dir(version_base=VERSION_BASE, config_dir=str(conf_dir())):
        return hydra.compose(config_name=ROOT, overrides=[*overrides, *extra])


def _diagnose(overrides: list[str], config_dir: str | None, error: Exception) -> list[Problem]:
    """What is wrong with each override; where none is wrong by itself, what Hydra said of them together."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    options = groups(config_dir)
    problems, good, values = [], [], []
    for text in overrides:
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException:
            problems.append(Problem(text, NO_VALUE, "cannot be read as an override; write key=value, and quote a value with special characters"))
            continue
        key = parsed.key_or_group
        if key in options and parsed.package is None:
            wrong = _wrong_option(key, parsed.value(), options[key])
            problems += wrong
            good += [] if wrong else [text]
        elif parsed.is_sweep_override():
            problems.append(Problem(key, parsed.value_text or text, "several values are a sweep; add -m"))
        else:
            values.append((text, parsed))
    for text, parsed in values:
        try:
            _compose([*good, text], config_dir)
        except (HydraException, OmegaConfBaseException) as single:
            problems.append(_wrong_value(parsed, good, config_dir, options, single))
    return problems or [Problem("configuration", NO_VALUE, _last_line(error))]


def _wrong_option(group: str, value: Any, options: list[str]) -> list[Problem]:
    chosen = value if isinstance(value, list) else [value]
    return [Problem(group, name, one_of(name, options)) for name in chosen if name is not None and str(name) not in options]


def _wrong_value(parsed: Any, good: list[str], config_dir: str | None, options: dict[str, list[str]], error: Exception) -> Problem:
    """The problem with `key=value`, in our words: an unknown key, or a value of another type than the key's."""
    key, value = parsed.key_or_group, parsed.value()
    first = key.partition(".")[0]
    names = {*Config.__dataclass_fields__, *options} - {"schema"}
    if first not in names and first != "hydra":
        near = nearest(first, names)
        return Problem(key, value, "unknown setting; " + (f"did you mean {near}?" if near else "python -m alexnet_exp --help lists them"))
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    try:
        validate(_merged(plain(_compose(good, config_dir)), nested))
    except Refused as refused:
        return refused.problems[0]
    except Exception:  # the other overrides do not compose either: their problems are told, this one as Hydra put it
        pass
    return Problem(key, value, _last_line(error))


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], value) for key, value in over.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **over, **both}


def _last_line(error: Exception) -> str:
    """The innermost cause of Hydra's error in one line, without its advice to append with `+`."""
    cause = error.__cause__ or error
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
