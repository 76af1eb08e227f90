"""Tests that the best checkpoint is a validated one, and that metrics belong to their epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_exp.config.compose import compose
from alexnet_exp.training.module import AlexNetModule
from alexnet_exp.training.train import train
from tests.conftest import TINY, Run

TrainRun = Callable[..., Run]
# 51 of 71 images is a share that float32 rounds up: a copy of it in float32 is greater than the exact value
SHARE = 51 / 71
assert float(torch.tensor(SHARE)) > SHARE


@pytest.fixture
def validates(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """Sets what each validation finds, by the epoch (from 1) at whose end it is."""

    def set_values(top1: dict[int, float]) -> None:
        original = AlexNetModule._log

        def log(self: AlexNetModule, split: str) -> None:
            if split != "val":
                original(self, split)
                return
            self.tally["val"].read()
            named = {"val/loss": 1.0, "val/top1": top1[self.current_epoch + 1], "val/top5": 1.0}
            self.metrics |= named
            self.log_dict(named, logger=False)

        monkeypatch.setattr(AlexNetModule, "_log", log)

    return set_values


@pytest.mark.parametrize(
    ("every", "epochs", "top1", "best"),
    [
        (2, 3, {2: SHARE}, 2),
        (3, 7, {3: SHARE, 6: SHARE}, 6),
        (3, 7, {3: SHARE, 6: SHARE - 0.1}, 3),
        (4, 8, {4: SHARE, 8: SHARE - 0.1}, 4),
        (1, 2, {1: SHARE, 2: SHARE}, 2),
    ],
)
def test_best_epoch_is_validated_and_the_later_of_equals(
    train_run: TrainRun, validates: Any, every: int, epochs: int, top1: dict[int, float], best: int
) -> None:
    validates(top1)
    run = train_run("run", f"trainer.check_val_every_n_epoch={every}", f"trainer.max_epochs={epochs}")
    assert run.code == 0, run.log
    assert (run.result["best_epoch"], run.result["metrics_epoch"], run.result["tested"]) == (best, best, "best")
    assert run.result["metrics"]["val/top1"] == top1[best]
    assert run.checkpoint("best")["global_step"] == 3 * best
    assert [row["val/top1"] for row in run.metrics] == [top1.get(epoch) for epoch in range(1, epochs + 1)]


def test_unvalidated_last_epoch_has_no_validation_metric(train_run: TrainRun, validates: Any) -> None:
    validates({2: SHARE})
    run = train_run("run", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3", "test.checkpoint=last")
    assert (run.result["best_epoch"], run.result["metrics_epoch"]) == (2, 3)
    assert not any(key.startswith("val/") for key in run.result["metrics"])
    assert "epoch 3, the last one, was not validated: the run has no validation metric" in run.log


def test_validation_before_the_epochs_end_does_not_make_best(train_run: TrainRun) -> None:
    run = train_run("run", "trainer.val_check_interval=2", "trainer.max_epochs=2")  # of 3 batches
    assert run.code == 0, run.log
    assert (run.result["best_epoch"], run.result["tested"]) == (None, "last")
    assert run.log.count("was validated at step 2, before its end at step 3: its checkpoint cannot become `best`") == 1


def test_early_stopping_counts_only_validations(train_run: TrainRun, validates: Any) -> None:
    validates({2: 0.5, 4: 0.4, 6: 0.3, 8: 0.2})
    stopping = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2")
    run = train_run("run", *stopping, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=8")
    assert (run.result["epochs"], run.result["best_epoch"]) == (6, 2)
    assert run.result["metrics"]["val/top1"] == 0.5


def test_epoch_with_all_steps_skipped_has_no_training_metrics(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = AlexNetModule.forward

    def through(self: AlexNetModule, images: Tensor) -> Tensor:
        poisoned = self.trainer.training and self.current_epoch > 0
        return forward(self, images.float() * math.nan if poisoned else images)

    monkeypatch.setattr(AlexNetModule, "forward", through)
    stopping = [f"callbacks{rest}" for rest in ("=early_stopping", ".early_stopping.monitor=train/loss")]
    stopping.append("callbacks.early_stopping.mode=min")
    fixed = ("trainer.on_nan=skip", "trainer.max_epochs=3", "test.run=false", "schedule=constant")
    run = train_run("run", *fixed, *stopping)
    assert run.code == 0, run.log
    first, *others = run.metrics
    assert first["train/loss"] is not None
    assert [(row["train/loss"], row["train/top1"]) for row in others] == [(None, None), (None, None)]
    assert all(row["val/top1"] is not None for row in run.metrics)

    # a run that is resumed behind such an epoch has nothing else to show
    half = train_run("half", *fixed, *stopping, "trainer.max_epochs=2")
    assert train(compose([*TINY, *fixed, *stopping]), half.path) == 0, half.log
    times = {"seconds", "images_per_s"}
    assert [{k: v for k, v in row.items() if k not in times} for row in half.metrics] == [
        {k: v for k, v in row.items() if k not in times} for row in run.metrics
    ]
