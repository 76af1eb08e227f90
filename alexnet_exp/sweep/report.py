"""What a sweep says: a line as a job ends, one that comes and goes while they run, and all of it at the end.

Lines go to stderr, the end to stdout: a table on a terminal, else one JSON object.
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
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sanitize import escape_controls
from alexnet_exp.sweep.execute.scheduler import Outcome, status_of

TEST = "test/top1"
_ORDER = (
    Status.DONE,
    Status.PRUNED,
    Status.RUNNING,
    Status.QUEUED,
    Status.INTERRUPTED,
    Status.DIED,
    Status.FAILED,
    Status.PENDING,
)
_CLEAR = "\r\x1b[2K"


class Teller:
    """Tells on stderr how a sweep goes. Nothing else writes there meanwhile: jobs have their own train.log.

    wanted: how many jobs there will be, where the plan does not have all of them yet.
    """

    def __init__(self, plan: SweepPlan, wanted: int | None = None):
        self.plan = plan
        self.wanted = wanted
        self.shown = False
        self.next_look = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(escape_controls(text), file=sys.stderr, flush=True)

    def ended(self, outcome: Outcome) -> None:
        """The line of a job that has ended: number, what varies, objective, seconds, how."""
        objective = self.plan.objective
        job = outcome.job
        number = f"{job.number}/{self.wanted or len(self.plan.jobs)}"
        words = [number, job.label, f"{label(objective)} {_objective(outcome, self.plan)}"]
        words += [_seconds(outcome), outcome.status + (f": {outcome.error}" if outcome.error else "")]
        self.say("  ".join(word for word in words if word))

    def looked(self, running: Sequence[Job], waiting: int) -> None:
        """What runs now, and how far it is: on a terminal, in a line that the next one replaces."""
        if not sys.stderr.isatty() or time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + 1.0
        running_now = ", ".join(f"{job.number} ({job.label}){_epochs(job)}" for job in running) or "none here"
        text = escape_controls(f"running: {running_now}; waiting: {waiting}")
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"{_CLEAR}{text[:width]}")
        sys.stderr.flush()
        self.shown = True

    def clear(self) -> None:
        """Takes the passing line away."""
        if self.shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
            self.shown = False


def told_beforehand(jobs: Sequence[Job], asked: int) -> Iterator[str]:
    """Before the first job starts: how many there are and where, how many are done, how many were asked for twice."""
    done = sum(status_of(job.folder) in (Status.DONE, Status.PRUNED) for job in jobs)
    count = f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}"
    yield f"{count} in {jobs[0].folder.parent}" + (f", {done} done already" if done else "")
    if asked == 1:
        yield "-m: a sweep of one run; list several values, such as seed=1,2"
    if asked > len(jobs):
        yield f"{asked - len(jobs)} of {asked} jobs have the configuration of another: they are run once"


def counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many jobs there are of each status, the best first."""
    found = Counter(outcome.status for outcome in outcomes)
    return {status: found[status] for status in _ORDER if found[status]}


