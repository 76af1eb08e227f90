"""Tests of the training error in evaluation mode, against a network that is evaluated by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from alexnet_exp.inference.classifier import load
from alexnet_exp.runs.folder import METRICS_COLUMNS
from alexnet_exp.training.callbacks.train_error import epochs_to
from tests.conftest import Run, opened_data

TrainRun = Callable[..., Run]


def test_callback_does_not_affect_training(train_run: TrainRun, finished: Run) -> None:
    run = train_run("run", "callbacks=train_error")
    assert run.steps == finished.steps
    assert (run.path / "metrics.csv").read_text().splitlines()[0].split(",") == [*METRICS_COLUMNS, "train/top1_eval"]


@pytest.mark.parametrize("images", ["null", "40"])
def test_train_error_equals_that_of_an_evaluation(train_run: TrainRun, images: str) -> None:
    # with dropout and random crops, which the evaluation must not see
    run = train_run(
        *("run", "model=lrn", "model.width=0.1", "model.dropout=0.5", "data.crop=24", "data.mirror=true"),
        *("callbacks=train_error", f"callbacks.train_error.images={images}", "test.checkpoint=last"),
    )
    assert run.code == 0
    data, network = opened_data(run), load(run.path, "last")
    train = data.source.train
    with torch.no_grad():
        logits = network(data.centred(train.images(torch.arange(len(train)))))
    hits = (logits.argmax(1) == train.labels).double()
    found = run.metrics[-1]["train/top1_eval"]
    assert found is not None
    if images == "null":
        assert found == pytest.approx(float(hits.mean()), abs=1e-9)
    else:
        assert found * 40 == pytest.approx(round(found * 40), abs=1e-6)  # a part: a share of 40 images


def test_epochs_to_target_are_in_the_result(train_run: TrainRun) -> None:
    run = train_run("run", "callbacks=train_error", "callbacks.train_error.target=0.89", "trainer.max_epochs=3")
    rows = [1 - float(row["train/top1_eval"] or 0) for row in run.metrics]
    epochs = run.result["metrics"]["train/epochs_to_target"]
    after = next(epoch for epoch, error in enumerate(rows, 1) if error <= 0.89)
    assert after - 1 < epochs <= after
    assert f"a training error of 89% was reached after {epochs:.2f} epochs" in run.log


def test_missed_target_is_logged_and_not_in_the_result(train_run: TrainRun) -> None:
    run = train_run("run", "callbacks=train_error", "callbacks.train_error.target=0.001", "trainer.max_epochs=1")
    assert "train/epochs_to_target" not in run.result["metrics"]
    assert "a training error of 0.1% was not reached in 1 epochs" in run.log


def test_run_stops_at_the_target(train_run: TrainRun) -> None:
    overrides = ("callbacks=train_error", "callbacks.train_error.target=0.89", "trainer.max_epochs=9")
    run = train_run("run", *overrides, "callbacks.train_error.stop=true")
    assert run.code == 0
    epochs = run.result["metrics"]["train/epochs_to_target"]
    assert len(run.metrics) == -(-epochs // 1) < 9


@pytest.mark.parametrize(
    ("errors", "target", "epochs"),
    [
        ([0.9, 0.5, 0.3, 0.1], 0.25, 2.25),  # a quarter of the way from 0.3 to 0.1
        ([0.9, 0.25], 0.25, 1.0),
        ([0.2, 0.1], 0.25, 0.0),
        ([0.9, 0.2, 0.6, 0.1], 0.25, 1 - 0.05 / 0.7),  # the first time, also where it rises again
        ([0.9, 0.3], 0.25, None),
        ([], 0.25, None),
    ],
)
def test_epochs_to_target_are_interpolated(errors: list[float], target: float, epochs: float | None) -> None:
    assert epochs_to(errors, target) == (None if epochs is None else pytest.approx(epochs))
