"""Lists the latest runs with their progress, and each sweep as one line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from alexnet_exp.compare.result import ComparisonTable
from alexnet_exp.compare.select import sort_by_metric
from alexnet_exp.errors import UserError
from alexnet_exp.runs.metric import label, value_text
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status, status_label
from alexnet_exp.runs.sweep_plan import SweepPlan


@dataclass(frozen=True)
class RunEntry:
    """A line of the list: a run, or a sweep with the number of jobs of each status."""

    when: str
    name: str
    status: str
    progress: str
    metric: str
    value: float | None


def progress_text(found: Run, now: float | None = None) -> str:
    """Returns the progress of a run: `3 of 10 epochs`, and for a running one an estimate of the remaining time.

    The estimate comes from the epochs so far; it does not include early stopping and the test.
    """
    done, limit = found.facts.get("epochs") or 0, found.config.get("trainer.max_epochs")
    if found.status == Status.DONE:
        return f"{done} epoch{'' if done == 1 else 's'}" if done else ""
    if not isinstance(limit, int) or limit < 1:
        return f"{done} epochs"
    text = f"{done} of {limit} epoch{'' if limit == 1 else 's'}"
    begun = _seconds(found.facts.get("start"))
    if found.status != Status.RUNNING or not done or begun is None:
        return text
    left = ((time.time() if now is None else now) - begun) / done * (limit - done)
    return f"{text}, about {duration_text(left)} left"


def duration_text(seconds: float) -> str:
    """Returns a duration as `40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def list_entries(path: Path, runs: Sequence[Run], *, sweeps: bool) -> list[RunEntry]:
    """Returns the lines, running first, then the newest. sweeps: one line per sweep instead of one per job."""
    plans = _plans(path, runs) if sweeps else {}
    of_sweeps: dict[Path, list[Run]] = {folder: [] for folder in plans}
    lines = []
    for found in runs:
        folder = next((parent for parent in found.path.parents if parent in plans), None)
        if folder is not None:
            of_sweeps[folder].append(found)
        else:
            lines.append(_entry(found))
    lines += [_sweep_entry(path, plan, of_sweeps[plan.folder]) for plan in plans.values()]
    newest = sorted(lines, key=lambda entry: entry.when, reverse=True)
    return sorted(newest, key=lambda entry: Status.RUNNING not in entry.status)


def _entry(found: Run) -> RunEntry:
    objective = str(found.config.get("objective") or "val/top1")
    metric = "test/top1" if "test/top1" in found.metrics else objective
    if metric not in found.metrics:
        metric = next(iter(found.metrics), metric)
    value = found.metrics.get(metric)
    return RunEntry(_start(found), found.name, found.status, progress_text(found), metric, value)


def _sweep_entry(path: Path, plan: SweepPlan, runs: Sequence[Run]) -> RunEntry:
    folder, jobs, objective = plan.folder, len(plan.jobs), plan.objective
    counts = Counter(found.status for found in runs)
    counts[Status.PENDING] = max(0, jobs - len(runs))
    with plan.objective_declared():
        best = next(iter(sort_by_metric(runs, objective)), None)
    statuses = ", ".join(
        f"{count} {status_label(status)}" for status, count in sorted(counts.items(), key=_by_status) if count
    )
    name = folder.relative_to(path).as_posix() if folder != path else folder.name
    value = best.metrics.get(objective) if best else None
    when = max((_start(found) for found in runs), default=_modified(folder))
    return RunEntry(
        when,
        f"{name}/",
        f"sweep: {Status.RUNNING}" if counts[Status.RUNNING] else "sweep",
        f"{statuses} of {jobs}",
        objective,
        value,
    )


def _by_status(item: tuple[str, int]) -> int:
    order = (Status.DONE, Status.PRUNED, Status.FAILED, Status.DIED, Status.INTERRUPTED, Status.RUNNING, Status.PENDING)
    return order.index(item[0]) if item[0] in order else len(order)


def _plans(path: Path, runs: Sequence[Run]) -> dict[Path, SweepPlan]:
    """Returns the sweeps of the runs, and those below `path` that have not started."""
    folders = {found.path.parent for found in runs} | {path, *path.glob("*/"), *path.glob("*/*/")}
    plans = {}
    for folder in sorted(folders):
        with suppress(UserError):
            plans[folder] = SweepPlan.read(folder)
    return plans


def as_table(lines: Sequence[RunEntry]) -> ComparisonTable:
    """Returns the lines as a table, with values as texts."""
    keys = ["start", "run", "status", "progress", "metric", "value"]
    rows = [
        [
            entry.when[:16].replace("T", " "),
            *(entry.name, entry.status, entry.progress),
            *(("", None) if entry.value is None else (label(entry.metric), entry.value)),
        ]
        for entry in lines
    ]
    for row, entry in zip(rows, lines, strict=True):
        row[-1] = None if entry.value is None else value_text(entry.metric, entry.value)
    return ComparisonTable(keys, keys, rows)


def _start(found: Run) -> str:
    return str(found.facts.get("start") or _modified(found.path))


def _modified(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(timespec="milliseconds")


def _seconds(start: Any) -> float | None:
    try:
        return datetime.fromisoformat(start).timestamp()
    except (TypeError, ValueError):
        return None
