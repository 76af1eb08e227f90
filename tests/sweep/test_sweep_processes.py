"""Tests of sweeps as real processes: run, killed, interrupted, failing, shared by two workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.runs.lock import in_use
from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute.scheduler import read_status
from tests.conftest import TINY
from tests.sweep.fake_pool import FakePool
from tests.sweep.jobs import wait_until

Command = Callable[..., subprocess.Popen[str]]
pytestmark = pytest.mark.slow

SWEEP_DIR = "hydra.sweep.dir=sweep"
USER_CALLBACKS = '''
import os, time
from pathlib import Path
import pytorch_lightning as pl

class Act(pl.Callback):
    """Raises in the first epoch, or waits in a step while a file `hold` exists."""
    def __init__(self, what="nothing"):
        self.what = what
    def on_train_epoch_start(self, trainer, pl_module):
        if self.what == "raise":
            raise ValueError("boom")
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        hold = Path(os.environ["HERE"], "hold")
        if self.what == "hold" and hold.exists():
            hold.with_name("held").write_text(str(os.getpid()))
            hold.with_name(f"held{os.getpid()}").touch()
            while hold.exists():
                time.sleep(0.02)
'''


@pytest.fixture(autouse=True)
def user_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a package `users` importable and allowed, here and in child processes; the working folder is empty."""
    (tmp_path / "users.py").write_text(USER_CALLBACKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "users")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def act(*what: str) -> list[str]:
    """Returns overrides for one job for each action of `Act`."""
    return ["+callbacks.act._target_=users.Act", f"+callbacks.act.what={','.join(what)}"]


def jobs() -> list[Job]:
    return SweepPlan.read(Path("sweep")).jobs


def statuses() -> list[str]:
    return [read_status(job.folder) for job in jobs()]


