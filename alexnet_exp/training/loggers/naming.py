"""Provides the names and the form of settings and metrics in all tracking systems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_exp.runs.lookup import outputs_of
from alexnet_exp.runs.sweep_plan import SweepPlan


def as_typed(value: Any) -> str:
    """Returns a setting as it is typed: `null`, `true`, `[1, 2]`; text unchanged."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def final_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics of result.json under names that no curve has: `test/top1`, but `final/val/top1`.

    `val/top1` is the name of the curve, which ends with the last epoch; these metrics are of the tested weights.
    """
    return {key if key.startswith("test/") else f"final/{key}": value for key, value in metrics.items()}


def test_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics of the test; the curves have all others already."""
    return {key: value for key, value in metrics.items() if key.startswith("test/")}


def sweep_of(run: Path) -> Path | None:
    """Returns the folder of the sweep of which `run` is a job; None for a single run."""
    return run.parent if SweepPlan.is_in(run.parent) else None


def experiment_of(run: Path, name: str) -> str:
    """Returns the name that groups this run with others: the configuration's `name`, or that of the sweep's folder.

    The jobs of a sweep may have different names; the layout outputs/<name>/<sweep> has one for all.
    """
    sweep = sweep_of(run.resolve())
    outputs = outputs_of(run)
    return sweep.parent.name if sweep is not None and sweep.parent.parent == outputs else name
