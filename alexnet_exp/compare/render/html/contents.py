"""What the page's script needs to know of a comparison, as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_exp.compare.render.html.curves import Curves
from alexnet_exp.compare.result import Comparison, Table
from alexnet_exp.compare.select import MISSING, best_first, runs_table, value
from alexnet_exp.runs.folder import flatten
from alexnet_exp.runs.metric import is_accuracy, label
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

# of result.json: told elsewhere on the page, or too long to be read beside another run's
_LEFT_OUT = {"traceback", "class_names", "metrics", "config", "choices", "status", "format"}
_LONGEST = 400  # characters of one value


def contents(comparison: Comparison, curves: Curves) -> dict[str, Any]:
    """The runs with what was set and what came of it, the table of them, their arms and their curves, for JSON."""
    places = {run.name: place for place, run in enumerate(comparison.runs)}
    settings = [_settings(run) for run in comparison.runs]
    results = [_results(run) for run in comparison.runs]
    table = _every_run(comparison)
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
                "runs": [places[run.name] for run in arm.runs if run.name in places],
                "uncounted": [places[run.name] for run in arm.uncounted if run.name in places],
            }
            for arm in comparison.arms
        ],
        "common": common,
        "runs": [
            {
                "name": run.name,
                "status": run.status,
                "value": run.metrics.get(comparison.metric.key) if run.status == Status.DONE else None,
                "error": _first_line(run.facts.get("error")),
                "note": str(run.facts.get("note") or ""),
                "settings": _own(settings[place], common["settings"]),
                "results": _own(results[place], common["results"]),
            }
            for place, run in enumerate(comparison.runs)
        ],
        "table": {
            "columns": [
                {"key": key, "title": title, "percent": is_accuracy(key)}
                for key, title in zip(table.keys, table.titles, strict=True)
            ],
            "rows": table.rows,
            "runs": [places.get(row[table.keys.index("run")]) for row in table.rows],
        },
        "varying": [_varying(key, comparison.runs) for key in comparison.varying if key != "seed"],
        "curves": {
            "columns": [{"key": name, "title": label(name), "percent": is_accuracy(name)} for name in curves.columns],
            "lines": curves.lines,
            "stride": curves.stride,
        },
    }
    return {key: _plain(value) for key, value in content.items()}


def _settings(run: Run) -> dict[str, Any]:
    """What was chosen and set, by group and by dotted key."""
    choices = {f"{group} (option)": option for group, option in run.choices.items()}
    return choices | {key: _short(had) for key, had in run.config.items()}


def _results(run: Run) -> dict[str, Any]:
    """What came of it, and where and with what it ran."""
    facts = flatten({key: had for key, had in run.facts.items() if key not in _LEFT_OUT})
    return {**run.metrics, **{key: _short(had) for key, had in facts.items()}}


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is the same in all runs, so that it need be written only once."""
    first, *others = settings or [{}]
    return {
        key: had
        for key, had in first.items()
        if all(key in other and other[key] == had and type(other[key]) is type(had) for other in others)
    }


def _own(described: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    return {key: had for key, had in described.items() if key not in common}


def _every_run(comparison: Comparison) -> Table:
    """The table of the runs with their names, and with those that --top or --columns left out of the terminal's."""
    table = comparison.runs_table
    if "run" in table.keys and len(table.rows) >= len(comparison.runs):
        return table
    return runs_table(best_first(comparison.runs, comparison.metric.key), (), list(dict.fromkeys([*table.keys, "run"])))


def _varying(key: str, runs: Sequence[Run]) -> dict[str, Any]:
    found = [value(run, key) for run in runs]
    return {"key": key, "values": [None if each is MISSING else _short(each) for each in found]}


def _first_line(error: Any) -> str:
    """The line of an error that says what it was: the last of a traceback, the only one of a message."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else ""


def _short(had: Any) -> Any:
    if isinstance(had, str | Mapping | list | tuple) and len(text := str(had)) > _LONGEST:
        return f"{text[:_LONGEST]}… ({len(text)} characters)"
    return had


def _plain(had: Any) -> Any:
    if isinstance(had, float):
        return had if math.isfinite(had) else None
    if isinstance(had, Mapping):
        return {str(key): _plain(item) for key, item in had.items()}
    if isinstance(had, list | tuple):
        return [_plain(item) for item in had]
    return had
