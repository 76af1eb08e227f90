"""Tests of runs from configuration to folder: done, failed, non-finite, interrupted; with one rank and two."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from alexnet_exp.cli import check
from alexnet_exp.runs.folder import METRICS_COLUMNS
from alexnet_exp.runs.lock import locked
from alexnet_exp.runs.reader import read_config
from alexnet_exp.training.train import train
from tests.conftest import TINY, Run

Command = Callable[..., subprocess.Popen[str]]
TrainRun = Callable[..., Run]

USERS_CALLBACKS = '''
import os, signal, time
import pytorch_lightning as pl

class Raise(pl.Callback):
    """Fails on one rank, or on all, in the second epoch."""
    def __init__(self, rank=None):
        self.rank = rank
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1 and self.rank in (None, trainer.global_rank):
            raise ValueError("boom\\nand more")

class Linger(pl.Callback):
    """Says that the second epoch has begun; the run goes on for long."""
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1:
            with open(f"{os.environ['HERE']}/begun{trainer.global_rank}", "w") as file:
                file.write(str(os.getpid()))
'''


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's package `faulty`, importable and allowed, here and in child processes."""
    (tmp_path / "faulty.py").write_text(USERS_CALLBACKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "faulty")
    monkeypatch.setenv("HERE", str(tmp_path))
    return "faulty"


def only_run(folder: Path) -> Run:
    (path,) = folder.iterdir()
    return Run(path, -1)


def wait_for(file: Path, process: subprocess.Popen[str], seconds: float = 60) -> int:
    """The number that `file` comes to hold."""
    deadline = time.monotonic() + seconds
    while not (text := file.read_text() if file.exists() else ""):  # once: it is written anew in every epoch
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(text)


def test_files_of_a_finished_run(finished: Run) -> None:
    found = {path.relative_to(finished.path).as_posix() for path in finished.path.rglob("*") if path.is_file()}
    checkpoints = {f"checkpoints/{name}.ckpt{end}" for name in ("last", "best") for end in ("", ".sha256")}
    usual = {"result.json", "metrics.csv", "steps.csv", "predictions/test.npz", "train.log", ".hydra/config.yaml"}
    assert found - {"code.patch"} == usual | checkpoints | {".lock"}
    assert (finished.path.parents[1] / "latest").resolve() == finished.path

    result = finished.result
    assert (result["format"], result["status"], result["seed"]) == (1, "done", 1)
    assert {"test/top1", "test/top5", "test/loss", "val/top1", "train/loss"} <= set(result["metrics"])
    assert result["precision"] == "32-true"
    assert result["effective_batch"] == 32
    assert result["epochs"] == 2
    assert result["best_epoch"] in (1, 2)
    assert result["test_images"] == 360
    assert result["deterministic"] is False
    assert result["config"]["model.width"] == 0.05
    assert result["parameters"] > 0
    assert result["images_per_s"] > 0
    assert result["fingerprint"]
    assert "error" not in result


def test_metrics_csv_has_the_documented_columns(finished: Run) -> None:
    header = (finished.path / "metrics.csv").read_text().splitlines()[0]
    assert header.split(",") == list(METRICS_COLUMNS)
    assert header == "epoch,step,lr,train/loss,train/top1,val/loss,val/top1,val/top5,seconds,images_per_s"
    assert [(row["epoch"], row["step"]) for row in finished.metrics] == [(1, 3), (2, 6)]
    assert finished.result["metrics"]["val/loss"] == finished.metrics[-1]["val/loss"]


def test_last_log_line_has_the_confidence_interval(finished: Run) -> None:
    last = finished.log.splitlines()[-1]
    best = finished.result["best_epoch"]
    assert f"test: top-1 {finished.result['metrics']['test/top1']:.4f} +-" in last
    assert last.endswith(f"points (95% CI, 360 images), best checkpoint, epoch {best}")


