"""Checking a composed configuration, node by node, before anything heavy starts; every problem is told at once.

A node is checked against the dataclass that its `name` chooses (tried.md: merging a whole schema refuses valid
configurations as soon as a group has one dataclass an option). It comes out as an object of that dataclass. A node
with `_target_` names a user's class and is an `extend.UserClass` then. No torch here, until a user's class is named.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from alexnet_exp.config.schema import (
    COLLECTIONS,
    COLUMNS,
    METRICS,
    NODES,
    PRECISE_METRICS,
    TRAIN_EVAL,
    Config,
    EarlyStopping,
    Ema,
    PreciseBn,
    TrainError,
)
from alexnet_exp.config.suggestions import of_setting
from alexnet_exp.config.user_class import ROLES, TARGET, UserClass
from alexnet_exp.errors import NO_VALUE, Problem, Refused, suggest_name
from alexnet_exp.model.spec import Network
from alexnet_exp.optim.optimizer_spec import Optimizer
from alexnet_exp.optim.schedule_spec import Plateau, Schedule

LISTED = 12  # known keys of a node up to which an unknown one is answered with all of them

Known = dict[tuple[type, str], Any]
"""Objects by their class and the settings that they were made of, as JSON."""
REMEMBERED = 256
"""Nodes whose objects are kept."""
_known: Known = {}


def validate(container: Mapping[str, Any]) -> Config:
    """The typed configuration of a plain one (no interpolation left in it).

    Raises `Refused` with every problem found: unknown keys, wrong types, values out of range, settings that contradict
    each other.
    """
    problems: list[Problem] = []
    nodes: dict[str, Any] = {}
    for group in (*NODES, *COLLECTIONS, "module"):
        try:
            nodes[group] = _group(group, container.get(group))
        except Refused as refused:
            problems += refused.problems
    try:
        config: Config = typed(Config, _root(container), "")
    except Refused as refused:
        raise Refused(refused.problems + problems) from None
    if problems:
        raise Refused(problems)
    for group, node in nodes.items():
        setattr(config, group, node)
    contradictions = list(_contradictions(config))
    if contradictions:
        raise Refused(contradictions)
    return config


def is_same_experiment(stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether two plain configurations are of one experiment, where an earlier version may have stored the first.

    A setting that is new since then has its default in `stored`: with a new setting's default, everything is as before.
    """
    try:
        return validate(stored) == validate(given)
    except Refused:  # a setting that there is no longer
        return False


def known(container: Mapping[str, Any]) -> Known:
    """What this process has made of a configuration's nodes, for another that is to validate it too."""
    nodes = [*(container.get(group) for group in NODES), _root(container)]
    for group in COLLECTIONS:
        nodes += (container.get(group) or {}).values()
    texts = {json.dumps(node, default=str) for node in nodes}
    return {key: made for key, made in _known.items() if key[1] in texts}


def learn(known: Known) -> None:
    """Takes over what another process has made, see `known`."""
    _known.update(known)


