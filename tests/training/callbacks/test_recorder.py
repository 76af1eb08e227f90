"""Tests of the recorded epochs and steps of a run, and of the log's lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from alexnet_exp.training.callbacks.recorder import EPOCH_HEADER, epoch_line, memory_used
from tests.conftest import Run

TrainRun = Callable[..., Run]

ROW: dict[str, Any] = {
    "epoch": 7,
    "train/loss": 2.30259,
    "train/top1": 0.1,
    "val/loss": 12.5,
    "val/top1": 1.0,
    "val/top5": 1.0,
    "lr": 1e-3,
    "images_per_s": 12345.6,
    "seconds": 123.45,
}


def test_every_line_is_as_wide_as_the_header() -> None:
    lines = [
        epoch_line(ROW, 10, 900 * 2**20),
        epoch_line({**ROW, "epoch": 100, "val/loss": None, "val/top1": None, "val/top5": None}, 100, 2**20),
        epoch_line({**ROW, "images_per_s": None, "lr": None}, None, 0),
    ]
    assert {len(line) for line in lines} == {len(EPOCH_HEADER)}
    assert len(EPOCH_HEADER) < 80  # or a terminal folds it


def test_numbers_are_aligned_with_their_headers() -> None:
    line = epoch_line(ROW, 10, 900 * 2**20)
    for name, number in (("top-1", "0.1000"), ("lr", "1.0e-03"), ("img/s", "12346"), ("MB", "900")):
        assert line[: EPOCH_HEADER.index(name) + len(name)].endswith(number), name


def test_memory_is_plausible_for_a_process_with_torch() -> None:
    assert 100 * 2**20 < memory_used(torch.device("cpu")) < 100 * 2**30


def test_losses_are_read_in_groups_and_all_written(
    train_run: TrainRun, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_exp.training.callbacks.recorder.STEPS_AT_ONCE", 2)
    assert train_run("run").steps == finished.steps


def test_recorded_learning_rate_is_that_of_the_step_with_a_user_scheduler(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "torch")
    run = train_run(
        "run",
        "optim=sgd",
        "optim.lr=0.1",
        "~schedule",
        "+schedule={_target_: torch.optim.lr_scheduler.ExponentialLR, gamma: 0.5}",
    )
    assert run.code == 0, run.log
    assert [rate for _, _, rate in run.steps] == pytest.approx([0.1 * 0.5**step for step in range(6)])


def test_mean_of_the_steps_equals_the_epochs_loss(finished: Run) -> None:
    # three full batches: every image counts alike in both
    for row, losses in zip(finished.metrics, (finished.losses[:3], finished.losses[3:]), strict=True):
        assert row["train/loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
