"""Provides a safe YAML loader for the files of a run folder, which also limits what aliases expand to."""

from __future__ import annotations

from typing import Any

import yaml  # type: ignore[import-untyped]

MAX_VALUES = 200_000  # values of one file; the values of an alias count at each use

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, if it was compiled


class Loader(_SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which builds no classes and rejects aliases that expand to too many values.

    Ten lines of ten aliases each are ten billion values: little memory, and an endless loop for code that visits them.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        """Returns the values of a document.

        Raises ConstructorError for too many values, or one that contains itself.
        """
        if _size(node, {}) > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values, by aliases of aliases", node)
        return super().construct_document(node)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Returns the number of values of `node`, itself included, with aliases expanded. `sizes` caches the counts."""
    known = sizes.get(id(node))
    if known is not None:
        if known == 0:  # still being counted
            raise _refused("a value that contains itself", node)
        return known
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_size(key, sizes) + _size(value, sizes) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_size(item, sizes) for item in node.value)
    sizes[id(node)] = size
    return size


def _refused(problem: str, node: yaml.Node) -> Exception:
    error: Exception = yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return error
