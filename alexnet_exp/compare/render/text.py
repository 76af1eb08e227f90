"""Formats a comparison as Markdown, CSV and JSON, and the cells of its tables for every text format."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from alexnet_exp.compare.next_seeds import options_note
from alexnet_exp.compare.paper_claim_status import claim_values, sentence
from alexnet_exp.compare.render.dotplot import dots_text
from alexnet_exp.compare.result import Arm, Comparison, ComparisonTable, Difference
from alexnet_exp.compare.select import metric_keys, ranking_key, value
from alexnet_exp.compare.verdict import images_text
from alexnet_exp.errors import yaml_text
from alexnet_exp.runs.metric import difference_text, is_accuracy, value_text
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status, status_label
from alexnet_exp.sanitize import escape_controls, spreadsheet_cell

MOST_PRINTED_RUNS = 50  # default number of lines of the table of runs
CAVEATS = "Caveats"
# Columns of the table of arms in the units of its metric.
METRIC_COLUMNS = ("values", "interval", "sd", "difference", "difference_interval", "claim")


def markdown(comparison: Comparison, limit: int = MOST_PRINTED_RUNS) -> str:
    """Returns the comparison as Markdown, with at most `limit` lines of the table of runs."""
    parts = [f"**{comparison.sentence}**"]
    dots = dots_text(comparison)
    if dots:
        parts.append("\n".join(["```text", *(line.text for line in dots), "```"]))
    main, rest = main_and_rest(comparison)
    parts.append(markdown_table(main, limit, comparison.metric.key))
    if comparison.caveats:
        parts.append("\n".join([f"{CAVEATS}:", "", *(f"- {line}" for line in comparison.caveats)]))
    others = details(comparison)
    if others:
        parts.append("\n".join(f"- {line}" for line in others))
    if rest is not None:
        parts.append(markdown_table(rest, limit, comparison.metric.key))
    return escape_controls("\n\n".join(parts)) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Returns every run and every column as CSV, with the column names of result.json."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(spreadsheet_cell, comparison.runs_table.keys))
    writer.writerows([["" if cell is None else _field(cell) for cell in row] for row in comparison.runs_table.rows])
    return text.getvalue()


def as_json(comparison: Comparison) -> str:
    """Returns the whole comparison as strict JSON, in which NaN and infinity are null."""
    metric = comparison.metric
    content = {
        "metric": {"key": metric.key, "label": metric.label, "higher_is_better": metric.higher_is_better},
        "sentence": comparison.sentence,
        "margin": comparison.margin,
        "plan": comparison.plan or None,
        "varying": comparison.varying,
        "arms": [_arm(arm) for arm in comparison.arms],
        "differences": [_difference(difference) for difference in comparison.differences],
        "caveats": comparison.caveats,
        "runs": [_run(run, comparison.varying) for run in comparison.runs],
        "skipped": comparison.skipped,
    }
    return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def main_and_rest(comparison: Comparison) -> tuple[ComparisonTable, ComparisonTable | None]:
    """Returns the first table, and the table of runs if it is another one."""
    runs = without_empty(without_other_metrics(comparison.runs_table, comparison))
    if comparison.table is comparison.runs_table or comparison.table == comparison.runs_table:
        return runs, None
    return without_empty(comparison.table), runs


def without_other_metrics(table: ComparisonTable, comparison: Comparison) -> ComparisonTable:
    """Returns the table of runs with two of its metrics, the compared one and the ranking one.

    A table without the compared metric is returned as it is: its columns were requested.
    """
    key = comparison.metric.key
    kept = {key, ranking_key(key, comparison.runs)}
    hidden = set(metric_keys(comparison.runs)) - kept
    if key not in table.keys or "run" not in table.keys:
        return table
    return select_columns(table, [name for name in table.keys if name not in hidden])


def without_empty(table: ComparisonTable) -> ComparisonTable:
    """Returns the table without its empty columns."""
    return select_columns(
        table, [key for place, key in enumerate(table.keys) if any(row[place] is not None for row in table.rows)]
    )


def select_columns(table: ComparisonTable, keys: Sequence[str]) -> ComparisonTable:
    """Returns the table with only these columns."""
    places = [table.keys.index(key) for key in keys]
    return ComparisonTable(
        list(keys), [table.titles[place] for place in places], [[row[p] for p in places] for row in table.rows]
    )


def details(comparison: Comparison) -> list[str]:
    """Returns what sentence and table omit: each difference, commands, claims, errors, skipped folders."""
    sentences = [difference.sentence for difference in comparison.differences]
    # The first letter of the comparison's sentence may be a capital.
    lines = [sentence for sentence in sentences if sentence[1:].rstrip(".") not in comparison.sentence]
    lines += [
        text
        for text in (images_text(comparison.metric, one) for one in comparison.differences if one.images_interval)
        if not any(line.startswith(text) for line in comparison.caveats)
    ]
    commands = [difference.command for difference in comparison.differences if difference.command]
    lines += [f"run: {command}" for command in commands]
    lines += list(dict.fromkeys(needed for command in commands if (needed := options_note(command))))
    lines += [f"the paper: {sentence(difference.claim)}" for difference in comparison.differences if difference.claim]
    lines += [comparison.plan] if comparison.plan else []
    failed = [run for run in comparison.runs if run.status != Status.DONE and run.facts.get("error")]
    lines += [f"{status_label(run.status)}: {run.name}: {run.facts['error']}" for run in failed[:5]]
    if len(failed) > 5:
        lines.append(f"and {len(failed) - 5} more with an error")
    lines += [f"skipped: {line}" for line in comparison.skipped[:5]]
    if len(comparison.skipped) > 5:
        lines.append(f"skipped: {len(comparison.skipped) - 5} more; --format json lists them all")
    return list(dict.fromkeys(lines))


def cell(key: str, had: Any, metric: str = "") -> str:
    """Returns a cell as printed. key: the name of its column. metric: of a table of arms."""
    if had is None or (isinstance(had, float) and math.isnan(had)):
        return "-"
    if key in METRIC_COLUMNS and isinstance(had, list | tuple):
        written = [_of_metric(key, one, metric) for one in had]
        return " to ".join(written) if "interval" in key else ", ".join(written)
    if key in METRIC_COLUMNS and isinstance(had, float):
        return _of_metric(key, had, metric)
    if key == "status" and isinstance(had, str):
        return status_label(had)
    if isinstance(had, Enum):
        return str(had.value)
    if isinstance(had, float):
        if "/" in key or key == metric:
            return value_text(key, had)
        return f"{had:.1f}" if key in ("minutes", "images_per_s") else f"{had:.6g}"
    return yaml_text(had)


def titles(table: ComparisonTable, metric: str = "") -> list[str]:
    """Returns the headings, with the unit of columns in points."""
    points = is_accuracy(metric)
    return [
        escape_controls(f"{title} (points)" if points and key in ("sd", "difference", "claim") else title)
        for key, title in zip(table.keys, table.titles, strict=True)
    ]


def text_rows(table: ComparisonTable, limit: int | None = None, metric: str = "") -> list[list[str]]:
    """Returns the first `limit` rows of the table, each cell as text."""
    return [
        [escape_controls(cell(key, had, metric)) for key, had in zip(table.keys, row, strict=True)]
        for row in table.rows[:limit]
    ]


def is_number_column(table: ComparisonTable, place: int) -> bool:
    """Returns whether a column contains only numbers, which are aligned to the right."""
    found = [row[place] for row in table.rows if row[place] is not None]
    return bool(found) and all(isinstance(had, int | float) and not isinstance(had, bool) for had in found)


def omitted_text(table: ComparisonTable, limit: int) -> str | None:
    """Returns the line below a table of which only `limit` rows are shown."""
    more = len(table.rows) - limit
    return f"{more:,} more; --top {len(table.rows)} shows them, --format csv has them all" if more > 0 else None


def markdown_table(table: ComparisonTable, limit: int, metric: str = "") -> str:
    """Returns the first `limit` rows of the table in GitHub's Markdown."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(text.replace('|', chr(92) + '|').replace(chr(10), ' ') for text in cells)} |"

    rule = ["---:" if is_number_column(table, place) else "---" for place in range(len(table.keys))]
    rows = text_rows(table, limit, metric)
    lines = [line(titles(table, metric)), f"|{'|'.join(rule)}|", *(line(row) for row in rows)]
    more = omitted_text(table, limit)
    return "\n".join([*lines, *(["", more] if more else [])])


