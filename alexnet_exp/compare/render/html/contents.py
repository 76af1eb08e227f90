"""The data of a comparison for the report's scripts, as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_exp.compare.render.html.curves import Curves
from alexnet_exp.compare.result import Comparison, ComparisonTable
from alexnet_exp.compare.select import MISSING, runs_table, sort_by_metric, value
from alexnet_exp.runs.folder import flatten
from alexnet_exp.runs.metric import is_accuracy, label
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status, status_label

# Keys of result.json that the page shows elsewhere, or whose values are too long for a table.
_EXCLUDED_KEYS = {"traceback", "class_names", "metrics", "config", "choices", "status", "format"}
_VALUE_CHARACTERS = 400  # a longer value is cut


def contents(comparison: Comparison, curves: Curves) -> dict[str, Any]:
    """Returns runs with settings and results, the table of runs, arms and curves.

    Runs are referred to by their index in `comparison.runs`. A value that all runs share is in `common` only.
    """
    indexes = {run.name: index for index, run in enumerate(comparison.runs)}
    settings = [_settings(run) for run in comparison.runs]
    results = [_results(run) for run in comparison.runs]
    table = _table_of_all_runs(comparison)
    common = {"settings": _common(settings), "results": _common(results)}
    content = {
        "metric": {
            "key": comparison.metric.key,
            "label": comparison.metric.label,
            "percent": comparison.metric.percent,
        },
        "arms": [
            {
                "label": arm.label,
                "runs": [indexes[run.name] for run in arm.runs if run.name in indexes],
                "uncounted": [indexes[run.name] for run in arm.uncounted if run.name in indexes],
            }
            for arm in comparison.arms
        ],
        "common": common,
        "runs": [
            {
                "name": run.name,
                "status": status_label(run.status),
                "value": run.metrics.get(comparison.metric.key) if run.status == Status.DONE else None,
                "error": _last_line(run.facts.get("error")),
                "note": str(run.facts.get("note") or ""),
                "settings": _without_common(settings[index], common["settings"]),
                "results": _without_common(results[index], common["results"]),
            }
            for index, run in enumerate(comparison.runs)
        ],
        "table": {
            "columns": [
                {"key": key, "title": title, "percent": is_accuracy(key)}
                for key, title in zip(table.keys, table.titles, strict=True)
            ],
            "rows": table.rows,
            "runs": [indexes.get(row[table.keys.index("run")]) for row in table.rows],
        },
        "varying": [_varying(key, comparison.runs) for key in comparison.varying if key != "seed"],
        "curves": {
            "columns": [{"key": name, "title": label(name), "percent": is_accuracy(name)} for name in curves.columns],
            "lines": curves.lines,
            "stride": curves.stride,
        },
    }
    return {key: _plain(item) for key, item in content.items()}


def _settings(run: Run) -> dict[str, Any]:
    """Returns the options by group and the settings by dotted key."""
    choices = {f"{group} (option)": option for group, option in run.choices.items()}
    return choices | {key: _short(item) for key, item in run.config.items()}


def _results(run: Run) -> dict[str, Any]:
    """Returns the metrics, and the environment in which the run was made."""
    info = flatten({key: item for key, item in run.facts.items() if key not in _EXCLUDED_KEYS})
    return {**run.metrics, **{key: _short(item) for key, item in info.items()}}


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the keys that have the same value in all runs."""
    first, *others = settings or [{}]
    return {
        key: item
        for key, item in first.items()
        if all(key in other and other[key] == item and type(other[key]) is type(item) for other in others)
    }


def _without_common(values: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in values.items() if key not in common}


def _table_of_all_runs(comparison: Comparison) -> ComparisonTable:
    """Returns the table of all runs with their names, including those that --top or --columns hides in the terminal."""
    table = comparison.runs_table
    if "run" in table.keys and len(table.rows) >= len(comparison.runs):
        return table
    return runs_table(
        sort_by_metric(comparison.runs, comparison.metric.key), (), list(dict.fromkeys([*table.keys, "run"]))
    )


def _varying(key: str, runs: Sequence[Run]) -> dict[str, Any]:
    found = [value(run, key) for run in runs]
    return {"key": key, "values": [None if each is MISSING else _short(each) for each in found]}


def _last_line(error: Any) -> str:
    """Returns the last line of an error: in a traceback, the one with the message."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[-1][:_VALUE_CHARACTERS] if lines else ""


def _short(item: Any) -> Any:
    if isinstance(item, str | Mapping | list | tuple) and len(text := str(item)) > _VALUE_CHARACTERS:
        return f"{text[:_VALUE_CHARACTERS]}… ({len(text)} characters)"
    return item


def _plain(item: Any) -> Any:
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    if isinstance(item, Mapping):
        return {str(key): _plain(each) for key, each in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(each) for each in item]
    return item