def wait_for(file: Path, process: subprocess.Popen[str], seconds: float = 180) -> int:
    """Waits until `file` has a number; returns it."""
    until = time.monotonic() + seconds
    while not (file.exists() and file.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return int(file.read_text())


def finish(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, dict[str, Any], list[str]]:
    """Waits for the process; returns its exit code, the JSON on stdout and the lines on stderr."""
    out, err = process.communicate(timeout=seconds)
    assert out, err
    return process.returncode, json.loads(out), err.splitlines()


def is_gone(pid: int, seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_three_jobs_two_at_once(command: Command) -> None:
    code, summary, lines = finish(command("seed=1,2,3", "hydra.launcher.jobs=2", SWEEP_DIR, "-m"))
    assert code == 0, lines
    assert (summary["status"], summary["counts"]) == ("done", {"done": 3})
    assert lines[0] == "3 jobs in sweep"
    assert len(lines) == 4
    for job, run in zip(jobs(), summary["runs"], strict=True):
        result = read_result(job.folder)
        assert result["metrics"] == run["metrics"]
        assert result["seed"] == job.number
        assert "test: top-1" in (job.folder / "train.log").read_text()
    assert len({run["metrics"]["test/loss"] for run in summary["runs"]}) == 3


def test_a_killed_sweep_resumes(command: Command, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    line = [*act("nothing", "hold", "later"), SWEEP_DIR, "-m"]
    process = command(*line, process_group=0)
    held = wait_for(tmp_path / "held", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert is_gone(held), "the process of a job ends with its sweep"
    wait_until(lambda: not in_use(jobs()[1].folder))  # its last thread holds the lock a moment longer
    assert statuses() == ["done", "died", "open"]
    first = read_result(jobs()[0].folder)
    (tmp_path / "hold").unlink()
    code, summary, lines = finish(command(*line))
    assert code == 0, lines
    assert re.fullmatch(r"3 jobs in \S+, 1 already done", lines[0])
    assert summary["counts"] == {"done": 3}
    assert read_result(jobs()[0].folder) == first, "not run again"
    earlier = jobs()[1].folder / "earlier" / "1" / "result.json"
    assert json.loads(earlier.read_text())["pid"] == held
    assert not (jobs()[2].folder / "earlier").exists()


def test_a_failed_and_a_killed_job_do_not_stop_the_others(command: Command, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    process = command(*act("nothing", "raise", "hold", "later"), SWEEP_DIR, "-m")
    os.kill(wait_for(tmp_path / "held", process), signal.SIGKILL)
    code, summary, lines = finish(process)
    assert code == 1
    assert (summary["status"], summary["counts"]) == ("failed", {"done": 2, "failed": 2})
    assert statuses() == ["done", "failed", "failed", "done"]
    failed, killed = (read_result(jobs()[index].folder) for index in (1, 2))
    assert failed["error"] == "ValueError: boom"
    assert "on_train_epoch_start" in failed["traceback"]
    assert "SIGKILL" in killed["error"]
    assert lines[2].endswith("failed: ValueError: boom")
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (signal.SIGINT, 130, "by Ctrl-C (SIGINT)"),
        (signal.SIGUSR1, 75, "by SIGUSR1"),
    ],
)
def test_a_stopped_sweep_saves_its_running_jobs(
    command: Command, tmp_path: Path, number: signal.Signals, code: int, reason: str
) -> None:
    """Two jobs are in a step; the third stays pending."""
    (tmp_path / "hold").touch()
    # A process that a script starts in the background inherits that SIGINT is ignored.
    options = {"preexec_fn": lambda: signal.signal(number, signal.SIG_IGN)}
    line = (*act("hold"), "seed=1,2,3", "hydra.launcher.jobs=2", SWEEP_DIR, "-m")
    process = command(*line, process_group=0, **options)
    logs = [tmp_path / "sweep" / job.folder.name / "train.log" for job in _held(process, tmp_path)]
    os.killpg(process.pid, number)  # as a terminal does
    wait_until(lambda: all(f"{number.name}: stopping" in log.read_text() for log in logs))
    (tmp_path / "hold").unlink()
    got, summary, lines = finish(process)
    assert got == code, lines
    assert (summary["status"], summary["counts"]) == ("interrupted", {"interrupted": 2, "open": 1})
    assert not [line for line in lines if "Traceback" in line]
    for job in jobs()[:2]:
        result = read_result(job.folder)
        assert (result["status"], result["error"]) == ("interrupted", reason)
        assert (job.folder / "checkpoints" / "last.ckpt").exists()
        assert is_gone(result["pid"])


def test_a_second_signal_ends_jobs_in_the_middle_of_a_step(command: Command, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    process = command(*act("hold", "later"), SWEEP_DIR, "-m", process_group=0)
    held = wait_for(tmp_path / "held", process)
    log = jobs()[0].folder / "train.log"
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "SIGTERM: stopping" in log.read_text())
    process.send_signal(signal.SIGINT)
    got, summary, lines = finish(process)
    assert got == 75, lines
    assert (summary["status"], summary["counts"]) == ("interrupted", {"interrupted": 1, "open": 1})
    assert read_result(jobs()[0].folder)["error"] == "by SIGTERM"
    assert is_gone(held)
    assert not [line for line in lines if "Traceback" in line]


def _held(process: subprocess.Popen[str], folder: Path) -> list[Job]:
    """Waits until two jobs are in a step that does not end; returns them."""
    wait_for(folder / "held", process)

    def both() -> bool:
        return len(list(folder.glob("held?*"))) == 2

    wait_until(both, 180)
    return jobs()[:2]


def test_two_workers_share_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # planned, and interrupted in its first job
        patched.setattr("alexnet_exp.sweep.execute.worker.local_pool", lambda jobs, key: FakePool(on_wait=interrupt))
        assert main(["-m", "seed=1,2,3,4", SWEEP_DIR, *TINY, "trainer.max_epochs=6"]) == 130
    assert statuses() == ["interrupted", "open", "open", "open"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    line = [sys.executable, "-m", "alexnet_exp", "sweep", "work", "sweep"]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [finish(process) for process in both]
    assert [code for code, _, _ in answers] == [0, 0], answers
    ran = [run["run"] for _, summary, _ in answers for run in summary["runs"]]
    assert sorted(ran) == sorted(str(job.folder) for job in jobs()), "each once"
    assert statuses() == ["done"] * 4
    table = (tmp_path / "sweep" / "results.csv").read_text().splitlines()
    assert len(table) == 5
