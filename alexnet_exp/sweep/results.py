"""results.csv of a sweep: a row for each job that has ended, for a spreadsheet or pandas, written as they end."""

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
from alexnet_exp.sweep.execute.job_lock import Claims
from alexnet_exp.sweep.execute.scheduler import Outcome

FILE = "results.csv"
_SPLITS = ("val/", "test/")


def write_all(plan: SweepPlan, outcomes: Iterable[Outcome]) -> None:
    """Replaces the table by one of these jobs; those that have not begun have no row."""
    with Claims(plan.folder).alone():
        _write(plan, [_row(outcome) for outcome in outcomes if outcome.status != Status.PENDING])


def add(plan: SweepPlan, outcome: Outcome) -> None:
    """Adds a job's row, or replaces the one it had. Several processes may do so at once."""
    with Claims(plan.folder).alone():
        row = _row(outcome)
        others = [other for other in _read(plan.folder / FILE) if other["folder"] != row["folder"]]
        _write(plan, [*others, row])


def _row(outcome: Outcome) -> dict[str, str]:
    job = outcome.job
    metrics = {key: repr(value) for key, value in outcome.metrics.items() if key.startswith(_SPLITS)}
    facts = {
        "number": str(job.number),
        "status": outcome.status,
        "seconds": "" if outcome.seconds is None else f"{outcome.seconds:.1f}",
        "images_per_s": "" if outcome.images_per_s is None else f"{outcome.images_per_s:.0f}",
        "folder": job.folder.name,
        "error": outcome.error or "",
    }
    return {**job.varies, **metrics, **facts}


def _write(plan: SweepPlan, rows: list[dict[str, str]]) -> None:
    varies = list(dict.fromkeys(key for job in plan.jobs for key in job.varies))
    found = {key for row in rows for key in row if key.startswith(_SPLITS)} - set(varies) - {plan.objective}
    metrics = [plan.objective, *sorted(found, key=lambda key: (not key.startswith("val/"), key))]
    columns = ["number", *varies, "status", *metrics, "seconds", "images_per_s", "folder", "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: int(row["number"])):
        writer.writerow({column: spreadsheet_cell(text) for column, text in row.items()})
    with atomic_write(plan.folder / FILE) as file:
        file.write(text.getvalue().encode())


def _read(file: Path) -> list[dict[str, str]]:
    """The rows that are there; none where the file is not, or is not what was written here."""
    try:
        columns, rows = read_table(file)
    except (OSError, UserError):
        return []
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    return [row for row in found if row.get("folder") and row.get("number", "").isdigit()]
