"""The loop over the jobs of a sweep: claims one, starts it where there is room, tells how it ended, goes on.

It does not know where the jobs run (`pool.py`) nor how they were planned (`launcher.py`), so a command, a resumed sweep
and a pull worker are this one loop. Several may work on one folder at once.
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
from alexnet_exp.sweep.execute.job_lock import BEAT, Claim, Claims
from alexnet_exp.sweep.execute.pool import Ended, Pool

# What a job that is not run again has come to.
WELL = (Status.DONE, Status.PRUNED)
# Seconds between two looks: at what has ended, and at a job that another runs.
LOOK, LOOK_ELSEWHERE = 0.5, 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What has become of a job. seconds: of its training, in all attempts; error: one line."""

    job: Job
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None
    images_per_s: float | None = None


def status_of(folder: Path) -> str:
    """What a job's folder says: `open` where it has not begun, else the status of its run."""
    try:
        return state(folder) if (folder / "result.json").exists() else Status.PENDING
    except UserError:  # damaged: as if it had been cut off
        return Status.DIED


def outcome_of(job: Job) -> Outcome:
    """What a job's folder says has become of it."""
    status = status_of(job.folder)
    result: dict[str, Any] = {}
    if status != Status.PENDING:
        with suppress(UserError):
            result = read_result(job.folder)
    metrics = {key: value for key, value in (result.get("metrics") or {}).items() if isinstance(value, int | float)}
    error = result.get("error") or ("its process was killed" if status == Status.DIED else None)
    return Outcome(job, status, metrics, _seconds(result), error, result.get("images_per_s"))


def make_ready(job: Job) -> Outcome | None:
    """Makes a job's folder ready for its next attempt; the job's end, where the folder cannot be written.

    What can be gone on with stays, see `goes_on`; anything else that lies there is set aside.
    """
    try:
        if not goes_on(job.folder):
            RunFolder(job.folder).set_aside()
    except OSError as error:
        return Outcome(job, Status.FAILED, error=f"its folder cannot be written ({error.strerror})")
    return None


def goes_on(folder: Path) -> bool:
    """Whether the next attempt goes on from a checkpoint of the one before: it has one, and the code is the same.

    Code that was changed since is why many a job is run again; half a run of each would be neither.
    """
    if not has_checkpoint(folder) or not (folder / "result.json").exists():
        return False
    code = _code()
    if _text(folder / "code.patch") != code.patch:
        return False
    try:
        return bool(read_result(folder).get("commit") == code.commit)
    except UserError:  # damaged: no reason to lose the checkpoints, which have checksums of their own
        return True


@cache
def _code() -> provenance.Code:
    return provenance.running()


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else ""


