"""A search: trials are asked for one by one, run as jobs, watched epoch by epoch, and told to the study.

The study knows what was tried; the job's folder knows what came of it. Whatever is cut off between the two is put right
from the folder by the search that follows, so that nothing that is done runs twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import PRUNE_FILE
from alexnet_exp.runs.lock import in_use
from alexnet_exp.runs.metric import label, value_text
from alexnet_exp.runs.reader import read_metrics
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute.job_lock import BEAT, Claim, Claims
from alexnet_exp.sweep.execute.pool import Ended, Pool
from alexnet_exp.sweep.execute.scheduler import LOOK_ELSEWHERE, Outcome, make_ready, outcome_of, status_of
from alexnet_exp.sweep.search.space import Value
from alexnet_exp.sweep.search.study import RUN, Study

LOOK = 0.25  # seconds between two looks at the epochs of what runs
# The outcome of such a job is final. Any other job is run again.
CLOSED = (
    Status.DONE,
    Status.PRUNED,
    Status.FAILED,
)


@dataclass
class _Trial:
    """An open trial and its job. others: trials of the same job, which is run once for all of them."""

    number: int
    job: Job
    claim: Claim | None = None
    others: list[int] = field(default_factory=list)
    epochs: int = 0  # how many have been reported
    hopeless: bool = False
    size: int = 0  # of metrics.csv when it was last read


class Search:
    """Runs the trials of a study until there are as many as are wanted.

    make: the job of a trial's number and values, composed and checked, in the plan and with `.hydra/` in its folder;
    raises UserError where the values do not go together. told, started, looked: as in `run_jobs`. said: is given a
    line about a trial that is no job of its own. at_once: how many trials run, where the pool has room for more: of
    what has not ended nothing can be learned.
    """

    def __init__(
        self,
        study: Study,
        plan: SweepPlan,
        pool: Pool,
        make: Callable[[int, dict[str, Value]], Job],
        told: Callable[[Outcome], None],
        started: Callable[[Job], None] = lambda job: None,
        looked: Callable[[list[Job], int], None] = lambda running, left: None,
        said: Callable[[str], None] = lambda line: None,
        at_once: int | None = None,
    ):
        self.at_once = at_once
        self.study, self.plan, self.pool, self.make = study, plan, pool, make
        self.told, self.started, self.looked, self.said = told, started, looked, said
        self.claims = Claims(plan.folder)
        self._waiting: list[_Trial] = []  # for room
        self._running: dict[str, _Trial] = {}  # by the name of the job's folder
        self._elsewhere: dict[str, _Trial] = {}
        self._last: Job | None = None
        self._beaten = time.monotonic()
        self._looked_elsewhere = 0.0

    def run(self) -> None:
        """Returns when all trials have ended. After Ctrl-C what ran is interrupted, and its trials stay open."""
        try:
            for left in self.study.left_open():
                self._place(left.number, left.values)
            while True:
                self._start()
                if not (self._running or self._waiting or self._elsewhere):
                    return
                self.looked(self.pool.running(), max(0, self.study.wanted - self.study.counted()))
                if self.pool.running():
                    for ended in self.pool.wait(LOOK):
                        self._ended(ended)
                else:
                    time.sleep(LOOK)
                self._watch()
        finally:
            for ended in self.pool.close():
                self._ended(ended)
            for trial in self._running.values():
                _release(trial)

    def _start(self) -> None:
        """Starts what there is room for. A trial is not asked for earlier: it would know less of those before it."""
        while True:
            if self._waiting:
                trial = self._waiting[0]
                if not self._has_room(trial.job):
                    return
                self._waiting.pop(0)
                self._begin(trial)
            elif self.study.counted() < self.study.wanted and self._has_room(self._last):
                self._place(*self.study.ask())
            else:
                return

    def _has_room(self, job: Job | None) -> bool:
        """Whether a job could start; before the next one is known, one like the last."""
        if self.at_once is not None and len(self._running) + len(self._elsewhere) >= self.at_once:
            return False
        # with nothing running there will never be more room: the job itself will say what it lacks
        return job is None or not self.pool.running() or self.pool.has_room(job)

    def _place(self, number: int, values: dict[str, Value]) -> None:
        """Finds the job of a trial, and where it stands: to be run, run for another trial, ended, or not possible."""
        try:
            job = self.make(number, values)
        except UserError as error:
            line = "; ".join(str(error).splitlines())
            self.study.failed(number, line)
            self.said(f"trial {number + 1} failed: {line}")
            return
        name = job.folder.name
        self.study.note(number, {RUN: name})
        for other in (*self._waiting, *self._running.values(), *self._elsewhere.values()):
            if other.job.folder == job.folder:
                other.others.append(number)
                return
        twin = self.study.close_as_twin(number, name)
        if twin is not None:
            self.said(f"trial {number + 1}: the same as trial {twin + 1}")
            return
        trial = _Trial(number, job)
        if self._lives_elsewhere(job):
            self._elsewhere[name] = trial
        else:
            self._settle(trial)

    def _settle(self, trial: _Trial) -> None:
        """Tells what has come of a job that nobody runs, or puts it among those to be run."""
        if status_of(trial.job.folder) in CLOSED:
            self._close(trial, outcome_of(trial.job))
        else:
            self._waiting.append(trial)

    def _begin(self, trial: _Trial) -> None:
        job = trial.job
        trial.claim = self.claims.take(job)
        if trial.claim is None or in_use(job.folder):
            _release(trial)
            self._elsewhere[job.folder.name] = trial
            return
        self._last = job
        self._running[job.folder.name] = trial
        unusable = make_ready(job)
        self.started(job)
        if unusable:
            del self._running[job.folder.name]
            _release(trial)
            self._close(trial, unusable)
        else:
            self.pool.start(job)

    def _lives_elsewhere(self, job: Job) -> bool:
        """Whether a process that an earlier search started still has the job, here or in a queue."""
        owner = self.claims.owner(job)
        return in_use(job.folder) or (owner is not None and self.claims.is_alive(owner))

    def _watch(self) -> None:
        """Reports new epochs, ends what is hopeless, looks after claims and what runs elsewhere."""
        for trial in (*self._running.values(), *self._elsewhere.values()):
            self._report(trial)
        if time.monotonic() - self._looked_elsewhere > LOOK_ELSEWHERE:
            self._looked_elsewhere = time.monotonic()
            for name, trial in list(self._elsewhere.items()):
                if not self._lives_elsewhere(trial.job):
                    del self._elsewhere[name]
                    self._settle(trial)
        if time.monotonic() - self._beaten > BEAT:
            self._beaten = time.monotonic()
            for trial in self._running.values():
                if trial.claim is not None:
                    trial.claim.beat()

    def _report(self, trial: _Trial) -> None:
        """Tells the study the epochs that are new in the job's metrics.csv."""
        file = trial.job.folder / "metrics.csv"
        size = file.stat().st_size if file.exists() else 0
        if size == trial.size:
            return
        trial.size = size
        with suppress(UserError):  # damaged: how the job ends will tell
            for row in read_metrics(trial.job.folder):
                epoch, value = int(row["epoch"] or 0), row.get(self.plan.objective)
                if epoch > trial.epochs and value is not None and math.isfinite(value):
                    trial.epochs = epoch
                    if self.study.report(trial.number, epoch, value) and not trial.hopeless:
                        trial.hopeless = True
                        self._stop(trial, epoch, value)

    def _stop(self, trial: _Trial, epoch: int, value: float) -> None:
        objective = self.plan.objective
        shown = f"{label(objective)} {value_text(objective, value)} after epoch {epoch}"
        reason = f"{shown} is hopeless ({self.study.settings.pruner} pruner)"
        if trial.job.folder.name in self._running:
            self.pool.stop(trial.job, reason)
        else:
            (trial.job.folder / PRUNE_FILE).write_text(reason + "\n", encoding="utf-8")

    def _ended(self, ended: Ended) -> None:
        trial = self._running.pop(ended.job.folder.name)
        _release(trial)
        outcome = outcome_of(ended.job)
        if in_use(ended.job.folder):  # it was refused: a process of an earlier search is still at its end
            self._elsewhere[ended.job.folder.name] = trial
            return
        if outcome.status in (Status.PENDING, Status.RUNNING, Status.DIED):  # refused before it began
            status = Status.INTERRUPTED if ended.ending.status == Status.INTERRUPTED else Status.FAILED
            outcome = Outcome(ended.job, status, outcome.metrics, ended.seconds, ended.ending.reason or None)
        self._close(trial, outcome)

    def _close(self, trial: _Trial, outcome: Outcome) -> None:
        """Tells the study and the user. What was interrupted stays open in the study, for the search that follows."""
        self._report(trial)
        value = outcome.metrics.get(self.plan.objective)
        if outcome.status == Status.DONE and (value is None or not math.isfinite(value)):
            outcome = replace(outcome, status=Status.FAILED, error=f"no {self.plan.objective} was recorded")
        if outcome.status in CLOSED:
            self.study.note(trial.number, {"seconds": outcome.seconds, **outcome.metrics})
        if outcome.status == Status.DONE and value is not None:
            self.study.complete(trial.number, value)
        elif outcome.status == Status.PRUNED:
            self.study.pruned(trial.number)
        elif outcome.status == Status.FAILED:
            self.study.failed(trial.number, outcome.error or "it ended without a word")
        if outcome.status in CLOSED:
            for other in trial.others:
                self.study.close_as_twin(other, trial.job.folder.name)
        self.told(outcome)


def _release(trial: _Trial) -> None:
    if trial.claim is not None:
        trial.claim.release()
        trial.claim = None
