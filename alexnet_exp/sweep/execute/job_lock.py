"""Locks the jobs of a sweep, so that several processes on several machines share it and start no job twice.

    <sweep>/claims/<job>.json    host, process, scheduler job and token of the owner; its modification time is the
                                 heartbeat
    <sweep>/claims/.lock         held (flock) while a lock file is read, created, touched or removed

The lock of a dead owner is free. An owner on this machine is dead if its process does not exist; an owner on another
machine, if its heartbeat has stopped; an owner in a SLURM queue, if the queue no longer has the job.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.slurm_queue import SlurmQueue, own_job_id, own_restart_count

LOCKS_FOLDER = "claims"
HEARTBEAT_SECONDS = 10.0
# An owner on another machine is considered dead after this time without a heartbeat.
DEAD_AFTER_SECONDS = 60.0
SLURM_PREFIX = "slurm:"
_slurm_queue = SlurmQueue()


@dataclass(frozen=True)
class LockOwner:
    """The owner of a job lock. The fields, except `silent_seconds`, are those of the lock file.

    machine: the host since its last boot, and its process namespace. start: the start time of the process, in the unit
    of the system; the number of a process alone may be reused. scheduler: the scheduler's job, `slurm:123`. restarts:
    how often the scheduler has restarted that job. queued: True if the lock belongs to the scheduler's job, which may
    still wait in the queue, and `pid` only submitted it. silent_seconds: time since the last heartbeat, by the clock of
    the file system.
    """

    host: str
    machine: str
    pid: int
    start: str
    scheduler: str | None
    restarts: int
    queued: bool
    token: str
    silent_seconds: float = 0.0

    def __str__(self) -> str:
        process = f"process {self.pid} on {self.host}"
        return f"{self.scheduler} ({process})" if self.scheduler else process


class JobLocks:
    """The locks of the jobs of the sweep in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder / LOCKS_FOLDER

    def acquire(self, job: Job, scheduler: str | None = None) -> JobLock | None:
        """Locks a job for this process; returns None if another owner, which is alive, has the lock.

        scheduler: the scheduler's job that runs the job, if it is not the one that this process is part of.
        """
        with self.exclusive():
            owner = self._read(job)
            if owner is not None and self.is_alive(owner) and not self.is_own_scheduler_job(owner):
                return None
            file = self._file(job)
            file.unlink(missing_ok=True)
            new_owner = _this_process(scheduler)
            _create(file, new_owner)
            return JobLock(self, job, new_owner)

    def owner(self, job: Job) -> LockOwner | None:
        """Returns the owner of a job's lock, dead or alive; None if the job is not locked."""
        if not self._file(job).exists():
            return None
        with self.exclusive():
            return self._read(job)

    def own_lock(self, job: Job) -> JobLock | None:
        """Returns the lock that this process has on a job; None if it has none."""
        owner = self.owner(job)
        return JobLock(self, job, owner) if owner is not None and _is_this_process(owner) else None

    def is_own_scheduler_job(self, owner: LockOwner) -> bool:
        """Whether the lock was created, when it was submitted, for the scheduler's job that this process runs in."""
        return owner.queued and owner.scheduler == _own_scheduler_job()[0]

    def is_alive(self, owner: LockOwner) -> bool:
        """Whether the owner still runs, or waits in a queue."""
        own_job, restarts = _own_scheduler_job()
        if owner.scheduler is not None and own_job == owner.scheduler and restarts > owner.restarts:
            return False  # it is this same job before its restart
        if owner.machine == _machine() and not owner.queued:
            return bool(owner.start) and _start_of_process(owner.pid) == owner.start
        in_queue = _is_in_queue(owner.scheduler) if owner.scheduler is not None else None
        if owner.queued and in_queue is not None:
            return in_queue
        return in_queue is not False and owner.silent_seconds < DEAD_AFTER_SECONDS

    @contextmanager
    def exclusive(self) -> Iterator[int]:
        """Within it, no other process reads or changes the locks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _file(self, job: Job) -> Path:
        return self.folder / f"{job.folder.name}.json"

    def _read(self, job: Job) -> LockOwner | None:
        """Returns the owner; `exclusive` is held. A truncated file has no owner: its writer died while it held it."""
        file = self._file(job)
        try:
            owner = LockOwner(**json.loads(file.read_text(encoding="utf-8")))
            return replace(owner, silent_seconds=self._now() - file.stat().st_mtime)
        except (OSError, ValueError, TypeError):
            return None

    def _now(self) -> float:
        """Returns the file system's time: the clocks of two machines may differ by more than a heartbeat."""
        clock = self.folder / ".lock"
        os.utime(clock)
        return clock.stat().st_mtime