def test_predictions_are_probabilities_of_the_test_images(finished: Run) -> None:
    saved = np.load(finished.path / "predictions" / "test.npz")
    assert saved["probabilities"].shape == (360, 10)
    assert saved["probabilities"].dtype == np.float16
    np.testing.assert_allclose(saved["probabilities"].astype(float).sum(1), 1, atol=5e-3)
    counts = np.bincount(saved["labels"], minlength=10)
    np.testing.assert_allclose(counts / 360, np.bincount(load_digits().target) / 1797, atol=0.01)
    chosen = saved["probabilities"][np.arange(360), saved["labels"]].astype(float)
    assert -np.log(chosen).mean() == pytest.approx(finished.result["metrics"]["test/loss"], rel=1e-3)


def test_same_seed_gives_the_same_run(train_run: TrainRun, finished: Run) -> None:
    again, other = train_run("again"), train_run("other", "seed=2")
    assert again.steps == finished.steps
    assert again.result["metrics"] == finished.result["metrics"]
    assert other.steps != finished.steps


def test_failed_run_is_recorded(train_run: TrainRun, faulty: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("failing", "+callbacks.raise._target_=faulty.Raise")
    assert run.code == 1
    result = run.result
    assert (result["status"], result["error"]) == ("failed", "ValueError: boom")
    assert "on_train_epoch_start" in result["traceback"]
    assert "Traceback" in run.log
    assert "end" in result
    assert len(run.metrics) == 1
    assert (run.path / "checkpoints" / "last.ckpt").exists()
    shown = capsys.readouterr().err
    assert "failed: ValueError: boom (train.log shows where)" in shown
    assert "Traceback" not in shown


def test_nan_loss_fails_the_run(train_run: TrainRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("nan", "optim=sgd", "optim.lr=1e9", "schedule=constant", "model.norm=none")
    assert run.code == 1
    result = run.result
    assert result["status"] == "failed"
    assert "traceback" not in result
    assert result["error"].startswith("the loss is nan at step ")
    assert "try a smaller optim.lr" in result["error"]
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed")] == [
        f"failed: {result['error']}"
    ]
    assert len(run.steps) == 3, "the steps up to there are recorded"


def test_invalid_settings_are_rejected_before_the_run_starts(
    train_run: TrainRun, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished.result
    with locked(finished.path):
        assert train(read_config(finished.path), finished.path) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert finished.result == before


def test_run_without_test_and_validation_images(train_run: TrainRun) -> None:
    run = train_run("plain", "data.val=none")
    assert run.code == 0
    assert run.metrics[0]["val/top1"] is None
    assert (run.result["tested"], run.result["best_epoch"]) == ("last", None)
    assert "-" in run.log.splitlines()[-2]
    assert not (run.path / "checkpoints" / "best.ckpt").exists()
    untested = train_run("untested", "test.run=false")
    assert "tested" not in untested.result
    assert not (untested.path / "predictions").exists()


def test_test_checkpoint_setting_selects_the_tested_weights(train_run: TrainRun) -> None:
    last = train_run("last", "test.checkpoint=last")
    assert last.result["tested"] == "last"
    assert "last checkpoint, epoch 2" in last.log


@pytest.mark.parametrize("debug", ["fdr", "limit", "overfit"])
def test_debug(train_run: TrainRun, debug: str) -> None:
    run = train_run(debug, f"debug={debug}", "trainer.max_epochs=2")
    assert run.code == 0, run.log
    if debug == "fdr":
        assert (len(run.steps), run.result["test_images"]) == (1, 32)
    if debug == "limit":
        assert run.result["test_images"] == 160
    if debug == "overfit":
        assert "test/top1" not in run.result["metrics"]


def test_debug_profile_ends_with_a_table(train_run: TrainRun) -> None:
    assert "Profiler Report" in train_run("profile", "debug=profile", "trainer.max_epochs=1").log


def test_precision_and_determinism_are_recorded(train_run: TrainRun) -> None:
    run = train_run("run", "trainer.precision=bf16-mixed", "trainer.deterministic=true", "trainer.max_epochs=1")
    assert run.code == 0, run.log
    assert (run.result["precision"], run.result["deterministic"]) == ("bf16-mixed", True)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("setting", "passed", "logged"),
    [("true", None, "default"), ("reduce-overhead", "reduce-overhead", "reduce-overhead")],
)
def test_compile_keeps_the_keys_of_the_checkpoint(
    setting: str,
    passed: str | None,
    logged: str,
    train_run: TrainRun,
    finished: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes: list[str | None] = []

    def compile_without_inductor(module: torch.nn.Module, mode: str | None = None) -> None:
        modes.append(mode)
        module._compiled_call_impl = module._call_impl  # what Module.compile sets, to a compiled one

    monkeypatch.setattr(torch.nn.Module, "compile", compile_without_inductor)
    run = train_run("compiled", f"trainer.compile={setting}")
    assert modes == [passed]
    assert f"compiled, {logged}" in run.log
    assert run.checkpoint("best")["state_dict"].keys() == finished.checkpoint("best")["state_dict"].keys()
    assert run.losses == finished.losses


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c(command: Command, faulty: str, tmp_path: Path, ignored: bool) -> None:
    # started in the background by a script, SIGINT is ignored by inheritance
    how = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)} if ignored else {}
    process = command("+callbacks.linger._target_=faulty.Linger", "trainer.max_epochs=500", process_group=0, **how)
    wait_for(tmp_path / "begun0", process)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    run = only_run(tmp_path / "outputs" / "train")
    assert process.returncode == 130, stderr
    assert (run.result["status"], run.result["error"]) == ("interrupted", "by Ctrl-C (SIGINT)")
    assert json.loads(stdout)["status"] == "interrupted"
    assert "Traceback" not in stderr
    assert len(run.metrics) >= 1


