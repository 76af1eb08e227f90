"""Prints the progress of a sweep on stderr, and its results on stdout.

Stderr gets one line for each job that ends and, on a terminal, a progress line that replaces itself. Stdout gets the
final table on a terminal, otherwise one JSON object.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from alexnet_exp.errors import ExitCode, UserError, one_line
from alexnet_exp.runs.metric import higher_is_better, label, value_text
from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.status import Status, status_label
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sanitize import escape_controls
from alexnet_exp.sweep.execute.scheduler import SUCCEEDED, Outcome, read_status

TEST_METRIC = "test/top1"
PROGRESS_INTERVAL_SECONDS = 1.0
_STATUS_ORDER = (
    Status.DONE,
    Status.PRUNED,
    Status.RUNNING,
    Status.QUEUED,
    Status.INTERRUPTED,
    Status.DIED,
    Status.FAILED,
    Status.PENDING,
)
_CLEAR_LINE = "\r\x1b[2K"


class SweepReporter:
    """Prints on stderr how a sweep proceeds. The jobs do not write there: each has its own train.log.

    total_jobs: the number of jobs, if the plan does not have all of them yet.
    """

    def __init__(self, plan: SweepPlan, total_jobs: int | None = None):
        self.plan = plan
        self.total_jobs = total_jobs
        self.shows_progress = False
        self.next_progress = 0.0

    def print_line(self, text: str) -> None:
        """Prints a line that stays."""
        self.clear_progress()
        print(escape_controls(text), file=sys.stderr, flush=True)

    def print_job(self, outcome: Outcome) -> None:
        """Prints the line of a job that has ended: number, settings that vary, objective, seconds, status."""
        objective = self.plan.objective
        job = outcome.job
        number = f"{job.number}/{self.total_jobs or len(self.plan.jobs)}"
        parts = [number, job.label, f"{label(objective)} {_objective(outcome, self.plan)}"]
        parts += [_seconds(outcome), _status(outcome)]
        self.print_line("  ".join(part for part in parts if part))

    def print_progress(self, running: Sequence[Job], waiting: int) -> None:
        """Prints the running jobs and their epochs, on a terminal only, in a line that the next line replaces."""
        if not sys.stderr.isatty() or time.monotonic() < self.next_progress:
            return
        self.next_progress = time.monotonic() + PROGRESS_INTERVAL_SECONDS
        jobs = ", ".join(f"{job.number} ({job.label}){_epochs(job)}" for job in running) or "no job of this process"
        text = escape_controls(f"running: {jobs}; waiting: {waiting}")
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"{_CLEAR_LINE}{text[:width]}")
        sys.stderr.flush()
        self.shows_progress = True

    def clear_progress(self) -> None:
        """Removes the progress line."""
        if self.shows_progress:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()
            self.shows_progress = False


def opening_lines(jobs: Sequence[Job], requested: int) -> Iterator[str]:
    """Yields the lines before the first job starts.

    requested: the number of jobs of the command, before those with equal configurations were merged.
    """
    done = sum(read_status(job.folder) in SUCCEEDED for job in jobs)
    count = f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}"
    yield f"{count} in {jobs[0].folder.parent}" + (f", {done} already done" if done else "")
    if requested == 1:
        yield "-m: this sweep has a single run; list several values, such as seed=1,2"
    if requested > len(jobs):
        duplicates = requested - len(jobs)
        yield f"{duplicates} of {requested} jobs have the same configuration as another job and run only once"


def count_statuses(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Returns the number of jobs of each status, the best status first."""
    numbers = Counter(outcome.status for outcome in outcomes)
    return {status: numbers[status] for status in _STATUS_ORDER if numbers[status]}


def all_succeeded(outcomes: Iterable[Outcome]) -> bool:
    """Whether every job is done or was pruned."""
    return all(outcome.status in SUCCEEDED for outcome in outcomes)


def overall_status(outcomes: Sequence[Outcome]) -> str:
    """Returns the status of the sweep: done, failed, or, if jobs have not ended and none failed, running or pending."""
    if all_succeeded(outcomes):
        return Status.DONE
    statuses = {outcome.status for outcome in outcomes}
    if not statuses <= {*SUCCEEDED, Status.RUNNING, Status.QUEUED, Status.PENDING}:
        return Status.FAILED
    return Status.PENDING if Status.PENDING in statuses else Status.RUNNING


