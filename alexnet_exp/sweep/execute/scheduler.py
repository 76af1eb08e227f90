"""Runs the jobs of a sweep: locks a job, starts it when there is room, and reports how it ended.

The loop does not know where jobs run (`pool.py`) nor how they were planned (`launcher.py`): a sweep's command, `resume`
and `sweep work` all use it, and several processes may work on one sweep folder at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from alexnet_exp.errors import UserError
from alexnet_exp.runs import provenance
from alexnet_exp.runs.folder import RunFolder, has_checkpoint
from alexnet_exp.runs.lock import in_use
from alexnet_exp.runs.reader import read_result, state
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute.job_lock import HEARTBEAT_SECONDS, JobLock, JobLocks
from alexnet_exp.sweep.execute.pool import EndedJob, JobPool

# A job with one of these statuses is not run again.
SUCCEEDED = (Status.DONE, Status.PRUNED)
POLL_SECONDS = 0.5
# How often to check a job that another process runs.
FOREIGN_POLL_SECONDS = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The status and results of a job. seconds: of its training, in all attempts. error: one line."""

    job: Job
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None
    images_per_s: float | None = None


def read_status(folder: Path) -> str:
    """Returns the status of a job from its folder: that of its run, or `Status.PENDING` before it has started."""
    try:
        return state(folder) if (folder / "result.json").exists() else Status.PENDING
    except UserError:  # a damaged result.json is treated like that of a killed job
        return Status.DIED


def read_outcome(job: Job) -> Outcome:
    """Returns the outcome of a job from its folder."""
    status = read_status(job.folder)
    result: dict[str, Any] = {}
    if status != Status.PENDING:
        with suppress(UserError):
            result = read_result(job.folder)
    metrics = {key: value for key, value in (result.get("metrics") or {}).items() if isinstance(value, int | float)}
    error = result.get("error") or ("the process ended without reporting a result" if status == Status.DIED else None)
    return Outcome(job, status, metrics, _seconds(result), error, result.get("images_per_s"))


def prepare_folder(job: Job) -> Outcome | None:
    """Prepares a job's folder for its next attempt; returns the job's outcome if the folder cannot be written.

    A resumable attempt (`is_resumable`) stays in place; any other is moved to `earlier/`.
    """
    try:
        if not is_resumable(job.folder):
            RunFolder(job.folder).set_aside()
    except OSError as error:
        return Outcome(job, Status.FAILED, error=f"its folder cannot be written ({error.strerror})")
    return None


def is_resumable(folder: Path) -> bool:
    """Whether the next attempt resumes the last one: that one has a checkpoint, and the code has not changed since.

    Failed jobs are often run again because the code was changed; half a run with each version would be neither.
    """
    if not has_checkpoint(folder) or not (folder / "result.json").exists():
        return False
    code = _code()
    if _text(folder / "code.patch") != code.patch:
        return False
    try:
        return bool(read_result(folder).get("commit") == code.commit)
    except UserError:  # a damaged result.json is no reason to lose the checkpoints, which have their own checksums
        return True


@cache
def _code() -> provenance.Code:
    return provenance.running()


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else ""