def _of_metric(key: str, had: float, metric: str) -> str:
    if key in ("values", "interval"):
        return value_text(metric, had)
    return difference_text(metric, had, sign=key != "sd")


def _field(had: Any) -> Any:
    return repr(had) if isinstance(had, float) else spreadsheet_cell(yaml_text(had))


def _arm(arm: Arm) -> dict[str, Any]:
    return {
        "label": arm.label,
        "settings": arm.settings,
        "n": arm.n,
        "values": arm.values,
        "seeds": arm.seeds,
        "mean": arm.mean,
        "sd": arm.sd,
        "interval": arm.interval,
        "runs": [run.name for run in arm.runs],
        "uncounted": [run.name for run in arm.uncounted],
        "repeated": [run.name for run in arm.repeated],
    }


def _difference(difference: Difference) -> dict[str, Any]:
    values = {
        name: getattr(difference, name)
        for name in (
            *("difference", "interval", "p", "method", "verdict", "bound", "sentence", "images_interval"),
            *("correlation", "more_seeds", "more_seeds_range", "command"),
        )
    }
    claimed = claim_values(difference.claim) if difference.claim else None
    return {"arm": difference.arm.label, "baseline": difference.baseline.label, **values, "claim": claimed}


def _run(run: Run, varying: Sequence[str]) -> dict[str, Any]:
    return {
        "name": run.name,
        "path": run.path,
        "status": run.status,
        "settings": {key: value(run, key) for key in varying},
        "seed": run.seed,
        "metrics": run.metrics,
        "images_per_s": run.facts.get("images_per_s"),
        "minutes": value(run, "minutes"),
    }


def _plain(had: Any) -> Any:
    if isinstance(had, dict):
        return {str(key): _plain(item) for key, item in had.items()}
    if isinstance(had, list | tuple):
        return [_plain(item) for item in had]
    if isinstance(had, float):
        return had if math.isfinite(had) else None
    if isinstance(had, Enum):
        return had.value
    if had is None or isinstance(had, str | int):
        return had
    return str(had) if isinstance(had, Path) else None