def rank_outcomes(outcomes: Iterable[Outcome], objective: str) -> list[Outcome]:
    """Sorts by the objective, the best first; then follow the jobs that are not done, in `_STATUS_ORDER`."""
    sign = -1 if higher_is_better(objective) else 1

    def sort_key(outcome: Outcome) -> tuple[float, float, int]:
        value = outcome.metrics.get(objective, math.nan)
        if outcome.status == Status.DONE and not math.isnan(value):
            return -1, sign * value, outcome.job.number
        return _STATUS_ORDER.index(outcome.status), 0.0, outcome.job.number

    return sorted(outcomes, key=sort_key)


def best_outcome(outcomes: Iterable[Outcome], objective: str) -> Outcome | None:
    """Returns the done job with the best objective; None if no done job has the objective."""
    first = next(iter(rank_outcomes(outcomes, objective)), None)
    return first if first is not None and first.status == Status.DONE and objective in first.metrics else None


def print_results(plan: SweepPlan, outcomes: Sequence[Outcome], status: str | None = None) -> None:
    """Prints the final table, or the JSON object. status: of the sweep, if its jobs do not determine it."""
    if sys.stdout.isatty():
        _print_table(plan, outcomes, status)
    else:
        print(json.dumps(results_as_json(plan, outcomes, status)))


def results_as_json(plan: SweepPlan, outcomes: Sequence[Outcome], status: str | None = None) -> dict[str, Any]:
    """Returns the whole sweep as one JSON object."""
    with plan.objective_declared():
        best = best_outcome(outcomes, plan.objective)
    return {
        "sweep": str(plan.folder),
        "status": status or overall_status(outcomes),
        "counts": count_statuses(outcomes),
        "objective": plan.objective,
        "best": None if best is None else _job_as_json(best),
        "runs": [_job_as_json(outcome) for outcome in outcomes],
    }


def exit_code_of(outcomes: Sequence[Outcome]) -> int:
    """Returns `ExitCode.FAILED` if a job failed or was stopped, else `ExitCode.OK`, also for jobs still in a queue."""
    return ExitCode.FAILED if overall_status(outcomes) == Status.FAILED else ExitCode.OK


def _job_as_json(outcome: Outcome) -> dict[str, Any]:
    line = {"run": str(outcome.job.folder), "status": outcome.status, "metrics": outcome.metrics}
    return line | ({"error": outcome.error} if outcome.error else {})


def _print_table(plan: SweepPlan, outcomes: Sequence[Outcome], status: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    varies = list(dict.fromkeys(key for outcome in outcomes for key in outcome.job.varies))
    statuses = count_statuses(outcomes)
    counts = ", ".join(f"{number} {status_label(each)}" for each, number in statuses.items())
    title = f"{plan.folder}: {status + '; ' if status else ''}{counts}"
    table = Table(title=Text(one_line(title)), title_justify="left")
    table.add_column("job", justify="right")
    for key in varies:
        table.add_column(Text(escape_controls(key)))
    metrics = [plan.objective] + ([TEST_METRIC] if plan.objective != TEST_METRIC else [])
    for key in metrics:
        table.add_column(Text(escape_controls(label(key))), justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("status")
    with plan.objective_declared():
        order = rank_outcomes(outcomes, plan.objective)
    for outcome in order:
        job = outcome.job
        settings = [job.varies.get(key, "") for key in varies]
        figures = [value_text(key, outcome.metrics.get(key)) for key in metrics]
        seconds = "-" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        # `Text`, because rich would read `[relu]` as markup.
        cells = (str(job.number), *settings, *figures, seconds, _status(outcome))
        table.add_row(*(Text(escape_controls(text)) for text in cells))
    Console().print(table)
    # `print`, because rich would wrap lines that are to be copied.
    folder = one_line(plan.folder)
    if all_succeeded(outcomes):
        print("Next steps:", f"  python -m alexnet_exp compare {folder}", sep="\n")
    elif set(statuses) == {Status.PENDING}:  # planned with hydra.launcher.jobs=0
        print("Next steps (start any number of workers):", f"  python -m alexnet_exp sweep work {folder}", sep="\n")
    else:
        print("Next steps (or run the same command again):", f"  python -m alexnet_exp resume {folder}", sep="\n")


def _status(outcome: Outcome) -> str:
    return status_label(outcome.status) + (f": {outcome.error}" if outcome.error else "")


def _objective(outcome: Outcome, plan: SweepPlan) -> str:
    return value_text(plan.objective, outcome.metrics.get(plan.objective))


def _seconds(outcome: Outcome) -> str:
    return "" if outcome.seconds is None else f"{outcome.seconds:.1f} s"


def _epochs(job: Job) -> str:
    """Returns the epoch of a running job; empty if its folder does not have it yet."""
    with suppress(UserError, OSError, KeyError):
        result = read_result(job.folder)
        return f" epoch {result.get('epochs', 0)}/{result['config']['trainer.max_epochs']}"
    return ""
