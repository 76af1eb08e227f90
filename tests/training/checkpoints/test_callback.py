"""Tests of checkpoints: the files in the folder, crashes while saving, and full disks."""

from __future__ import annotations

import io
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_exp.config.schema import Interval, Keep, Unit
from alexnet_exp.runs import checksum, provenance
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.training.callbacks.recorder import Recorder
from alexnet_exp.training.checkpoints import callback, format
from alexnet_exp.training.checkpoints.callback import Checkpoints
from benchmarks.equal_runs import differences
from tests.conftest import Run

TrainRun = Callable[..., Run]


def names(run: Run) -> list[str]:
    return sorted(path.name for path in (run.path / "checkpoints").iterdir())


def test_checkpoint_has_plain_containers_and_a_sha256sum_file(finished: Run) -> None:
    for name in ("last", "best"):
        content = finished.checkpoint(name)  # with weights_only=True
        assert content["alexnet_exp"]["model"]["norm"] == "bn"
        assert checksum.verify(finished.path / "checkpoints" / f"{name}.ckpt")
    done = subprocess.run(
        ["sha256sum", "-c", "last.ckpt.sha256", "best.ckpt.sha256"],
        cwd=finished.path / "checkpoints",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_last_and_best_are_of_the_right_epochs(train_run: TrainRun) -> None:
    run = train_run("run", "trainer.max_epochs=3", "+callbacks={}", "test.run=false")
    top1 = [row["val/top1"] for row in run.metrics]
    greatest = max(value for value in top1 if value is not None)
    best = max(epoch for epoch, value in enumerate(top1, 1) if value == greatest)
    assert run.result["best_epoch"] == best
    # a checkpoint of epoch n was saved with n - 1 epochs completed and the n-th in its last hook
    assert run.checkpoint("last")["global_step"] == 9
    assert run.checkpoint("best")["global_step"] == 3 * best


@pytest.mark.parametrize(
    ("keep", "val", "left"),
    [
        ("all", "split", ["best", "last"]),
        ("best", "split", ["best"]),
        ("none", "split", []),
        ("best", "none", ["last"]),
    ],
)
def test_checkpoint_keep_selects_the_remaining_files(train_run: TrainRun, keep: str, val: str, left: list[str]) -> None:
    run = train_run("run", f"checkpoint.keep={keep}", f"data.val={val}")
    assert run.code == 0
    assert names(run) == sorted(f"{name}.ckpt{end}" for name in left for end in ("", ".sha256"))


def _checkpoints(tmp_path: Path) -> Checkpoints:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir(exist_ok=True)
    return Checkpoints(folder, {}, Recorder(None), Interval(1, Unit.epochs), Keep.all)


def _rotate(saver: Checkpoints, content: str, improved: bool) -> None:
    fresh = saver.file("next")
    fresh.write_text(content)
    saver._rotate(fresh, improved)
    fresh.unlink()


def test_crash_at_any_moment_leaves_an_intact_last_and_correct_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(Exception):
        pass

    calls = 0
    stop_at = -1

    def dying(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise CrashError
            return original(*arguments, **options)

        return call

    moments = 0
    for stop_at in range(1, 40):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        saver = _checkpoints(folder)
        _rotate(saver, "first", improved=True)
        calls = 0
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dying(Path.replace))
            patched.setattr(Path, "unlink", dying(Path.unlink))
            patched.setattr(os, "link", dying(os.link))
            patched.setattr(callback.checksum, "write_known", dying(checksum.write_known))
            try:
                _rotate(saver, "second", improved=True)
            except CrashError:
                moments += 1
        for name in ("last", "previous", "best"):
            if saver.file(name).exists():
                checksum.verify(saver.file(name))  # raises where one lies beside another's
                assert saver.file(name).read_text() in ("first", "second")
        assert saver.file("last").exists()
        _rotate(saver, "third", improved=True)
        assert saver.file("last").read_text() == saver.file("best").read_text() == "third"
        assert checksum.verify(saver.file("last"))
        assert checksum.verify(saver.file("best"))
    assert moments > 8


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A disk that takes no more than `size` bytes of a file, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_logged_and_fails_the_run_at_its_end(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "running", provenance.Code)  # a patch of what is being worked on may be as large
    with files_up_to(200_000):  # a checkpoint is 970 kB, what else is written is less
        run = train_run("run")
    assert (run.code, run.result["status"]) == (1, "failed"), run.log
    assert run.result["error"] == f"{run.path}: checkpoints/last.ckpt cannot be written (File too large)"
    assert (
        "cannot save the checkpoint of epoch 1: File too large; no checkpoint has been saved yet; training continues"
        in run.log
    )
    assert names(run) == []
    assert (run.result["tested"], run.result["best_epoch"]) == ("last", None)
    assert "last checkpoint, epoch 2" in run.log
    assert len(run.metrics) == 2


def test_full_disk_keeps_the_last_good_checkpoint(
    train_run: TrainRun, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, saved = torch.save, []

    def save(content: object, file: object) -> None:
        saved.append(content)
        with files_up_to(200_000 if len(saved) > 1 else resource.RLIM_INFINITY):
            original(content, file)

    monkeypatch.setattr(torch, "save", save)
    run = train_run("run")
    assert (run.code, run.result["status"]) == (1, "failed"), run.log
    assert "checkpoints/last.ckpt cannot be written" in run.result["error"]
    assert "cannot save the checkpoint of epoch 2: " in run.log
    assert "the checkpoint of epoch 1 is kept" in run.log
    assert run.checkpoint("last")["global_step"] == 3
    assert run.result["best_epoch"] == 1, "the best one is the best that there is a file of"
    assert names(run) == ["best.ckpt", "best.ckpt.sha256", "last.ckpt", "last.ckpt.sha256"]


@pytest.mark.parametrize("more", [[], ["callbacks=ema", "checkpoint.every=2 epochs"]], ids=["plain", "averaged"])
def test_last_checkpoint_is_saved_when_the_disk_has_room_again(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    original, saved = torch.save, []

    def save(content: object, file: object) -> None:
        saved.append(content)
        with files_up_to(200_000 if len(saved) == 2 else resource.RLIM_INFINITY):
            original(content, file)

    whole = train_run("whole", *more)
    monkeypatch.setattr(torch, "save", save)
    run = train_run("run", *more)
    assert run.code == 0, run.log
    assert "cannot save the checkpoint of epoch 2: " in run.log
    ours, theirs = run.checkpoint("last"), whole.checkpoint("last")
    for key in ("state_dict", "current_model_state", "optimizer_states", "loops", "alexnet_exp_standing"):
        assert differences(ours.get(key), theirs.get(key)) == []
    assert checksum.verify(run.path / "checkpoints" / "last.ckpt")


def test_full_disk_does_not_fail_a_run_that_keeps_no_checkpoint(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "running", provenance.Code)
    with files_up_to(200_000):
        run = train_run("run", "checkpoint.keep=none")
    assert (run.code, run.result["status"]) == (0, "done"), run.log


@pytest.mark.parametrize("write", [1, 3, 6, 9])
def test_interruption_while_saving_is_not_reported_as_full_disk(
    write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.BytesIO):
        writes = 0

        def write(self, data: Any) -> int:
            self.writes += 1
            if self.writes == write:
                raise KeyboardInterrupt
            return super().write(data)

    monkeypatch.setattr(format, "atomic_write", lambda _: nullcontext(Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        format.FlushedIO().save_checkpoint({"weights": torch.ones(1000, 1000)}, tmp_path / "last.ckpt")