def test_two_ranks_train_as_one(command: Command, train_run: TrainRun, tmp_path: Path) -> None:
    overrides = ("model.dropout=0", "model=none", "optim=sgd", "optim.lr=0.02")
    process = command("trainer=ddp_cpu", "name=two", *overrides)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    two, one = only_run(tmp_path / "outputs" / "two"), train_run("one", *overrides)

    assert two.result["ranks"] == 2
    assert two.result["test_images"] == 360, "each test image once"
    ours, theirs = (np.load(run.path / "predictions" / "test.npz") for run in (two, one))
    np.testing.assert_array_equal(ours["labels"], theirs["labels"])
    np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=2e-3)
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    assert two.result["metrics"]["test/loss"] == pytest.approx(one.result["metrics"]["test/loss"], rel=1e-4)
    assert two.result["metrics"]["val/loss"] == pytest.approx(one.result["metrics"]["val/loss"], rel=1e-4)
    assert sorted(path.name for path in two.path.glob("*.log")) == ["train.log", "train.rank1.log"]
    assert not list(two.path.glob(".rendezvous*"))


def test_a_rank_that_raises_fails_the_run(train_run: TrainRun, faulty: str, capfd: pytest.CaptureFixture[str]) -> None:
    run = train_run("run", "trainer=ddp_cpu", "+callbacks.raise._target_=faulty.Raise", "+callbacks.raise.rank=1")
    assert run.code == 1
    assert (run.result["status"], run.result["error"]) == ("failed", "rank 1: ValueError: boom")
    told = [line for line in capfd.readouterr().err.splitlines() if "boom" in line or "failed" in line]
    assert told == ["failed: rank 1: ValueError: boom (train.log shows where)"]
    assert "Traceback" in (run.path / "train.rank1.log").read_text()
    assert not multiprocessing.active_children()


def test_nan_loss_fails_the_run_on_two_ranks(train_run: TrainRun) -> None:
    run = train_run("nan", "trainer=ddp_cpu", "optim=sgd", "optim.lr=1e9", "schedule=constant", "model.norm=none")
    assert (run.code, run.result["status"]) == (1, "failed")
    assert run.result["error"].startswith("the loss is nan at step ")
    assert len([line for line in run.log.splitlines() if "failed" in line]) == 1


