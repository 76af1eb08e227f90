"""Tests of EMA and early stopping, built from a configuration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from alexnet_exp.cli import eval as evaluate_again
from alexnet_exp.config.schema import EarlyStopping
from alexnet_exp.training.callbacks.build import build_callbacks
from tests.conftest import Run

TrainRun = Callable[..., Run]


def test_ema_weights_are_validated_tested_and_saved(train_run: TrainRun, finished: Run) -> None:
    run = train_run("ema", "callbacks=ema", "callbacks.ema.decay=0.5")
    assert run.losses == finished.losses, "the training itself is not changed"
    averaged, trained = run.checkpoint("last"), finished.checkpoint("last")["state_dict"]
    for name, value in averaged["current_model_state"].items():
        assert torch.equal(value, trained[name]), name
    assert not torch.equal(averaged["state_dict"]["network.fc8.fc.weight"], trained["network.fc8.fc.weight"])
    assert torch.equal(averaged["state_dict"]["preprocess.mean"], trained["preprocess.mean"])
    assert [row["val/loss"] for row in run.metrics] != [row["val/loss"] for row in finished.metrics]


def test_ema_equals_the_average_of_its_formula(train_run: TrainRun) -> None:
    plain = ("data.subset=32", "data.val=none", "schedule=constant", "test.run=false")
    weights = [
        train_run(f"{epochs}", *plain, f"trainer.max_epochs={epochs}").checkpoint("last")["state_dict"]
        for epochs in (1, 2, 3)
    ]
    run = train_run("ema", *plain, "trainer.max_epochs=3", "callbacks=ema", "callbacks.ema.decay=0.2")
    averaged = run.checkpoint("last")["state_dict"]
    name = "network.fc8.fc.weight"  # one step an epoch: the average starts with the weights after the first
    expected = weights[0][name]
    for decay, state in zip((2 / 11, 0.2), weights[1:], strict=True):  # 3/12 would be above the decay asked for
        expected = decay * expected + (1 - decay) * state[name]
    torch.testing.assert_close(averaged[name], expected)


@pytest.mark.parametrize("overrides", [("callbacks=ema",), ("trainer.precision=bf16-mixed",), ("data.crop=28",)])
def test_eval_repeats_the_exact_metrics_of_the_test(
    train_run: TrainRun, overrides: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    run = train_run("run", *overrides)
    assert evaluate_again.run([str(run.path)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert told == {key: value for key, value in run.result["metrics"].items() if key.startswith("test/")}


def test_eval_of_validation_equals_the_row_of_the_best_epoch(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert evaluate_again.run([str(finished.path), "--split", "val"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    row = finished.metrics[finished.result["best_epoch"] - 1]
    assert told == {key: row[key] for key in ("val/loss", "val/top1", "val/top5")}


def test_early_stopping_reads_precise_bn_in_any_order_of_callbacks(train_run: TrainRun) -> None:
    run = train_run(
        "run",
        "model=bn",
        "callbacks=[early_stopping,precise_bn]",
        "callbacks.early_stopping.monitor=val/top1_precise_bn",
    )
    assert run.code == 0
    assert len(run.metrics) == 2


def test_early_stopping_logs_its_reason(train_run: TrainRun) -> None:
    run = train_run(
        "run",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=0.9",
        "trainer.max_epochs=9",
    )
    assert run.code == 0
    assert len(run.metrics) == run.result["epochs"] == 2
    reason = "Monitored metric val/top1 did not improve in the last 1 records."
    assert run.result["stopped_early"].startswith(reason)
    assert f"stopped early, after epoch 2: {reason}" in run.log


@pytest.mark.parametrize(
    ("monitor", "mode", "expected"),
    [
        ("val/top1", None, "max"),
        ("val/loss", None, "min"),
        ("val/loss_precise_bn", None, "min"),
        ("val/loss", "max", "max"),
    ],
)
def test_mode_of_early_stopping_follows_its_monitor(monitor: str, mode: str | None, expected: str) -> None:
    (callback,) = build_callbacks({"stop": EarlyStopping(monitor=monitor, mode=mode)})
    assert callback.mode == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["EarlyStopping", "MeasuredEarlyStopping"])
def test_early_stopping_loads_the_state_of_earlier_checkpoints(name: str) -> None:
    """The first version saved it under the name of Lightning's class, later ones under that of ours."""
    (callback,) = build_callbacks({"early_stopping": EarlyStopping(monitor="val/top1", mode="max")})
    state = {"wait_count": 2}
    checkpoint = {"callbacks": {f"{name}{ {'monitor': 'val/top1', 'mode': 'max'}!r}": state}}
    callback.on_load_checkpoint(None, None, checkpoint)  # type: ignore[arg-type]
    assert callback.state_key == "EarlyStopping{'monitor': 'val/top1', 'mode': 'max'}"
    assert checkpoint["callbacks"][callback.state_key] is state
