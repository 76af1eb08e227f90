"""Writes results.csv of a sweep, one row for each job that has started, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from alexnet_exp.atomic import atomic_write
from alexnet_exp.errors import UserError
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import SweepPlan
from alexnet_exp.runs.table import read_table
from alexnet_exp.sanitize import spreadsheet_cell
from alexnet_exp.sweep.execute.job_lock import JobLocks
from alexnet_exp.sweep.execute.scheduler import Outcome

RESULTS_FILE = "results.csv"
_METRIC_PREFIXES = ("val/", "test/")


def write_results(plan: SweepPlan, outcomes: Iterable[Outcome]) -> None:
    """Replaces the table by one of these outcomes; pending jobs have no row."""
    with JobLocks(plan.folder).exclusive():
        _write(plan, [_row(outcome) for outcome in outcomes if outcome.status != Status.PENDING])


def add_result(plan: SweepPlan, outcome: Outcome) -> None:
    """Adds the row of a job, or replaces its earlier row. Several processes may do so at once."""
    with JobLocks(plan.folder).exclusive():
        row = _row(outcome)
        others = [other for other in _read(plan.folder / RESULTS_FILE) if other["folder"] != row["folder"]]
        _write(plan, [*others, row])


def _row(outcome: Outcome) -> dict[str, str]:
    job = outcome.job
    metrics = {key: repr(value) for key, value in outcome.metrics.items() if key.startswith(_METRIC_PREFIXES)}
    other_columns = {
        "number": str(job.number),
        "status": outcome.status,
        "seconds": "" if outcome.seconds is None else f"{outcome.seconds:.1f}",
        "images_per_s": "" if outcome.images_per_s is None else f"{outcome.images_per_s:.0f}",
        "folder": job.folder.name,
        "error": outcome.error or "",
    }
    return {**job.varies, **metrics, **other_columns}


def _write(plan: SweepPlan, rows: list[dict[str, str]]) -> None:
    varies = list(dict.fromkeys(key for job in plan.jobs for key in job.varies))
    keys = {key for row in rows for key in row if key.startswith(_METRIC_PREFIXES)} - set(varies) - {plan.objective}
    metrics = [plan.objective, *sorted(keys, key=lambda key: (not key.startswith("val/"), key))]
    columns = ["number", *varies, "status", *metrics, "seconds", "images_per_s", "folder", "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: int(row["number"])):
        writer.writerow({column: spreadsheet_cell(text) for column, text in row.items()})
    with atomic_write(plan.folder / RESULTS_FILE) as file:
        file.write(text.getvalue().encode())


def _read(file: Path) -> list[dict[str, str]]:
    """Returns the rows of the table; none if the file is missing or was not written by this module."""
    try:
        columns, rows = read_table(file)
    except (OSError, UserError):
        return []
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    return [record for record in records if record.get("folder") and record.get("number", "").isdigit()]
