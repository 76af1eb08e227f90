"""Tests of non-finite losses: the run fails without saving such weights, or the step is skipped."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_exp.training.callbacks import skip_nonfinite
from alexnet_exp.training.module import AlexNetModule
from tests.conftest import Run

TrainRun = Callable[..., Run]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], list[dict[str, Any]]]:
    """Makes the images of some training batches (by number, from 0) NaN; records the state before each step."""
    original = AlexNetModule.training_step
    forward = AlexNetModule.forward

    def poison(batches: set[int]) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        here = [False]

        def training_step(self: AlexNetModule, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            optimizer = self.optimizers(use_pl_optimizer=False)
            seen.append(copy.deepcopy({"network": self.network.state_dict(), "optimizer": optimizer.state_dict()}))
            here[0] = len(seen) - 1 in batches
            return original(self, batch, batch_idx)

        def through(self: AlexNetModule, images: Tensor) -> Tensor:
            return forward(self, images.float() * math.nan if here[0] else images)

        monkeypatch.setattr(AlexNetModule, "training_step", training_step)
        monkeypatch.setattr(AlexNetModule, "forward", through)
        return seen

    return poison


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(equal, one, two))
    return torch.equal(one, two) if isinstance(one, Tensor) else bool(one == two)


@pytest.mark.parametrize("optim", ["adamw", "sgd", "krizhevsky", "muon"])
def test_skipped_step_changes_nothing(optim: str, train_run: TrainRun, poisoned: Any) -> None:
    seen = poisoned({2, 4})
    run = train_run("run", "trainer.on_nan=skip", f"optim={optim}", "schedule=constant", "test.run=false")
    assert run.code == 0
    for number in range(5):
        before, after = seen[number], seen[number + 1]
        same = equal(before["network"], after["network"])
        assert same == (number in (2, 4)), number
        if same:
            assert equal(before["optimizer"]["state"], after["optimizer"]["state"])
    losses = [math.isnan(loss) for loss in run.losses]
    assert losses == [False, False, True, False, True, False]
    assert all(math.isfinite(row["train/loss"] or 0) for row in run.metrics)
    assert "step 3: non-finite gradients; step skipped (1 so far)" in run.log
    assert "step 5: non-finite gradients; step skipped (2 so far)" in run.log


def test_skipped_step_drops_all_its_accumulated_batches(train_run: TrainRun, poisoned: Any) -> None:
    seen = poisoned({3})
    run = train_run(
        *("run", "trainer.on_nan=skip", "trainer.accumulate_grad_batches=2", "data.batch_size=16"),
        *("trainer.max_epochs=1", "test.run=false"),
    )
    assert run.code == 0
    assert equal(seen[2]["network"], seen[4]["network"]), "batches 2 and 3 are one step; the averages are back too"
    assert not equal(seen[0]["network"], seen[2]["network"])


def test_too_many_skipped_steps_fail_the_run(
    train_run: TrainRun, poisoned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skip_nonfinite, "MOST_CONSECUTIVE_SKIPS", 3)
    poisoned(set(range(1, 100)))
    run = train_run("run", "trainer.on_nan=skip", "trainer.max_epochs=9")
    assert run.code == 1
    assert run.result["status"] == "failed"
    assert "non-finite gradients in 3 consecutive steps" in run.result["error"]


@pytest.mark.parametrize("every", ["1 steps", "1 epoch"])
def test_stopped_run_saves_no_non_finite_weights(every: str, train_run: TrainRun, poisoned: Any) -> None:
    poisoned({4})
    run = train_run("run", f"checkpoint.every={every}", "data.val=none", "objective=train/loss")
    assert run.code == 1
    assert "the loss is nan at step 5; try a smaller optim.lr" in run.result["error"]
    saved = run.checkpoint("last")
    assert saved["global_step"] == (4 if every == "1 steps" else 3)
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())
