"""Turns a node of plain settings into an object of its dataclass, or reports every setting that does not match.

Nodes whose settings have exactly the types of the dataclass, as composed configurations have, are read directly.
OmegaConf reads all others: it converts values (`"3"` to 3) and takes a hundred times as long.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from alexnet_exp.config.schema import Config
from alexnet_exp.config.suggestions import suggest_setting
from alexnet_exp.errors import Problem, Refused, suggest_name

MOST_LISTED_KEYS = 12  # the message about an unknown key lists all known keys of a node that has at most so many


class _NotExactError(Exception):
    """The settings do not have exactly the types of the dataclass."""


def read_node(cls: type, node: Mapping[str, Any], prefix: str) -> Any:
    """Returns an object of the dataclass `cls` with the settings of `node`.

    Raises `Refused` with a problem for each setting that does not match; the keys of the problems begin with `prefix`.
    """
    try:
        return _exact_node(cls, node)
    except (_NotExactError, Refused):  # OmegaConf then collects all problems of the node
        return _merged_node(cls, node, prefix)


def _exact_node(cls: type, node: Mapping[str, Any], complete: bool = False) -> Any:
    """Returns the object that `_merged_node` would return; raises `_NotExactError` where that could be another one.

    complete: whether the node must have every setting. A nested node is merged with the default of the field that holds
    it, which may differ from the defaults of its class.
    """
    kinds = _kinds(cls)
    if not isinstance(node, Mapping) or not node.keys() <= kinds.keys() or (complete and len(node) < len(kinds)):
        raise _NotExactError
    return cls(**{key: _exact_value(*kinds[key], value) for key, value in node.items()})


@cache
def _kinds(cls: type) -> dict[str, tuple[Any, bool]]:
    """Returns the type of each field and whether it may be None."""
    hints = typing.get_type_hints(cls)
    kinds = {}
    for field in dataclasses.fields(cls):
        kind, optional = _without_none(hints[field.name])
        if typing.get_origin(kind) is dict and field.default_factory is not dict and not optional:
            kind = None  # OmegaConf merges such a default with the settings
        kinds[field.name] = kind, optional
    return kinds


def _exact_value(kind: Any, optional: bool, value: Any) -> Any:
    if kind is Any:
        return _plain_copy(value)
    if value is None and optional:
        return None
    if kind in (bool, int, str) and type(value) is kind:
        return _plain_copy(value)
    if kind is float and type(value) in (int, float):
        return float(value)
    if isinstance(kind, type) and issubclass(kind, Enum) and isinstance(value, str) and value in kind.__members__:
        return kind[value]
    if dataclasses.is_dataclass(kind):
        return _exact_node(typing.cast("type", kind), value, complete=True)
    arguments = [_without_none(argument) for argument in typing.get_args(kind)]
    if typing.get_origin(kind) is list and type(value) is list:
        return [_exact_value(*arguments[0], item) for item in value]
    if typing.get_origin(kind) is dict and type(value) is dict and all(type(key) is str for key in value):
        return {_plain_copy(key): _exact_value(*arguments[1], item) for key, item in value.items()}
    raise _NotExactError


def _plain_copy(value: Any) -> Any:
    """Returns a copy of plain containers. Raises `_NotExactError` for interpolations and other objects."""
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str and "${" not in value and value != "???":
        return value
    if type(value) is list:
        return [_plain_copy(item) for item in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {_plain_copy(key): _plain_copy(item) for key, item in value.items()}
    raise _NotExactError


def _merged_node(cls: type, node: Mapping[str, Any], prefix: str) -> Any:
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
        merged = OmegaConf.unsafe_merge(
            OmegaConf.structured(cls), dict(node)
        )  # it may change its first argument, which is new
    except OmegaConfBaseException:
        merged, problems = _part_by_part(cls, node, prefix)
    rejected = {problem.key for problem in problems}  # they have their defaults now, which may be out of range
    problems += [problem for problem in _out_of_range(merged) if problem.key not in rejected]
    if problems:
        raise Refused([problem.under(prefix) if prefix else problem for problem in problems])
    return OmegaConf.to_object(merged)


def _part_by_part(cls: type, node: Mapping[str, Any], prefix: str) -> tuple[Any, list[Problem]]:
    """Returns the settings of `node` that match `cls`, and a problem for each that does not.

    OmegaConf stops at the first problem. A nested node is split only if it does not match as a whole, because a merge
    is slow.
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
    """Returns whether the field at `path` has settings of its own, or does not exist."""
    kind, _ = _without_none(_kind(cls, path))
    return kind is None or kind is Any or dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict


def _nested_elements(cls: type, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields a problem for each list of single values that contains lists or groups, which OmegaConf accepts."""
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
    """Returns the problem of an unknown key, with what was probably meant."""
    fields = dataclasses.fields(error.object_type) if dataclasses.is_dataclass(error.object_type) else ()
    known = [field.name for field in fields]
    option = next((str(field.default) for field in fields if field.name == "name"), "")
    advice = suggest_setting(".".join(filter(None, (prefix, *path))), value, known, option)
    if advice is None and len(known) <= MOST_LISTED_KEYS:
        advice = f"there are {', '.join(known)}" if known else "it takes none"
    return Problem(".".join(path), value, f"unknown setting; {advice or 'python -m alexnet_exp --cfg job lists them'}")


# Settings at the root that have values of another kind in other programs.
_HINTS = {
    ("resume",): "must be true or false; to resume a run, write python -m alexnet_exp resume RUN",
    ("test",): "must be a group of settings; write test.run=true or test.run=false",
    ("checkpoint",): "must be a group of settings; to resume a run, write python -m alexnet_exp resume RUN",
}


def _expected(cls: Any, path: tuple[str, ...], value: Any) -> str | None:
    """Returns the values that the field at `path` accepts, as text; None if its type does not tell."""
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
    """Returns the type of the field at `path`; None if it does not exist."""
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
    """Returns (T, True) for `Optional[T]`, (type, False) for any other type."""
    if typing.get_origin(kind) in (typing.Union, UnionType):
        rest = [part for part in typing.get_args(kind) if part is not NoneType]
        return rest[0], len(rest) < len(typing.get_args(kind))
    return kind, False


def _out_of_range(node: Any, path: str = "") -> list[Problem]:
    """Returns the problems that the dataclasses under `node` report themselves, innermost first."""
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