class JobLock:
    """The lock of a job that this process may run, until it is released or another process takes it over."""

    def __init__(self, locks: JobLocks, job: Job, owner: LockOwner):
        self._locks = locks
        self._owner = owner
        self.job = job

    @property
    def token(self) -> str:
        """A text that no other lock has."""
        return self._owner.token

    def refresh(self) -> bool:
        """Writes a heartbeat; returns False if another process has taken over the lock."""
        with self._locks.exclusive():
            if not self._is_own():
                return False
            os.utime(self._locks._file(self.job))
            return True

    def hand_over(self, scheduler: str, detach: bool = False) -> bool:
        """Makes a scheduler's job (`slurm:123`) the owner, which stays alive in the queue without this process.

        detach: this process gives up the lock; `release` then has no effect. Returns False if the lock was lost.
        """
        with self._locks.exclusive():
            if not self._is_own():
                return False
            owner = replace(self._owner, scheduler=scheduler, restarts=0, queued=True)
            if detach:
                owner = replace(owner, token=uuid.uuid4().hex)
            file = self._locks._file(self.job)
            file.unlink()
            _create(file, owner)
            return True

    def release(self) -> None:
        """Removes the lock, unless another process has taken it over."""
        with self._locks.exclusive():
            if self._is_own():
                self._locks._file(self.job).unlink(missing_ok=True)

    def _is_own(self) -> bool:
        owner = self._locks._read(self.job)
        return owner is not None and owner.token == self.token


def _create(file: Path, owner: LockOwner) -> None:
    stored: dict[str, Any] = asdict(owner)
    del stored["silent_seconds"]
    with file.open("x", encoding="utf-8") as opened:
        json.dump(stored, opened)
        opened.flush()
        os.fsync(opened.fileno())


def _this_process(scheduler: str | None) -> LockOwner:
    pid = os.getpid()
    job, restarts = (scheduler, 0) if scheduler else _own_scheduler_job()
    token = uuid.uuid4().hex
    return LockOwner(
        socket.gethostname(), _machine(), pid, _start_of_process(pid), job, restarts, bool(scheduler), token
    )


def _is_this_process(owner: LockOwner) -> bool:
    return owner.machine == _machine() and owner.pid == os.getpid() and owner.start == _start_of_process(owner.pid)


@cache
def _machine() -> str:
    """Returns what processes share that see each other: the host since its last boot, and the process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _start_of_process(pid: int) -> str:
    """Returns the start time of a process; empty if it does not exist, or is a zombie process."""
    if Path("/proc/self/stat").exists():
        try:
            # The name may contain spaces and brackets. After it, the state is field 3, and the start time field 22.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _own_scheduler_job() -> tuple[str | None, int]:
    """Returns the scheduler's job that this process is part of (None outside of one), and its number of restarts."""
    job = own_job_id()
    return (f"{SLURM_PREFIX}{job}" if job else None), own_restart_count()


def _is_in_queue(scheduler: str) -> bool | None:
    """Whether the queue has the job, waiting or running; None if the queue does not answer."""
    if not scheduler.startswith(SLURM_PREFIX):
        return None
    return _slurm_queue.is_alive(scheduler.removeprefix(SLURM_PREFIX))
