"""YAML as a run folder's files are read: plain values only, and no more of them than were written."""

from __future__ import annotations

from typing import Any

import yaml  # type: ignore[import-untyped]

LARGEST = 200_000  # values of one file, those behind an alias counted as often as they are named

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, where it was compiled


class Loader(_SafeLoader):  # type: ignore[misc]
    """yaml's safe loader, which names no class; it also refuses aliases that would multiply.

    Ten lines of ten aliases each are a billion values: small in memory, and endless to whoever walks through them.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        """The values of a document; raises ConstructorError where they are too many, or one holds itself."""
        if _size(node, {}) > LARGEST:
            raise _refused(f"more than {LARGEST:,} values, by aliases of aliases", node)
        return super().construct_document(node)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values `node` holds, itself included, as one meets them; `sizes` has those that have been counted."""
    known = sizes.get(id(node))
    if known is not None:
        if known == 0:  # still being counted
            raise _refused("a value that holds itself", node)
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