def _root(container: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are in no group."""
    groups = {*NODES, *COLLECTIONS, "module"}
    return {key: value for key, value in container.items() if key not in groups}


def _group(group: str, node: Any) -> Any:
    if group == "module":
        return None if node is None else UserClass("module", node, "module")
    if group in NODES:
        return _node(group, NODES[group], node, group)
    if not isinstance(node or {}, Mapping):
        raise Refused([Problem(group, node, f"must be a group of settings; write {group}=NAME")])
    problems, found = [], {}
    for key, entry in (node or {}).items():
        if entry is None:
            continue
        try:
            found[key] = _node(group, COLLECTIONS[group], entry, f"{group}.{key}")
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)
    return found


def _node(role: str, classes: Mapping[str, type], node: Any, prefix: str) -> Any:
    if not isinstance(node, Mapping):
        raise Refused([Problem(prefix, node, f"must be a group of settings; write {prefix.split('.')[0]}=NAME")])
    if TARGET in node:
        if role not in ROLES:
            raise Refused([Problem(f"{prefix}.{TARGET}", node[TARGET], f"{role} takes no class of your own")])
        return UserClass(role, node, prefix)
    if len(classes) == 1:
        return typed(next(iter(classes.values())), node, prefix)
    name = str(node["name"]) if node.get("name") is not None else None
    if name is None and role in COLLECTIONS:
        raise Refused(
            [Problem(prefix, NO_VALUE, f"is not among the {role} chosen; add it with {prefix.replace('.', '=', 1)}")]
        )
    if name is None or name not in classes:
        raise Refused([Problem(f"{prefix}.name", name, suggest_name(name, classes))])
    return typed(classes[name], node, prefix)


def typed(cls: type, node: Mapping[str, Any], prefix: str) -> Any:
    """An object of the dataclass `cls` with the settings of `node`; raises `Refused` with keys under `prefix`.

    What a node of plain settings has come to is remembered: the jobs of a sweep differ in one or two nodes.
    """
    try:
        key = cls, json.dumps(node)
    except (TypeError, ValueError):
        return _typed(cls, node, prefix)
    if key not in _known:
        if len(_known) >= REMEMBERED:
            _known.clear()
        _known[key] = _typed(cls, node, prefix)
    return copy.deepcopy(_known[key])


def _typed(cls: type, node: Mapping[str, Any], prefix: str) -> Any:
    problems = [
        # OmegaConf would resolve it: ${oc.env:TOKEN} in a folder of somebody else's
        Problem(".".join(path), value, "must be plain; ${...} is resolved on the command line and in conf/ alone")
        for path, value in _leaves(node)
        if "${" in str(value)
    ]
    problems += _nested_elements(cls, node)
    if problems:
        raise Refused([problem.under(prefix) if prefix else problem for problem in problems])
    try:
        merged = OmegaConf.unsafe_merge(OmegaConf.structured(cls), dict(node))  # it may change its first: ours is new
    except OmegaConfBaseException:
        merged, problems = _part_by_part(cls, node, prefix)
    told = {problem.key for problem in problems}  # what was refused has its default now, which may not do either
    problems += [problem for problem in _out_of_range(merged) if problem.key not in told]
    if problems:
        raise Refused([problem.under(prefix) if prefix else problem for problem in problems])
    return OmegaConf.to_object(merged)


def _part_by_part(cls: type, node: Mapping[str, Any], prefix: str) -> tuple[Any, list[Problem]]:
    """What of `node` fits `cls`, and a problem for each setting that does not: OmegaConf itself stops at the first.

    A part is taken apart only where it does not fit as a whole: a merge takes its time.
    """
    merged, problems = OmegaConf.structured(cls), []
    waiting: list[tuple[tuple[str, ...], Any]] = [((str(key),), value) for key, value in reversed(list(node.items()))]
    while waiting:
        path, value = waiting.pop()
        nested: Any = value
        for key in reversed(path):
            nested = {key: nested}
        try:
            merged = OmegaConf.merge(merged, nested)
        except OmegaConfBaseException as error:
            if isinstance(value, Mapping) and value and _is_group(cls, path):
                waiting += [((*path, str(key)), inner) for key, inner in reversed(list(value.items()))]
            elif isinstance(error, ConfigKeyError):
                problems.append(_unknown_key(error, path, prefix, value))
            else:
                problems.append(Problem(".".join(path), value, _expected(cls, path, value) or _first_line(error)))
    return merged, problems


def _is_group(cls: type, path: tuple[str, ...]) -> bool:
    """Whether the field at `path` holds settings of its own, or there is no such field."""
    kind, _ = _without_none(_kind(cls, path))
    return kind is None or kind is Any or dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict


def _nested_elements(cls: type, node: Mapping[str, Any]) -> Iterator[Problem]:
    """The lists of single values that hold lists or groups: OmegaConf takes these for elements of any type."""
    for path, value in _leaves(node):
        if isinstance(value, list) and any(isinstance(element, list | Mapping) for element in value):
            kind, _ = _without_none(_kind(cls, path))
            if typing.get_origin(kind) is list and typing.get_args(kind) != (Any,):
                yield Problem(".".join(path), value, _expected(cls, path, value) or "")


def _leaves(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _unknown_key(error: OmegaConfBaseException, path: tuple[str, ...], prefix: str, value: Any) -> Problem:
    """The problem with a key that its node has not, with what was probably meant."""
    fields = dataclasses.fields(error.object_type) if dataclasses.is_dataclass(error.object_type) else ()
    known = [field.name for field in fields]
    option = next((str(field.default) for field in fields if field.name == "name"), "")
    advice = of_setting(".".join(filter(None, (prefix, *path))), value, known, option)
    if advice is None and len(known) <= LISTED:
        advice = f"there are {', '.join(known)}" if known else "it takes none"
    return Problem(".".join(path), value, f"unknown setting; {advice or 'python -m alexnet_exp --cfg job lists them'}")


# Settings at the root that other programs have with values of another kind.
_HINTS = {
    ("resume",): "must be true or false; to resume a run, write python -m alexnet_exp resume RUN",
    ("test",): "must be a group of settings; write test.run=true or test.run=false",
    ("checkpoint",): "must be a group of settings; to resume a run, write python -m alexnet_exp resume RUN",
}


def _expected(cls: Any, path: tuple[str, ...], value: Any) -> str | None:
    """What the field at `path` takes, in words; None where its type says nothing that a person would write."""
    if cls is Config and path in _HINTS:
        return _HINTS[path]
    kind, optional = _without_none(_kind(cls, path))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return suggest_name(value, [member.name for member in kind])
    if typing.get_origin(kind) is list:
        words = "a list, such as " + ("[a,b]" if typing.get_args(kind) == (str,) else "[1,2]")
    elif dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
        words = "a group of settings, not one value"
    else:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "")
    return f"must be {words}{', or null' if optional else ''}" if words else None


def _kind(cls: type, path: tuple[str, ...]) -> Any:
    """The type of the field at `path`; None where there is none."""
    kind: Any = cls
    for key in path:
        kind, _ = _without_none(kind)
        if dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind).get(key)
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        else:
            return None
    return kind


def _without_none(kind: Any) -> tuple[Any, bool]:
    """`Optional[T]` as (T, True); any other type as (type, False)."""
    if typing.get_origin(kind) in (typing.Union, UnionType):
        rest = [part for part in typing.get_args(kind) if part is not NoneType]
        return rest[0], len(rest) < len(typing.get_args(kind))
    return kind, False


def _out_of_range(node: Any, path: str = "") -> list[Problem]:
    """The problems that the dataclasses under `node` find in themselves, innermost first."""
    problems: list[Problem] = []
    if not isinstance(node, DictConfig) or node._is_none():
        return problems
    for key in map(str, node):
        if not OmegaConf.is_missing(node, key):
            problems += _out_of_range(node._get_node(key), f"{path}.{key}" if path else key)
    if not problems and dataclasses.is_dataclass(OmegaConf.get_type(node)):
        try:
            OmegaConf.to_object(node)
        except Refused as refused:
            problems += [problem.under(path) if path else problem for problem in refused.problems]
    return problems


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _contradictions(config: Config) -> Iterator[Problem]:
    """Settings that are each right and cannot stand together."""
    yield from _monitors(config)
    yield from _without_validation(config)
    chosen = {type(callback): name for name, callback in config.callbacks.items()}
    if Ema in chosen and PreciseBn in chosen:
        yield Problem(
            f"callbacks.{chosen[PreciseBn]}",
            NO_VALUE,
            f"would compare the trained weights with the average that callbacks.{chosen[Ema]} validates; choose one",
        )
    if Ema in chosen and TrainError in chosen:
        yield Problem(
            f"callbacks.{chosen[TrainError]}",
            NO_VALUE,
            f"would measure the trained weights and not the average that callbacks.{chosen[Ema]} makes; choose one",
        )
    if isinstance(config.data, UserClass) and config.test.run and not config.data.overrides("test_dataloader"):
        yield Problem("test.run", True, f"{config.data.target} has no test_dataloader; write test.run=false")
    if isinstance(config.model, Network) and isinstance(config.optim, Optimizer):
        stages = list(config.model.present)
        keys = [f"optim.layers.{name}" for name in config.optim.layers]
        if isinstance(config.schedule, Schedule):
            keys += [f"schedule.layers.{name}" for name in config.schedule.layers]
        for key in keys:
            name = key.split(".", 2)[2]
            if name not in stages:
                yield Problem(key, NO_VALUE, f"the network has no such stage; {suggest_name(name, stages)}")
    if isinstance(config.optim, UserClass) and isinstance(config.schedule, Schedule):
        for key in ("biases", "layers"):
            if getattr(config.schedule, key):
                own = f"{config.optim.target} has parameter groups of its own; choose one of our optimizers"
                yield Problem(f"schedule.{key}", NO_VALUE, f"{own}, or leave it out")
    trainer = config.trainer
    if trainer.limit_train_batches == 0:
        yield Problem(
            "trainer.limit_train_batches", trainer.limit_train_batches, "trains nothing; write 1 batch or more, or null"
        )
    if trainer.strategy == COLUMNS:
        yield from _no_columns(config)
    if trainer.max_epochs is not None and trainer.min_epochs is not None and trainer.min_epochs > trainer.max_epochs:
        yield Problem(
            "trainer.min_epochs", trainer.min_epochs, f"must be at most trainer.max_epochs={trainer.max_epochs}"
        )
    endless = trainer.max_epochs is None and trainer.max_steps == -1
    if endless and isinstance(config.schedule, Schedule) and config.schedule.needs_total:
        yield Problem(
            "trainer.max_epochs",
            None,
            f"schedule={config.schedule.name} needs the run's length; write a number of epochs",
        )


def _no_columns(config: Config) -> Iterator[Problem]:
    """Classes of the user's that would know nothing of a network in columns."""
    own = []
    if isinstance(config.model, UserClass):
        own.append(f"{config.model.target} has no columns; choose a model of stages, such as model=paper")
    if config.module is not None:
        own.append(f"{config.module.target} does not know of columns; leave module out")
    if isinstance(config.data, UserClass) and not hasattr(config.data.cls, "global_size"):
        own.append(
            f"{config.data.target} must give every rank all images; subclass alexnet_exp.training.datamodule.ImageData"
        )
    for instead in own:
        yield Problem("trainer.strategy", COLUMNS, instead)


def _monitors(config: Config) -> Iterator[Problem]:
    """Monitored metrics that there will not be."""
    has_val = isinstance(config.data, UserClass) or config.data.has_val
    missing = {} if has_val else dict(validation_monitors(config))
    for key, monitor in missing.items():
        instead = f"there is no validation; write data.val=split, or monitor {in_training(monitor)}"
        yield Problem(key, monitor, instead)
    callbacks = config.callbacks.values()
    if config.module is not None or any(isinstance(callback, UserClass) for callback in callbacks):
        return  # the user's classes may log others
    known = METRICS + (PRECISE_METRICS if any(isinstance(callback, PreciseBn) for callback in callbacks) else ())
    known += (TRAIN_EVAL,) if any(isinstance(callback, TrainError) for callback in callbacks) else ()
    for name, callback in config.callbacks.items():
        key = f"callbacks.{name}.monitor"
        if isinstance(callback, EarlyStopping) and callback.monitor not in known and key not in missing:
            yield Problem(key, callback.monitor, suggest_name(callback.monitor, known))


def _without_validation(config: Config) -> Iterator[Problem]:
    """Monitored metrics of a validation for which the trainer leaves no place."""
    trainer = config.trainer
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if trainer.limit_val_batches == 0:
        why, instead = "trainer.limit_val_batches=0 leaves no validation", "write 1 batch or more, or null"
    elif every is not None and epochs is not None and 0 < epochs < every:
        why = f"trainer.check_val_every_n_epoch={every} of {epochs} epochs leaves no validation"
        instead = f"write {epochs} or less"
    else:
        return
    for key, monitor in validation_monitors(config):
        if monitor not in PRECISE_METRICS:  # of a validation of its own
            yield Problem(key, monitor, f"{why}; {instead}, or monitor {in_training(monitor)}")


def in_training(monitor: str) -> str:
    """The metric of the training images that goes the way of a validation's: a `mode` stays right."""
    return "train/top1" if "top" in monitor else "train/loss"


def validation_monitors(config: Config) -> Iterator[tuple[str, str]]:
    """The settings that name a metric of the validation, and which: these need validation images."""
    monitors = {
        f"callbacks.{name}.monitor": callback.monitor
        for name, callback in config.callbacks.items()
        if isinstance(callback, EarlyStopping)
    }
    if isinstance(config.schedule, Plateau):
        monitors["schedule.monitor"] = config.schedule.monitor
    for key, monitor in monitors.items():
        if monitor.startswith("val/"):
            yield key, monitor
