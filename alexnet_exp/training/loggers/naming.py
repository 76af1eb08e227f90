"""Settings and metrics under the names and in the form that every tracking system gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_exp.runs.lookup import outputs_of
from alexnet_exp.runs.sweep_plan import SweepPlan


def as_typed(value: Any) -> str:
    """A setting as one types it: `null`, `true`, `[1, 2]`; a text is itself."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def final(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of result.json under names that no curve has: `test/top1`, but `final/val/top1`.

    `val/top1` itself is the curve, whose last point is the last epoch's; these are of the weights that were tested.
    """
    return {key if key.startswith("test/") else f"final/{key}": value for key, value in metrics.items()}


def tested(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that the test made; all else is in the curves already."""
    return {key: value for key, value in metrics.items() if key.startswith("test/")}


def sweep_of(run: Path) -> Path | None:
    """The folder of the sweep of which `run` is a job; None for a run of its own."""
    return run.parent if SweepPlan.is_in(run.parent) else None


def experiment_of(run: Path, name: str) -> str:
    """What the runs beside this one have in common: the configuration's `name`, for a sweep its folder's.

    The jobs of a sweep can differ in their names; then the layout outputs/<name>/<sweep> has one for all.
    """
    sweep = sweep_of(run.resolve())
    outputs = outputs_of(run)
    return sweep.parent.name if sweep is not None and sweep.parent.parent == outputs else name
