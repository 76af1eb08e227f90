"""Tests of job locks: one owner at a time; dead owners lose their lock, living owners keep it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.job_lock import DEAD_AFTER_SECONDS, JobLocks

TAKE_ALL = """
import sys, time
from pathlib import Path
from alexnet_exp.sweep.execute.job_lock import JobLocks
from alexnet_exp.runs.sweep_plan import Job
sweep = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
taken = [number for number in range(50) if JobLocks(sweep).acquire(Job(number, sweep / f"job{number}", ()))]
print(*taken, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(1, tmp_path / "job", ())


@pytest.fixture
def locks(tmp_path: Path) -> JobLocks:
    return JobLocks(tmp_path)


def change(locks: JobLocks, job: Job, **facts: Any) -> None:
    """Rewrites a lock file as another owner would; its heartbeat is now."""
    file = locks.folder / f"{job.folder.name}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def set_heartbeat_age(locks: JobLocks, job: Job, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(locks.folder / f"{job.folder.name}.json", (then, then))


def test_a_lock_is_held_until_it_is_released(locks: JobLocks, job: Job) -> None:
    assert locks.owner(job) is None
    lock = locks.acquire(job)
    assert lock is not None
    owner = locks.owner(job)
    assert owner is not None
    assert (owner.pid, owner.token) == (os.getpid(), lock.token)
    assert locks.is_alive(owner)
    assert locks.acquire(job) is None
    lock.release()
    assert locks.owner(job) is None
    assert locks.acquire(job) is not None


def test_two_processes_acquire_fifty_locks_once_each(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE_ALL, str(tmp_path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for each in both:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    taken = []
    for each in both:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in both:
        assert each.stdout is not None
        taken += each.stdout.readline().split()
    assert sorted(map(int, taken)) == list(range(50))
    for each in both:
        each.communicate("end\n")


def test_a_dead_process_loses_its_lock_even_if_its_number_is_reused(locks: JobLocks, job: Job) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for facts in ({"pid": ended.pid}, {"start": "1"}):
        lock = locks.acquire(job)
        assert lock is not None
        change(locks, job, **facts)
        owner = locks.owner(job)
        assert owner is not None
        assert not locks.is_alive(owner)
        other = locks.acquire(job)
        assert other is not None
        assert not lock.refresh()
        lock.release()
        assert locks.owner(job) is not None, "releasing a lost lock has no effect"
        other.release()


def test_an_owner_on_another_host_is_alive_while_it_has_a_heartbeat(locks: JobLocks, job: Job) -> None:
    lock = locks.acquire(job)
    assert lock is not None
    change(locks, job, machine="elsewhere", host="elsewhere", pid=1)
    set_heartbeat_age(locks, job, DEAD_AFTER_SECONDS / 2)
    assert locks.acquire(job) is None
    set_heartbeat_age(locks, job, DEAD_AFTER_SECONDS * 2)
    assert lock.refresh()
    assert locks.acquire(job) is None, "it has a heartbeat again"
    set_heartbeat_age(locks, job, DEAD_AFTER_SECONDS * 2)
    assert locks.acquire(job) is not None


def test_a_truncated_lock_file_has_no_owner(locks: JobLocks, job: Job) -> None:
    locks.folder.mkdir()
    (locks.folder / "job.json").write_text('{"host": "a')
    assert locks.acquire(job) is not None


def set_queue_answer(monkeypatch: pytest.MonkeyPatch, answer: bool | None) -> None:
    """Has the queue give this answer for every job."""
    monkeypatch.setattr("alexnet_exp.sweep.execute.job_lock._is_in_queue", lambda scheduler: answer)


def test_the_lock_of_a_queued_job_depends_on_the_queue(
    locks: JobLocks, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locks.acquire(job)
    assert lock is not None
    assert lock.hand_over("slurm:7")
    change(locks, job, pid=2**22 + 1, start="0")  # the process that submitted it does not exist
    set_heartbeat_age(locks, job, DEAD_AFTER_SECONDS * 10)
    set_queue_answer(monkeypatch, True)
    assert locks.acquire(job) is None, "it waits in the queue"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    own = locks.acquire(job)
    assert own is not None, "that SLURM job itself acquires it"
    own.release()
    monkeypatch.delenv("SLURM_JOB_ID")
    assert locks.acquire(job, "slurm:8") is not None
    set_heartbeat_age(locks, job, DEAD_AFTER_SECONDS * 10)
    set_queue_answer(monkeypatch, False)
    assert locks.acquire(job) is not None, "the queue has forgotten it"


def test_a_requeued_job_acquires_its_own_lock(locks: JobLocks, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    set_queue_answer(monkeypatch, True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert locks.acquire(job) is not None
    change(locks, job, machine="elsewhere")
    assert locks.acquire(job) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert locks.acquire(job) is not None