def with_queued(plan: SweepPlan, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Returns the outcomes, with status `queued` for the jobs that wait in a scheduler's queue."""
    locks = JobLocks(plan.folder)

    def is_queued(outcome: Outcome) -> bool:
        owner = None if outcome.status in (*SUCCEEDED, Status.FAILED, Status.RUNNING) else locks.owner(outcome.job)
        return owner is not None and owner.queued and locks.is_alive(owner)

    return [
        replace(outcome, status=Status.QUEUED, error=None) if is_queued(outcome) else outcome for outcome in outcomes
    ]


def run_jobs(
    plan: SweepPlan,
    jobs: Iterable[Job],
    pool: JobPool,
    *,
    retry_failed: bool,
    wait: bool,
    on_end: Callable[[Outcome], None],
    on_start: Callable[[Job], None] = lambda job: None,
    on_poll: Callable[[list[Job], int], None] = lambda running, waiting: None,
) -> list[Outcome]:
    """Runs `jobs`, except those that succeeded, and returns the outcome of each when there is nothing left to do.

    retry_failed: whether failed jobs are run once more; interrupted and killed jobs always are. wait: whether to wait
    for the jobs that other processes run, and to take them over if those die; otherwise they are left to them.
    on_start, on_end: called with each job that this process runs. on_poll: called at intervals with the running jobs
    and the number of waiting ones. What stops it (Ctrl-C) is raised after all jobs have ended and their locks are
    released.
    """
    return _JobLoop(plan, list(jobs), pool, retry_failed, wait, on_end, on_start, on_poll).run()


class _JobLoop:
    def __init__(
        self,
        plan: SweepPlan,
        jobs: list[Job],
        pool: JobPool,
        retry_failed: bool,
        wait: bool,
        on_end: Callable[[Outcome], None],
        on_start: Callable[[Job], None],
        on_poll: Callable[[list[Job], int], None],
    ):
        self.jobs, self.pool, self.wait = jobs, pool, wait
        self.on_end, self.on_start, self.on_poll = on_end, on_start, on_poll
        self.locks = JobLocks(plan.folder)
        self.held: dict[Path, JobLock] = {}
        self.last_heartbeat = time.monotonic()
        before = {job.folder: read_status(job.folder) for job in jobs}
        # A job that fails from now on, in whichever process, is not retried.
        self.to_retry = {folder for folder, status in before.items() if retry_failed and status == Status.FAILED}
        self.waiting = [job for job in jobs if self._is_to_run(job, before[job.folder])]
        self.ended: dict[Path, Outcome] = {}
        self.next_check: dict[Path, float] = {}  # of jobs that other processes run

    def run(self) -> list[Outcome]:
        try:
            while self.waiting or self.pool.running():
                self._start_jobs()
                busy = bool(self.pool.running())
                if not busy and not self.wait and all(job.folder in self.next_check for job in self.waiting):
                    break
                self.on_poll(self.pool.running(), len(self.waiting))
                for ended in self.pool.wait(POLL_SECONDS) if busy else ():
                    self._finish(ended)
                if not busy and self.waiting:
                    time.sleep(POLL_SECONDS)
                self._refresh_locks()
        finally:
            for ended in self.pool.close():
                self._finish(ended)
            for lock in list(self.held.values()):
                lock.release()
        return [self.ended.get(job.folder) or read_outcome(job) for job in self.jobs]

    def _start_jobs(self) -> None:
        """Starts as many jobs as there is room for."""
        for job in list(self.waiting):
            if self.next_check.get(job.folder, 0.0) > time.monotonic():
                continue
            # An empty pool never gets more room: the job itself reports which devices are missing.
            if self.pool.running() and not self.pool.has_room(job):
                continue
            lock = self.locks.acquire(job)
            if lock is None:
                self.next_check[job.folder] = time.monotonic() + FOREIGN_POLL_SECONDS
                continue
            self.next_check.pop(job.folder, None)
            status = read_status(job.folder)
            if not self._is_to_run(job, status):
                self.waiting.remove(job)
                lock.release()
            elif status == Status.RUNNING or in_use(job.folder):
                lock.release()  # the job's process outlives, for a moment, the process that held its lock
            else:
                self._start(job, lock)

    def _start(self, job: Job, lock: JobLock) -> None:
        self.held[job.folder] = lock
        self.waiting.remove(job)
        self.to_retry.discard(job.folder)
        failure = prepare_folder(job)
        self.on_start(job)
        if failure:
            self._report(failure)
        else:
            self.pool.start(job)

    def _finish(self, ended: EndedJob) -> None:
        job, ending = ended.job, ended.ending
        outcome = read_outcome(job)
        if outcome.status in (Status.PENDING, Status.RUNNING, Status.DIED):  # rejected before it started
            status = Status.INTERRUPTED if ending.status == Status.INTERRUPTED else Status.FAILED
            outcome = Outcome(job, status, outcome.metrics, ended.seconds, ending.reason or None)
        self._report(outcome)

    def _report(self, outcome: Outcome) -> None:
        lock = self.held.pop(outcome.job.folder, None)
        if lock is not None:
            lock.release()
        self.ended[outcome.job.folder] = outcome
        self.on_end(outcome)

    def _refresh_locks(self) -> None:
        if time.monotonic() - self.last_heartbeat < HEARTBEAT_SECONDS:
            return
        self.last_heartbeat = time.monotonic()
        for folder, lock in list(self.held.items()):
            if not lock.refresh():
                log.warning(f"{folder.name}: another process took over the job, because this one seemed to be dead")
                del self.held[folder]

    def _is_to_run(self, job: Job, status: str) -> bool:
        return status not in SUCCEEDED and (status != Status.FAILED or job.folder in self.to_retry)


def _seconds(result: dict[str, Any]) -> float | None:
    """Returns the training time in all attempts; if result.json does not have it, the time from start to end."""
    trained = result.get("seconds")
    if isinstance(trained, int | float):
        return float(trained)
    if result.get("attempts"):  # `start` is that of the first attempt: the time between attempts is not the job's
        return None
    try:
        start, end = (datetime.fromisoformat(result[key]) for key in ("start", "end"))
    except (KeyError, ValueError, TypeError):
        return None
    return (end - start).total_seconds()