def test_ctrl_c_of_two_ranks(train_run: TrainRun, faulty: str, tmp_path: Path) -> None:
    def interrupt() -> None:
        for rank in (0, 1):
            deadline = time.monotonic() + 60
            while not (tmp_path / f"begun{rank}").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)  # this process alone: the ranks must hear of it from here

    threading.Thread(target=interrupt, daemon=True).start()
    run = train_run("run", "trainer=ddp_cpu", "+callbacks.linger._target_=faulty.Linger", "trainer.max_epochs=5000")
    assert (run.code, run.result["status"]) == (130, "interrupted")
    assert not multiprocessing.active_children()


def test_sigterm_is_recorded_as_an_interruption(train_run: TrainRun, faulty: str, tmp_path: Path) -> None:
    def terminate() -> None:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun0").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    run = train_run("run", "+callbacks.linger._target_=faulty.Linger", "trainer.max_epochs=5000")
    assert (run.code, run.result["status"], run.result["error"]) == (75, "interrupted", "by SIGTERM")


def test_check_writes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check.run([*TINY, "trainer=ddp_cpu"]) == 0
    assert capsys.readouterr().out.startswith("ok: AlexNet on ")
    assert list(tmp_path.iterdir()) == []


def test_final_metrics_are_of_the_tested_checkpoint(train_run: TrainRun) -> None:
    # with no rate left after the first epoch all are equally good, and the last of equals is the best
    rates = ("schedule=steps", "schedule.milestones=[1]", "schedule.factor=0", "trainer.check_val_every_n_epoch=2")
    run = train_run("run", "model=none", *rates, "trainer.max_epochs=5")
    assert (run.result["best_epoch"], run.result["metrics_epoch"]) == (4, 4)
    assert len({row["train/loss"] for row in run.metrics}) == 5
    row = run.metrics[3]
    for key in ("val/top1", "val/loss", "train/loss"):
        assert run.result["metrics"][key] == row[key]


def test_last_batch_of_one_image_is_merged_into_the_previous_one(train_run: TrainRun) -> None:
    """Batch norm behind a fully connected layer has no statistics of one image."""
    small = ("model=fast", "model.width=0.1", "data.subset=51", "data.batch_size=10", "trainer.max_epochs=1")
    run = train_run("run", *small)
    assert run.code == 0, run.log
    assert "51 train" in run.log
    assert [step for step, *_ in run.steps] == [1, 2, 3, 4, 5]
    alone = train_run("alone", *small, "data.batch_size=1")
    assert (alone.code, alone.result["status"]) == (2, "failed")
    assert "data.batch_size=1: must be at least 2, two images" in alone.result["error"]


def test_prune_file_ends_the_run(train_run: TrainRun, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "train" / "run"
    folder.mkdir(parents=True)
    (folder / "prune").write_text("hopeless: 0.1 at epoch 1\n")
    run = train_run("run", "trainer.max_epochs=50")
    assert (run.code, run.result["status"], run.result["error"]) == (0, "pruned", "hopeless: 0.1 at epoch 1")
    assert len(run.metrics) == 1
    assert "test/top1" not in run.result["metrics"]


def test_too_many_parameters_per_image_are_logged() -> None:
    from alexnet_exp.config.compose import compose_run
    from alexnet_exp.config.resolve import resolve_network
    from alexnet_exp.training.build import _too_large

    full, _, _ = resolve_network(compose_run(["model=bn", "model.width=1"]).config)
    told = "; model.width=0.25 is a smaller network, model.weights=RUN starts from trained weights"
    assert _too_large(full, 108) == f"30 million parameters for 108 training images{told}"
    assert _too_large(full, 45_000) == ""
    quarter, _, _ = resolve_network(compose_run(["model=bn"]).config)
    assert _too_large(quarter, 108) == ""
