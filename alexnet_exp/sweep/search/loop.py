"""Runs a search: asks the study for trials, runs each as a job, and reports its epochs and its result to the study.

The study has what was tried; the folder of a job has what it resulted in. If a search is stopped between the two, the
next one updates the study from the folders, so that no finished job runs twice.
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
from alexnet_exp.sweep.execute.job_lock import HEARTBEAT_SECONDS, JobLock, JobLocks
from alexnet_exp.sweep.execute.pool import EndedJob, JobPool
from alexnet_exp.sweep.execute.scheduler import FOREIGN_POLL_SECONDS, Outcome, prepare_folder, read_outcome, read_status
from alexnet_exp.sweep.search.space import SearchValue
from alexnet_exp.sweep.search.study import RUN_ATTRIBUTE, Study

EPOCH_POLL_SECONDS = 0.25
# A job with one of these statuses is not run again by a search; any other is.
FINAL_STATUSES = (Status.DONE, Status.PRUNED, Status.FAILED)


@dataclass
class _TrialJob:
    """A trial that has not ended, and its job. duplicates: trials with the same job, which runs once for all."""

    number: int
    job: Job
    lock: JobLock | None = None
    duplicates: list[int] = field(default_factory=list)
    epochs: int = 0  # the last epoch that the study has
    pruned: bool = False
    metrics_size: int = 0  # of metrics.csv when it was last read, in bytes


class Search:
    """Runs the trials of a study until it has as many as are wanted.

    make_job: returns the job of a trial's number and values, composed and validated, in the plan and with `.hydra/` in
    its folder; raises UserError if the values are incompatible. on_start, on_end, on_poll: as in `run_jobs`.
    print_line: called with a line about a trial that has no job of its own. max_running: the number of trials at once
    if the pool has room for more; the sampler learns only from trials that have ended.
    """

    def __init__(
        self,
        study: Study,
        plan: SweepPlan,
        pool: JobPool,
        make_job: Callable[[int, dict[str, SearchValue]], Job],
        on_end: Callable[[Outcome], None],
        on_start: Callable[[Job], None] = lambda job: None,
        on_poll: Callable[[list[Job], int], None] = lambda running, waiting: None,
        print_line: Callable[[str], None] = lambda line: None,
        max_running: int | None = None,
    ):
        self.max_running = max_running
        self.study, self.plan, self.pool, self.make_job = study, plan, pool, make_job
        self.on_end, self.on_start, self.on_poll, self.print_line = on_end, on_start, on_poll, print_line
        self.locks = JobLocks(plan.folder)
        self._waiting: list[_TrialJob] = []  # until there is room
        self._running: dict[str, _TrialJob] = {}  # by the names of the jobs' folders
        self._foreign: dict[str, _TrialJob] = {}  # run by another process, by the names of the jobs' folders
        self._last_job: Job | None = None
        self._last_heartbeat = time.monotonic()
        self._last_foreign_check = 0.0

    def run(self) -> None:
        """Returns when all trials have ended. Ctrl-C interrupts the running jobs; their trials stay unfinished."""
        try:
            for unfinished in self.study.unfinished_trials():
                self._add(unfinished.number, unfinished.values)
            while True:
                self._start_trials()
                if not (self._running or self._waiting or self._foreign):
                    return
                self.on_poll(self.pool.running(), max(0, self.study.wanted - self.study.count_started()))
                if self.pool.running():
                    for ended in self.pool.wait(EPOCH_POLL_SECONDS):
                        self._finish(ended)
                else:
                    time.sleep(EPOCH_POLL_SECONDS)
                self._poll()
        finally:
            for ended in self.pool.close():
                self._finish(ended)
            for trial in self._running.values():
                _release(trial)

    def _start_trials(self) -> None:
        """Starts as many trials as there is room for; a trial asked for earlier would know less of those before it."""
        while True:
            if self._waiting:
                trial = self._waiting[0]
                if not self._has_room(trial.job):
                    return
                self._waiting.pop(0)
                self._start(trial)
            elif self.study.count_started() < self.study.wanted and self._has_room(self._last_job):
                self._add(*self.study.ask())
            else:
                return

    def _has_room(self, job: Job | None) -> bool:
        """Whether a job could start; before the next job is known, one like the last."""
        if self.max_running is not None and len(self._running) + len(self._foreign) >= self.max_running:
            return False
        # An empty pool never gets more room: the job itself reports which devices are missing.
        return job is None or not self.pool.running() or self.pool.has_room(job)

    def _add(self, number: int, values: dict[str, SearchValue]) -> None:
        """Makes the job of a trial. Its values may be invalid, or its job may run or have run for another trial."""
        try:
            job = self.make_job(number, values)
        except UserError as error:
            line = "; ".join(str(error).splitlines())
            self.study.fail(number, line)
            self.print_line(f"trial {number + 1} failed: {line}")
            return
        name = job.folder.name
        self.study.set_attributes(number, {RUN_ATTRIBUTE: name})
        for other in (*self._waiting, *self._running.values(), *self._foreign.values()):
            if other.job.folder == job.folder:
                other.duplicates.append(number)
                return
        original = self.study.close_duplicate(number, name)
        if original is not None:
            self.print_line(f"trial {number + 1}: has the same values as trial {original + 1}, and its result")
            return
        trial = _TrialJob(number, job)
        if self._is_foreign(job):
            self._foreign[name] = trial
        else:
            self._close_or_wait(trial)

    def _close_or_wait(self, trial: _TrialJob) -> None:
        """Closes the trial of a job that has ended, or puts it among those that wait. No process runs the job."""
        if read_status(trial.job.folder) in FINAL_STATUSES:
            self._close(trial, read_outcome(trial.job))
        else:
            self._waiting.append(trial)

    def _start(self, trial: _TrialJob) -> None:
        job = trial.job
        trial.lock = self.locks.acquire(job)
        if trial.lock is None or in_use(job.folder):
            _release(trial)
            self._foreign[job.folder.name] = trial
            return
        self._last_job = job
        self._running[job.folder.name] = trial
        failure = prepare_folder(job)
        self.on_start(job)
        if failure:
            del self._running[job.folder.name]
            _release(trial)
            self._close(trial, failure)
        else:
            self.pool.start(job)

    def _is_foreign(self, job: Job) -> bool:
        """Whether a process that an earlier search started still runs the job, here or in a queue."""
        owner = self.locks.owner(job)
        return in_use(job.folder) or (owner is not None and self.locks.is_alive(owner))

    def _poll(self) -> None:
        """Reports new epochs, prunes trials, refreshes locks and checks the jobs that other processes run."""
        for trial in (*self._running.values(), *self._foreign.values()):
            self._report_epochs(trial)
        if time.monotonic() - self._last_foreign_check > FOREIGN_POLL_SECONDS:
            self._last_foreign_check = time.monotonic()
            for name, trial in list(self._foreign.items()):
                if not self._is_foreign(trial.job):
                    del self._foreign[name]
                    self._close_or_wait(trial)
        if time.monotonic() - self._last_heartbeat > HEARTBEAT_SECONDS:
            self._last_heartbeat = time.monotonic()
            for trial in self._running.values():
                if trial.lock is not None:
                    trial.lock.refresh()

    def _report_epochs(self, trial: _TrialJob) -> None:
        """Reports new epochs in the metrics.csv of a job to the study; prunes the trial if its pruner decides so."""
        file = trial.job.folder / "metrics.csv"
        size = file.stat().st_size if file.exists() else 0
        if size == trial.metrics_size:
            return
        trial.metrics_size = size
        with suppress(UserError):  # a damaged file; the job's ending reports it
            for row in read_metrics(trial.job.folder):
                epoch, value = int(row["epoch"] or 0), row.get(self.plan.objective)
                if epoch > trial.epochs and value is not None and math.isfinite(value):
                    trial.epochs = epoch
                    if self.study.report_epoch(trial.number, epoch, value) and not trial.pruned:
                        trial.pruned = True
                        self._prune(trial, epoch, value)

    def _prune(self, trial: _TrialJob, epoch: int, value: float) -> None:
        objective = self.plan.objective
        shown = f"{label(objective)} {value_text(objective, value)} after epoch {epoch}"
        reason = f"by the {self.study.settings.pruner} pruner: {shown}"
        if trial.job.folder.name in self._running:
            self.pool.stop(trial.job, reason)
        else:
            (trial.job.folder / PRUNE_FILE).write_text(reason + "\n", encoding="utf-8")

    def _finish(self, ended: EndedJob) -> None:
        trial = self._running.pop(ended.job.folder.name)
        _release(trial)
        outcome = read_outcome(ended.job)
        if in_use(ended.job.folder):  # rejected, because the process of an earlier search has not ended yet
            self._foreign[ended.job.folder.name] = trial
            return
        if outcome.status in (Status.PENDING, Status.RUNNING, Status.DIED):  # rejected before it started
            status = Status.INTERRUPTED if ended.ending.status == Status.INTERRUPTED else Status.FAILED
            outcome = Outcome(ended.job, status, outcome.metrics, ended.seconds, ended.ending.reason or None)
        self._close(trial, outcome)

    def _close(self, trial: _TrialJob, outcome: Outcome) -> None:
        """Reports a job's outcome to the study and the user. An interrupted trial stays unfinished in the study."""
        self._report_epochs(trial)
        value = outcome.metrics.get(self.plan.objective)
        if outcome.status == Status.DONE and (value is None or not math.isfinite(value)):
            outcome = replace(outcome, status=Status.FAILED, error=f"no {self.plan.objective} was recorded")
        if outcome.status in FINAL_STATUSES:
            self.study.set_attributes(trial.number, {"seconds": outcome.seconds, **outcome.metrics})
        if outcome.status == Status.DONE and value is not None:
            self.study.complete(trial.number, value)
        elif outcome.status == Status.PRUNED:
            self.study.prune(trial.number)
        elif outcome.status == Status.FAILED:
            self.study.fail(trial.number, outcome.error or "it ended without an error message")
        if outcome.status in FINAL_STATUSES:
            for duplicate in trial.duplicates:
                self.study.close_duplicate(duplicate, trial.job.folder.name)
        self.on_end(outcome)


def _release(trial: _TrialJob) -> None:
    if trial.lock is not None:
        trial.lock.release()
        trial.lock = None
