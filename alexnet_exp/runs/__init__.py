"""A run folder: what one holds, writing it, finding it and reading it back. No torch and no Lightning here.

`runs.read(path)` gives every run below a folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_exp.runs.read import read

__all__ = ["read"]


def __getattr__(name: str) -> Any:
    # imported when it is asked for: whoever trains needs none of it
    if name == "read":
        from alexnet_exp.runs.read import read

        return read
    raise AttributeError(f"module {__name__} has no attribute {name}")