def ended_well(outcomes: Iterable[Outcome]) -> bool:
    """Whether every job is done, or was ended early because it was hopeless."""
    return all(outcome.status in (Status.DONE, Status.PRUNED) for outcome in outcomes)


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Of the sweep as a whole: done; running or open, where none ended badly and some are still to end; failed."""
    if ended_well(outcomes):
        return Status.DONE
    found = {outcome.status for outcome in outcomes}
    if not found <= {Status.DONE, Status.PRUNED, Status.RUNNING, Status.QUEUED, Status.PENDING}:
        return Status.FAILED
    return Status.PENDING if Status.PENDING in found else Status.RUNNING


def ranked(outcomes: Iterable[Outcome], objective: str) -> list[Outcome]:
    """The best first; then those without the objective, in the order of `_ORDER`. Only done jobs are ranked."""
    sign = -1 if higher_is_better(objective) else 1

    def place(outcome: Outcome) -> tuple[float, float, int]:
        value = outcome.metrics.get(objective, math.nan)
        if outcome.status == Status.DONE and not math.isnan(value):
            return -1, sign * value, outcome.job.number
        return _ORDER.index(outcome.status), 0.0, outcome.job.number

    return sorted(outcomes, key=place)


def best(outcomes: Iterable[Outcome], objective: str) -> Outcome | None:
    """The done job whose objective is best."""
    first = next(iter(ranked(outcomes, objective)), None)
    return first if first is not None and first.status == Status.DONE and objective in first.metrics else None


def tell(plan: SweepPlan, outcomes: Sequence[Outcome], stopped: str | None = None) -> None:
    """The end on stdout. stopped: how the sweep was ended, where it was not by its jobs."""
    if sys.stdout.isatty():
        _table(plan, outcomes, stopped)
    else:
        print(json.dumps(summary(plan, outcomes, stopped)))


def summary(plan: SweepPlan, outcomes: Sequence[Outcome], stopped: str | None = None) -> dict[str, Any]:
    """The whole sweep as one JSON object."""
    with plan.objective_declared():
        first = best(outcomes, plan.objective)
    told: dict[str, Any] = {
        "sweep": str(plan.folder),
        "status": stopped or verdict(outcomes),
        "counts": counts(outcomes),
        "objective": plan.objective,
        "best": None if first is None else _machine(first),
        "runs": [_machine(outcome) for outcome in outcomes],
    }
    return told


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 only where every job ended well, or is left to a cluster that still has it."""
    return ExitCode.FAILED if verdict(outcomes) == Status.FAILED else ExitCode.OK


def _machine(outcome: Outcome) -> dict[str, Any]:
    line = {"run": str(outcome.job.folder), "status": outcome.status, "metrics": outcome.metrics}
    return line | ({"error": outcome.error} if outcome.error else {})


def _table(plan: SweepPlan, outcomes: Sequence[Outcome], stopped: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    varies = list(dict.fromkeys(key for outcome in outcomes for key in outcome.job.varies))
    told = ", ".join(f"{number} {status}" for status, number in counts(outcomes).items())
    table = Table(
        title=Text(one_line(f"{plan.folder}: {stopped + '; ' if stopped else ''}{told}")), title_justify="left"
    )
    table.add_column("job", justify="right")
    for key in varies:
        table.add_column(Text(escape_controls(key)))
    shown = [plan.objective] + ([TEST] if plan.objective != TEST else [])
    for key in shown:
        table.add_column(Text(escape_controls(label(key))), justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("status")
    with plan.objective_declared():
        order = ranked(outcomes, plan.objective)
    for outcome in order:
        job = outcome.job
        figures = [value_text(key, outcome.metrics.get(key)) for key in shown]
        status = outcome.status + (f": {outcome.error}" if outcome.error else "")
        settings = [job.varies.get(key, "") for key in varies]
        seconds = "-" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        # as texts: rich would take `[relu]` for markup
        cells = (str(job.number), *settings, *figures, seconds, status)
        table.add_row(*(Text(escape_controls(text)) for text in cells))
    Console().print(table)
    # not by rich, which would fold the lines that are to be copied
    folder = one_line(plan.folder)
    if ended_well(outcomes):
        print("Type next:", f"  python -m alexnet_exp compare {folder}", sep="\n")
    elif set(counts(outcomes)) == {Status.PENDING}:  # only planned
        print("Type next, as often as you like:", f"  python -m alexnet_exp sweep work {folder}", sep="\n")
    else:
        print("Type next, or the same command again:", f"  python -m alexnet_exp resume {folder}", sep="\n")


def _objective(outcome: Outcome, plan: SweepPlan) -> str:
    return value_text(plan.objective, outcome.metrics.get(plan.objective))


def _seconds(outcome: Outcome) -> str:
    return "" if outcome.seconds is None else f"{outcome.seconds:.1f} s"


def _epochs(job: Job) -> str:
    """How far a running job is."""
    with suppress(UserError, OSError, KeyError):
        result = read_result(job.folder)
        return f" epoch {result.get('epochs', 0)}/{result['config']['trainer.max_epochs']}"
    return ""
