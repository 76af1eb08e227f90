"""Tests that an interrupted job resumes from its checkpoint, and restarts if the code has changed since."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.runs import provenance
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import read_result, state
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute import scheduler
from alexnet_exp.sweep.execute.scheduler import is_resumable, prepare_folder
from tests.training.test_resume import assert_equal, wait_for

SWEEP = ("seed=1,2", "trainer.max_epochs=12", "checkpoint.every=1 steps")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_and_resumed_sweep_equals_an_undisturbed_one(
    number: signal.Signals, command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    assert command(*SWEEP, f"hydra.sweep.dir={undisturbed}", "-m").wait(120) == 0
    process = command(*SWEEP, f"hydra.sweep.dir={stopped}", "-m")
    wait_for(lambda: any(stopped.glob("*/checkpoints/previous.ckpt")))
    process.send_signal(number)
    process.wait(60)
    (cut,) = (path.parent for path in stopped.glob("*/result.json"))
    wait_for(lambda: state(cut) in ("died", "interrupted"))
    if number == signal.SIGTERM:
        assert process.returncode == 75
        assert read_result(cut)["error"] == "by SIGTERM"
    assert main(["resume", str(stopped)]) == 0
    assert [each["status"] for each in read_result(cut)["attempts"]] == [state_after(number)]
    for job in SweepPlan.read(stopped).jobs:
        assert_equal(undisturbed / job.folder.name, job.folder)


def state_after(number: signal.Signals) -> str:
    return "died" if number == signal.SIGKILL else "interrupted"


@pytest.fixture
def interrupted_job(tmp_path: Path) -> Job:
    """A job with a checkpoint that the current code wrote."""
    folder = RunFolder(tmp_path / "job")
    code = provenance.code()
    folder.begin({}, {"commit": code.commit})
    folder.write_patch(code.patch)
    (folder.checkpoints / "last.ckpt").write_bytes(b"weights")
    return Job(1, folder.path, ())


def test_a_resumable_attempt_stays_in_place(interrupted_job: Job) -> None:
    assert is_resumable(interrupted_job.folder)
    assert prepare_folder(interrupted_job) is None
    assert (interrupted_job.folder / "checkpoints" / "last.ckpt").exists()
    assert not (interrupted_job.folder / "earlier").exists()


def test_a_damaged_result_keeps_the_checkpoints(interrupted_job: Job) -> None:
    (interrupted_job.folder / "result.json").write_text('{"status": "runn')
    assert prepare_folder(interrupted_job) is None
    assert (interrupted_job.folder / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("change", ["commit", "patch", "no checkpoint", "no result"])
def test_other_attempts_move_to_earlier(change: str, interrupted_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted_job.folder
    if change == "commit":
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {"commit": "another"}))
    elif change == "patch":
        code = provenance.code()
        monkeypatch.setattr(scheduler, "_code", lambda: provenance.Code(code.commit, True, code.patch + "+ a line\n"))
    elif change == "no checkpoint":
        (folder / "checkpoints" / "last.ckpt").unlink()
    else:
        (folder / "result.json").unlink()
    assert not is_resumable(folder)
    assert prepare_folder(interrupted_job) is None
    assert not (folder / "checkpoints").exists()
    assert (folder / "earlier" / "1").is_dir()
