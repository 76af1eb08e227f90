"""Who runs a job: a file each, so that several processes, on several machines, share a sweep and start none twice.

    <sweep>/claims/<job>.json    host, process, scheduler's id and a token of whoever runs the job; its time of
                                 modification is the heartbeat
    <sweep>/claims/.lock         held (flock) while a claim is looked at, taken, beaten or let go

A claim whose owner is dead is free. On this machine the system knows whether a process lives; of another machine the
heartbeat tells; of a job in a SLURM queue, the queue.
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
from alexnet_exp.sweep.execute.slurm_queue import Queue, own_id, own_restarts

FOLDER = "claims"
# Seconds between two heartbeats, and without one after which an owner elsewhere is taken for dead.
BEAT = 10.0
SILENCE = 60.0
SLURM = "slurm:"
_queue = Queue()


@dataclass(frozen=True)
class Owner:
    """Who holds a claim. machine: this host since it was started, and its processes as seen from here.

    start: of the process, in what units the system has; a process number alone may have been given again. scheduler:
    `slurm:123`, and restarts, how often that was started again. queued: the claim is that job's, whether it runs or
    waits, and the process only submitted it. silence: seconds since the last heartbeat, by the file system's clock.
    """

    host: str
    machine: str
    pid: int
    start: str
    scheduler: str | None
    restarts: int
    queued: bool
    token: str
    silence: float = 0.0

    def __str__(self) -> str:
        where = f"process {self.pid} on {self.host}"
        return f"{self.scheduler} ({where})" if self.scheduler else where


class Claims:
    """The claims on the jobs of the sweep in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER

    def take(self, job: Job, scheduler: str | None = None) -> Claim | None:
        """The claim on a job for this process; None where another that lives has it.

        scheduler: the id of the scheduler's job that runs it, where that is not this process's own.
        """
        with self.alone():
            owner = self._read(job)
            if owner is not None and self.is_alive(owner) and not _is_of_this_job(owner):
                return None
            file = self._file(job)
            file.unlink(missing_ok=True)
            mine = _myself(scheduler)
            _create(file, mine)
            return Claim(self, job, mine)

    def owner(self, job: Job) -> Owner | None:
        """Whoever has the claim, alive or not; None where nobody has."""
        if not self._file(job).exists():
            return None
        with self.alone():
            return self._read(job)

    def mine(self, job: Job) -> Claim | None:
        """The claim that this process has taken on a job; None where it has none."""
        owner = self.owner(job)
        return Claim(self, job, owner) if owner is not None and _is_this_process(owner) else None

    def is_of_this_job(self, owner: Owner) -> bool:
        """Whether it is the claim of the scheduler's job that this process is, made when that was submitted."""
        return _is_of_this_job(owner)

    def is_alive(self, owner: Owner) -> bool:
        """Whether the owner of a claim still runs, or waits in a queue."""
        here, restarts = _scheduler()
        if owner.scheduler is not None and here == owner.scheduler and restarts > owner.restarts:
            return False  # an earlier life of the job that asks
        if owner.machine == _machine() and not owner.queued:
            return bool(owner.start) and _start_of(owner.pid) == owner.start
        known = _queued(owner.scheduler) if owner.scheduler is not None else None
        if owner.queued and known is not None:
            return known
        return known is not False and owner.silence < SILENCE

    @contextmanager
    def alone(self) -> Iterator[int]:
        """Inside, no other process looks at the claims or changes them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _file(self, job: Job) -> Path:
        return self.folder / f"{job.folder.name}.json"

    def _read(self, job: Job) -> Owner | None:
        """The owner, with the lock held. A file that was cut short is nobody's: its writer held the lock, and died."""
        file = self._file(job)
        try:
            owner = Owner(**json.loads(file.read_text(encoding="utf-8")))
            return replace(owner, silence=self._now() - file.stat().st_mtime)
        except (OSError, ValueError, TypeError):
            return None

    def _now(self) -> float:
        """The file system's time: the clocks of two machines may differ by more than a heartbeat."""
        clock = self.folder / ".lock"
        os.utime(clock)
        return clock.stat().st_mtime


class Claim:
    """A job that this process may run, until it lets go or another takes it for dead."""

    def __init__(self, claims: Claims, job: Job, owner: Owner):
        self._claims = claims
        self._owner = owner
        self.job = job

    @property
    def token(self) -> str:
        """What no other claim has."""
        return self._owner.token

    def beat(self) -> bool:
        """Says that the owner lives; False where the claim has been lost to another."""
        with self._claims.alone():
            if not self._is_mine():
                return False
            os.utime(self._claims._file(self.job))
            return True

    def hand_over(self, scheduler: str, let_go: bool = False) -> bool:
        """Makes it the claim of a scheduler's job (`slurm:123`), which lives on in the queue without this process.

        let_go: it is not this process's any more; `release` then does nothing.
        """
        with self._claims.alone():
            if not self._is_mine():
                return False
            owner = replace(self._owner, scheduler=scheduler, restarts=0, queued=True)
            if let_go:
                owner = replace(owner, token=uuid.uuid4().hex)
            file = self._claims._file(self.job)
            file.unlink()
            _create(file, owner)
            return True

    def release(self) -> None:
        """Lets go, where it is still this one's."""
        with self._claims.alone():
            if self._is_mine():
                self._claims._file(self.job).unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        owner = self._claims._read(self.job)
        return owner is not None and owner.token == self.token


def _create(file: Path, owner: Owner) -> None:
    stored: dict[str, Any] = asdict(owner)
    del stored["silence"]
    with file.open("x", encoding="utf-8") as opened:
        json.dump(stored, opened)
        opened.flush()
        os.fsync(opened.fileno())


def _myself(scheduler: str | None) -> Owner:
    pid = os.getpid()
    here, restarts = (scheduler, 0) if scheduler else _scheduler()
    token = uuid.uuid4().hex
    return Owner(socket.gethostname(), _machine(), pid, _start_of(pid), here, restarts, bool(scheduler), token)


def _is_of_this_job(owner: Owner) -> bool:
    """Whether it is the claim of the scheduler's job that this process is, made when that was submitted."""
    return owner.queued and owner.scheduler == _scheduler()[0]


def _is_this_process(owner: Owner) -> bool:
    return owner.machine == _machine() and owner.pid == os.getpid() and owner.start == _start_of(owner.pid)


@cache
def _machine() -> str:
    """What two processes share that see each other: the host, since it was started, and the space of their numbers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _start_of(pid: int) -> str:
    """When a process was started; empty where there is none, or one that has ended and is not yet buried."""
    if Path("/proc/self/stat").exists():
        try:
            # behind the name, which may hold spaces and brackets: the state is the third field, the start the 22nd
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip()


def _scheduler() -> tuple[str | None, int]:
    """The scheduler's job that this process is part of, and how often that was started again."""
    job = own_id()
    return (f"{SLURM}{job}" if job else None), own_restarts()


def _queued(scheduler: str) -> bool | None:
    """Whether the queue knows a job as waiting or running; None where it cannot be asked."""
    return _queue.is_alive(scheduler.removeprefix(SLURM)) if scheduler.startswith(SLURM) else None
