"""Validates a composed configuration before anything heavy is imported; reports every problem at once.

The dataclass that a node's `name` selects checks the node, which becomes an object of that dataclass. (Merging one
schema for the whole configuration rejects valid configurations as soon as each option of a group has its own dataclass,
see docs/development/tried.md.) A node with `_target_` names a class of the user's and becomes a `user_class.UserClass`.
torch is imported only if such a class imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_exp.config.contradictions import contradictions
from alexnet_exp.config.nodes import read_node
from alexnet_exp.config.schema import COLLECTIONS, NODES, Config
from alexnet_exp.config.user_class import ROLES, TARGET_KEY, UserClass
from alexnet_exp.errors import NO_VALUE, Problem, Refused, suggest_name


def validate(container: Mapping[str, Any]) -> Config:
    """Returns the typed configuration of plain containers without interpolations.

    Raises Refused with all problems: unknown keys, wrong types, values out of range, contradictions.
    """
    problems: list[Problem] = []
    nodes: dict[str, Any] = {}
    for group in (*NODES, *COLLECTIONS, "module"):
        try:
            nodes[group] = _group(group, container.get(group))
        except Refused as refused:
            problems += refused.problems
    try:
        config: Config = read_node(Config, _root(container), "")
    except Refused as refused:
        raise Refused(refused.problems + problems) from None
    if problems:
        raise Refused(problems)
    for group, node in nodes.items():
        setattr(config, group, node)
    problems = list(contradictions(config))
    if problems:
        raise Refused(problems)
    return config


def is_same_experiment(stored: Mapping[str, Any], config: Config) -> bool:
    """Returns whether a stored configuration describes the experiment `config`, also if an earlier version wrote it.

    A setting that is new since then gets its default in `stored`, which keeps the experiment unchanged.
    """
    try:
        return validate(stored) == config
    except Refused:  # a setting that no longer exists
        return False


def _root(container: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that are in no group."""
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
    if TARGET_KEY in node:
        if role not in ROLES:
            raise Refused([Problem(f"{prefix}.{TARGET_KEY}", node[TARGET_KEY], f"{role} takes no class of your own")])
        return UserClass(role, node, prefix)
    if len(classes) == 1:
        return read_node(next(iter(classes.values())), node, prefix)
    name = str(node["name"]) if node.get("name") is not None else None
    if name is None and role in COLLECTIONS:
        raise Refused(
            [Problem(prefix, NO_VALUE, f"is not among the {role} chosen; add it with {prefix.replace('.', '=', 1)}")]
        )
    if name is None or name not in classes:
        raise Refused([Problem(f"{prefix}.name", name, suggest_name(name, classes))])
    return read_node(classes[name], node, prefix)
