"""Quotes the text values of overrides, so that Hydra reads them as typed.

Hydra reads `name=20241130_155038` as a number and `data.root=~/photos` not at all. If the type of a setting is
text, such a value is quoted for Hydra. This module does not import torch.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from alexnet_exp.config.composer import quote_value
from alexnet_exp.config.schema import COLLECTIONS, NODES, Config
from alexnet_exp.errors import NO_VALUE, Problem, Refused

# Text settings of Hydra's own: its folders, which nobody else expands.
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
_HYDRAS = (*_FOLDERS, "hydra.job.name", "hydra.sweeper.study_name", "hydra.sweeper.storage", "hydra.launcher.partition")
_LISTING = ("choice", "sort", "shuffle")  # functions whose arguments are values
NO_NUMBERS = "the range is empty; write range(low,end,step)"
_FUNCTIONS = (*_LISTING, "range", "interval", "glob", "tag", "int", "str", "bool", "float")


def quote_text(word: str) -> str:
    """Returns an override whose value Hydra reads as typed if the setting is text; else `word`.

    Hydra's own quotes, `null`, `${...}` and lists of several values keep their meaning.
    """
    found = re.fullmatch(r"(\+{0,2})([\w./@-]+)=(.+)", word, re.DOTALL)
    kind = None if found is None else text_settings().get(found[2])
    if found is None or kind is None:
        return word
    mark, key, value = found.groups()
    if key in _FOLDERS and value.startswith("~"):
        value = str(Path(value).expanduser())
    return f"{mark}{key}={_exact(value, kind is list)}"


def sweep_overrides(parsed: Any) -> list[str]:
    """Returns one override for each value of a parsed sweep. Raises Refused if it has no value.

    `range(3,3)` and a `glob` that matches no option have no value.
    """
    key = parsed.get_key_element()
    values = [quote_text(f"{key}={value}") for value in parsed.sweep_string_iterator()]
    if not values:
        options = parsed.config_loader.get_group_options(key)
        instead = f"matches no option; write one of {', '.join(options)}" if options else NO_NUMBERS
        raise Refused([Problem(parsed.input_line or key, NO_VALUE, instead)])
    return values


def find_altered_texts(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yields the settings of a YAML file whose text YAML changes: full name, last part, text. Ignores invalid files.

    A file belongs to the group of its folder, or to the `@package` in its first line.
    """
    import yaml  # type: ignore[import-untyped]
    from omegaconf import OmegaConf
    from omegaconf._utils import get_yaml_loader

    try:
        content = file.read_text(encoding="utf-8")
        root = yaml.compose(content, Loader=get_yaml_loader())
    except (OSError, ValueError, yaml.YAMLError):
        return
    named = re.match(r"\s*#\s*@package\s+(\S+)", content)
    package = named[1] if named else file.parent.name
    above = () if package == "_global_" else tuple(package.split("."))

    def scalars(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                yield from scalars(value, (*path, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                yield from scalars(value, path)
        elif node is not None:
            yield path, node

    for path, node in scalars(root, above):
        key = ".".join(path)
        if key in text_settings() and node.tag.rpartition(":")[2] in ("int", "float", "bool"):
            value = OmegaConf.create(f"text: {node.value}").text
            if str(value) != node.value:
                yield key, path[-1], node.value


@cache
def text_settings() -> dict[str, type]:
    """Returns the settings that are text (`str`) and lists of text (`list`) by their full names."""
    found: dict[str, set[Any]] = {key: {str} for key in _HYDRAS}
    for name, kind in _kinds(Config):
        found.setdefault(name, set()).add(kind)
    for group, classes in NODES.items():
        for cls in classes.values():
            for name, kind in _kinds(cls):
                found.setdefault(f"{group}.{name}", set()).add(kind)
    for group, classes in COLLECTIONS.items():
        for option, cls in classes.items():
            for name, kind in _kinds(cls):
                found.setdefault(f"{group}.{option}.{name}", set()).add(kind)
    return {key: kind for key, kinds in found.items() if len(kinds) == 1 for kind in kinds if kind in (str, list)}


def _kinds(cls: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every setting of a dataclass and its nested ones: `str`, `list` for a list of text, else None."""
    for name, hint in typing.get_type_hints(cls).items():
        inner = [part for part in typing.get_args(hint) if part is not NoneType]
        kind = inner[0] if len(inner) == 1 and typing.get_origin(hint) is not list else hint
        if dataclasses.is_dataclass(kind):
            yield from _kinds(typing.cast(type, kind), f"{above}{name}.")
        else:
            yield f"{above}{name}", str if kind is str else list if kind == list[str] else None


def _exact(value: str, listed: bool) -> str:
    from hydra.errors import HydraException

    try:
        tree = _tree(value)
    except HydraException:
        return _quoted_list(value) if listed else quote_value(value)
    if tree is None:
        return value
    element = tree.element()
    if element is not None and not listed:
        if element.listContainer() or element.dictContainer():
            return quote_value(value)
        if element.function() and element.function().ID().getText() not in _FUNCTIONS:
            return quote_value(value)
        if element.primitive() and value != value.strip() and value.strip()[0] not in "'\"":
            return quote_value(value)
    spans = list(_changed(tree, listed))
    for start, stop in reversed(spans):
        value = value[:start] + quote_value(value[start:stop]) + value[stop:]
    return value


def _tree(value: str) -> Any:
    """Returns Hydra's parse of a value; None if it is empty. Raises HydraException if it cannot be parsed."""
    from antlr4 import CommonTokenStream, InputStream  # type: ignore[import-untyped]
    from hydra.core.override_parser.overrides_visitor import HydraErrorListener
    from hydra.grammar.gen.OverrideLexer import OverrideLexer
    from hydra.grammar.gen.OverrideParser import OverrideParser

    listener = HydraErrorListener()
    lexer = OverrideLexer(InputStream(f"{_KEY}{value}"))
    lexer.removeErrorListeners()
    lexer.addErrorListener(listener)
    parser = OverrideParser(CommonTokenStream(lexer))
    parser.removeErrorListeners()
    parser.addErrorListener(listener)
    tree: Any = parser.override()  # type: ignore[no-untyped-call]
    return tree.value()


_KEY = "x="  # before the value: Hydra's grammar has a rule for whole overrides that ends where the text ends


def _changed(node: Any, listed: bool) -> Iterator[tuple[int, int]]:
    """Yields the positions of words that Hydra would change: unusual numbers and booleans."""
    for element in _elements(node):
        inside = element.listContainer() or element.dictContainer()
        if element.function():
            if element.function().ID().getText() in _LISTING:
                yield from _changed(element.function(), listed)
        elif element.listContainer() and listed:
            yield from _changed(element.listContainer(), listed)
        elif inside and not listed:
            yield _span(inside)
        elif element.primitive() and _differs(element.primitive()):
            yield _span(element.primitive())


def _elements(node: Any) -> list[Any]:
    if hasattr(node, "simpleChoiceSweep"):
        sweep = node.simpleChoiceSweep()
        return list(sweep.element()) if sweep else [node.element()]
    return list(node.element())


def _span(node: Any) -> tuple[int, int]:
    """From where to where in the value, without the blanks around it."""
    text = node.start.getInputStream().getText(node.start.start, node.stop.stop)
    start = node.start.start - len(_KEY) + len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _differs(primitive: Any) -> bool:
    from hydra.core.override_parser.overrides_parser import create_functions
    from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor

    value = HydraOverrideVisitor(create_functions()).visitPrimitive(primitive)
    return isinstance(value, int | float) and str(value) != primitive.getText().strip()


def _quoted_list(value: str) -> str:
    """Returns `[ünï, b]` with each element quoted; any other text unchanged, so that its reader rejects it."""
    inner = re.fullmatch(r"\[(.*)\]", value.strip(), re.DOTALL)
    if inner is None or re.search(r"[\[\]'\"]", inner[1]):
        return value
    return f"[{','.join(quote_value(part.strip()) for part in inner[1].split(','))}]"
