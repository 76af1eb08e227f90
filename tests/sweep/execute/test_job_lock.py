"""Claims: one owner at a time, whoever asks; the dead lose theirs, the living do not."""

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
from alexnet_exp.sweep.execute.job_lock import SILENCE, Claims

TAKE_ALL = """
import sys, time
from pathlib import Path
from alexnet_exp.sweep.execute.job_lock import Claims
from alexnet_exp.runs.sweep_plan import Job
sweep = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
taken = [number for number in range(50) if Claims(sweep).take(Job(number, sweep / f"job{number}", ()))]
print(*taken, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(1, tmp_path / "job", ())


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path)


def change(claims: Claims, job: Job, **facts: Any) -> None:
    """Rewrites a claim as if somebody else had made it; its heartbeat is now."""
    file = claims.folder / f"{job.folder.name}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def silent(claims: Claims, job: Job, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(claims.folder / f"{job.folder.name}.json", (then, then))


def test_a_claim_is_held_until_it_is_let_go(claims: Claims, job: Job) -> None:
    assert claims.owner(job) is None
    claim = claims.take(job)
    assert claim is not None
    owner = claims.owner(job)
    assert owner is not None
    assert (owner.pid, owner.token) == (os.getpid(), claim.token)
    assert claims.is_alive(owner)
    assert claims.take(job) is None
    claim.release()
    assert claims.owner(job) is None
    assert claims.take(job) is not None


def test_two_processes_that_take_fifty_claims_at_once(tmp_path: Path) -> None:
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


def test_a_dead_process_loses_its_claim_and_a_new_one_of_its_number_does_not_keep_it(claims: Claims, job: Job) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for facts in ({"pid": ended.pid}, {"start": "1"}):
        claim = claims.take(job)
        assert claim is not None
        change(claims, job, **facts)
        owner = claims.owner(job)
        assert owner is not None
        assert not claims.is_alive(owner)
        other = claims.take(job)
        assert other is not None
        assert not claim.beat()
        claim.release()
        assert claims.owner(job) is not None, "one that was lost is not let go"
        other.release()


def test_of_another_host_the_heartbeat_tells(claims: Claims, job: Job) -> None:
    claim = claims.take(job)
    assert claim is not None
    change(claims, job, machine="elsewhere", host="elsewhere", pid=1)
    silent(claims, job, SILENCE / 2)
    assert claims.take(job) is None
    silent(claims, job, SILENCE * 2)
    assert claim.beat()
    assert claims.take(job) is None, "it has a heartbeat again"
    silent(claims, job, SILENCE * 2)
    assert claims.take(job) is not None


def test_a_claim_that_was_cut_short_is_nobodys(claims: Claims, job: Job) -> None:
    claims.folder.mkdir()
    (claims.folder / "job.json").write_text('{"host": "a')
    assert claims.take(job) is not None


def queue(monkeypatch: pytest.MonkeyPatch, answer: bool | None) -> None:
    """A queue that answers so when it is asked for a job."""
    monkeypatch.setattr("alexnet_exp.sweep.execute.job_lock._queued", lambda scheduler: answer)


def test_a_claim_of_a_job_in_a_queue(claims: Claims, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = claims.take(job)
    assert claim is not None
    assert claim.hand_over("slurm:7")
    change(claims, job, pid=2**22 + 1, start="0")  # who submitted it has gone
    silent(claims, job, SILENCE * 10)
    queue(monkeypatch, True)
    assert claims.take(job) is None, "it waits in the queue"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    own = claims.take(job)
    assert own is not None, "that job itself takes it up"
    own.release()
    monkeypatch.delenv("SLURM_JOB_ID")
    assert claims.take(job, "slurm:8") is not None
    silent(claims, job, SILENCE * 10)
    queue(monkeypatch, False)
    assert claims.take(job) is not None, "the queue has forgotten it"


def test_a_job_that_was_requeued_takes_its_own_claim_up(
    claims: Claims, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(monkeypatch, True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert claims.take(job) is not None
    change(claims, job, machine="elsewhere")
    assert claims.take(job) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert claims.take(job) is not None
