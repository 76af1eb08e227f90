"""Provides the run folder: writing, finding, locking and reading one. Imports neither torch nor Lightning.

`alexnet_exp.read_runs(PATH)` returns every run below a folder.
"""

from __future__ import annotations

from typing import Any

__all__ = ["read"]


def __getattr__(name: str) -> Any:
    if name == "read":  # the name of `read_runs` in version 0.1
        from alexnet_exp.runs.read_runs import read_runs

        return read_runs
    raise AttributeError(f"module {__name__} has no attribute {name}")