def in_queue(plan: SweepPlan, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The same, with `queued` in place of what the folder says of those that wait in a scheduler's queue."""
    claims = Claims(plan.folder)

    def waits(outcome: Outcome) -> bool:
        owner = None if outcome.status in (*WELL, Status.FAILED, Status.RUNNING) else claims.owner(outcome.job)
        return owner is not None and owner.queued and claims.is_alive(owner)

    return [replace(outcome, status=Status.QUEUED, error=None) if waits(outcome) else outcome for outcome in outcomes]


def run_jobs(
    plan: SweepPlan,
    jobs: Iterable[Job],
    pool: Pool,
    *,
    again: bool,
    wait: bool,
    told: Callable[[Outcome], None],
    started: Callable[[Job], None] = lambda job: None,
    looked: Callable[[list[Job], int], None] = lambda running, left: None,
) -> list[Outcome]:
    """Runs those of `jobs` that are to be run; returns how each of `jobs` stands when this process has no more to do.

    again: whether those that have failed are run once more. Those that were cut off always are, done and pruned ones
    never. wait: whether to wait for jobs that others run, and to take them over where those die; else they are left.
    told, started: called with each job that this process has run. looked: called now and then, with what is running
    and how many jobs wait. Raises whatever stops it (Ctrl-C) once nothing runs any more and its claims are let go.
    """
    return _Loop(plan, list(jobs), pool, again, wait, told, started, looked).run()


class _Loop:
    def __init__(
        self,
        plan: SweepPlan,
        jobs: list[Job],
        pool: Pool,
        again: bool,
        wait: bool,
        told: Callable[[Outcome], None],
        started: Callable[[Job], None],
        looked: Callable[[list[Job], int], None],
    ):
        self.jobs, self.pool, self.wait = jobs, pool, wait
        self.told, self.started, self.looked = told, started, looked
        self.claims = Claims(plan.folder)
        self.held: dict[Path, Claim] = {}
        self.beaten = time.monotonic()
        before = {job.folder: status_of(job.folder) for job in jobs}
        # what fails from here on, by whomever, has had its chance
        self.retried = {folder for folder, status in before.items() if again and status == Status.FAILED}
        self.left = [job for job in jobs if self._is_to_be_run(job, before[job.folder])]
        self.ran: dict[Path, Outcome] = {}
        self.elsewhere: dict[Path, float] = {}  # jobs that living others have, and when to look at them again

    def run(self) -> list[Outcome]:
        try:
            while self.left or self.pool.running():
                self._start()
                busy = bool(self.pool.running())
                if not busy and not self.wait and all(job.folder in self.elsewhere for job in self.left):
                    break
                self.looked(self.pool.running(), len(self.left))
                for ended in self.pool.wait(LOOK) if busy else ():
                    self._end(ended)
                if not busy and self.left:
                    time.sleep(LOOK)
                self._beat()
        finally:
            for ended in self.pool.close():
                self._end(ended)
            for claim in list(self.held.values()):
                claim.release()
        return [self.ran.get(job.folder) or outcome_of(job) for job in self.jobs]

    def _start(self) -> None:
        """Starts what there is room for."""
        for job in list(self.left):
            if self.elsewhere.get(job.folder, 0.0) > time.monotonic():
                continue
            # a pool that is empty has no more room to offer than it has
            if self.pool.running() and not self.pool.has_room(job):
                continue
            claim = self.claims.take(job)
            if claim is None:
                self.elsewhere[job.folder] = time.monotonic() + LOOK_ELSEWHERE
                continue
            self.elsewhere.pop(job.folder, None)
            status = status_of(job.folder)
            if not self._is_to_be_run(job, status):
                self.left.remove(job)
                claim.release()
            elif status == Status.RUNNING or in_use(job.folder):
                claim.release()  # its process outlives the one that claimed it, for a moment
            else:
                self._begin(job, claim)

    def _begin(self, job: Job, claim: Claim) -> None:
        self.held[job.folder] = claim
        self.left.remove(job)
        self.retried.discard(job.folder)
        unusable = make_ready(job)
        self.started(job)
        if unusable:
            self._tell(unusable)
        else:
            self.pool.start(job)

    def _end(self, ended: Ended) -> None:
        job, ending = ended.job, ended.ending
        outcome = outcome_of(job)
        if outcome.status in (Status.PENDING, Status.RUNNING, Status.DIED):  # refused before it began
            status = Status.INTERRUPTED if ending.status == Status.INTERRUPTED else Status.FAILED
            outcome = Outcome(job, status, outcome.metrics, ended.seconds, ending.reason or None)
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        claim = self.held.pop(outcome.job.folder, None)
        if claim is not None:
            claim.release()
        self.ran[outcome.job.folder] = outcome
        self.told(outcome)

    def _beat(self) -> None:
        if time.monotonic() - self.beaten < BEAT:
            return
        self.beaten = time.monotonic()
        for folder, claim in list(self.held.items()):
            if not claim.beat():
                log.warning(f"{folder.name}: its claim was taken by another process, which took this one for dead")
                del self.held[folder]

    def _is_to_be_run(self, job: Job, status: str) -> bool:
        return status not in WELL and (status != Status.FAILED or job.folder in self.retried)


def _seconds(result: dict[str, Any]) -> float | None:
    """Of its training, in all attempts; before a job has told that, from its start to its end."""
    trained = result.get("seconds")
    if isinstance(trained, int | float):
        return float(trained)
    if result.get("attempts"):  # `start` is that of the first: the time in between is none of the job's
        return None
    try:
        begun, ended = (datetime.fromisoformat(result[key]) for key in ("start", "end"))
    except (KeyError, ValueError, TypeError):
        return None
    return (ended - begun).total_seconds()
