"""Whole runs, as processes, whose disk is full for a while or for good, or whose folder is taken away."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_exp.runs.reader import read_metrics, read_result, read_steps, state

pytestmark = pytest.mark.slow
Command = Callable[..., subprocess.Popen[str]]
TIMES = ("seconds", "images_per_s")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "train" / "run"


def started(command: Command, run: Path, epochs: int, *arguments: str) -> subprocess.Popen[str]:
    """A run that has recorded a few epochs."""
    process = command(f"trainer.max_epochs={epochs}", f"hydra.run.dir={run}", *arguments)
    while not (run / "metrics.csv").exists() or len(read_metrics(run)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def room(process: subprocess.Popen[str], there: bool) -> None:
    """Whether the files of a process may grow. Python hears of it as of a full disk: an error of the write."""
    limit = resource.RLIM_INFINITY
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit if there else 0, limit))


def test_a_temporarily_full_disk_loses_nothing(command: Command, run: Path) -> None:
    process = started(command, run, 40)
    room(process, False)
    time.sleep(1)
    room(process, True)
    _, said = process.communicate()
    assert process.returncode == 0, said
    whole = run.with_name("whole")
    assert command("trainer.max_epochs=40", f"hydra.run.dir={whole}").wait() == 0
    assert read_steps(run) == read_steps(whole)
    for mine, theirs in zip(read_metrics(run), read_metrics(whole), strict=True):
        assert [mine[key] for key in mine if key not in TIMES] == [theirs[key] for key in theirs if key not in TIMES]
    assert read_result(run)["metrics"] == read_result(whole)["metrics"]
    assert said.count("kept in memory until writes succeed; training continues") == 1
    assert said.count("writes succeed again; backlog flushed") == 1
    assert "Traceback" not in said


def test_a_disk_that_stays_full_fails_the_run_at_its_end(command: Command, run: Path) -> None:
    process = started(command, run, 40)
    room(process, False)
    _, said = process.communicate()
    assert process.returncode == 1
    assert "40/40" in said, "it trained to its end"
    assert "failed: " in said
    assert "cannot be written" in said
    assert "File too large" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert "Logging error" not in said
    assert state(run) == "died", "its status could not be written either, so that it can be gone on with"
    content = (run / "metrics.csv").read_text()
    assert content.endswith("\n")
    assert len(read_metrics(run)) == content.count("\n") - 1 >= 3


@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_removing_the_run_folder_ends_the_run_and_does_not_recreate_it(
    command: Command, run: Path, trainer: str
) -> None:
    process = started(command, run, 100_000, f"trainer={trainer}")
    run.rename(run.with_name("elsewhere"))
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1, said
    assert said.splitlines()[-1].startswith(f"failed: {run}: the run folder no longer exists (")
    assert "Traceback" not in said
    assert not run.exists()


def test_the_other_jobs_of_a_sweep_continue(command: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "outputs" / "train" / "s"
    process = command(f"hydra.sweep.dir={sweep}", "seed=1,2", "trainer.max_epochs=30", "-m")
    while not (begun := list(sweep.glob("*/metrics.csv"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    first = begun[0].parent
    first.rename(tmp_path / "elsewhere")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1, said
    assert f"{first}: the run folder no longer exists" in " ".join(said.split())
    assert "Traceback" not in said
    assert not (first / "metrics.csv").exists()
    (other,) = [file.parent for file in sweep.glob("*/metrics.csv")]
    assert state(other) == "done"


def test_a_second_process_is_rejected(command: Command, run: Path) -> None:
    first = started(command, run, 100_000)
    try:
        noted = (run / ".hydra" / "config.yaml").read_bytes()
        second = command("trainer.max_epochs=100000", f"hydra.run.dir={run}", "resume=true")
        _, said = second.communicate()
        assert second.returncode == 2
        assert said.splitlines()[-1].startswith(f"{run} is in use by process {first.pid} on ")
        assert (run / ".hydra" / "config.yaml").read_bytes() == noted
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert state(run) == "died"
