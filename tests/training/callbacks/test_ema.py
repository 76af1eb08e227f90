"""Tests of the moving average: its formula over many updates, its buffers, and its checkpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from alexnet_exp.training.callbacks.ema import Ema


class Module(pl.LightningModule):
    """A weight, a float buffer and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def set(self, value: int) -> None:
        with torch.no_grad():
            self.norm.weight.fill_(value)
        self.norm.running_mean = torch.tensor([-2.0 * value])
        self.norm.num_batches_tracked = torch.tensor(value)


def started(module: Module, decay: float, every: int = 1, first: int | None = None) -> Ema:
    ema = Ema(decay, every, first)
    ema.setup(SimpleNamespace(), module, "fit")  # type: ignore[arg-type]
    return ema


def steps(ema: Ema, module: Module, first: int, last: int) -> None:
    """Steps `first` to `last`, counted from 1; the weight after step s is s."""
    for step in range(first, last + 1):
        module.set(step)
        trainer: Any = SimpleNamespace(global_step=step)
        ema.on_train_batch_end(trainer, module, None, None, step - 1)


def averaged(ema: Ema, module: Module) -> tuple[dict[str, Any], dict[str, Any]]:
    checkpoint = {"state_dict": module.state_dict()}
    ema.on_save_checkpoint(SimpleNamespace(), module, checkpoint)  # type: ignore[arg-type]
    return checkpoint["state_dict"], checkpoint


@pytest.mark.parametrize("count", [1, 2, 3, 10, 40])
def test_ema_weight_follows_the_formula(count: int) -> None:
    decay, expected = 0.75, 1.0
    for n in range(1, count):  # (1 + n) / (10 + n) passes 0.75 at n = 26
        now = (1 + n) / (10 + n) if n <= 26 else decay
        expected = now * expected + (1 - now) * (n + 1)
    module = Module()
    ema = started(module, decay)
    steps(ema, module, 1, count)
    state, _ = averaged(ema, module)
    assert state["norm.weight"].item() == pytest.approx(expected, rel=1e-5)
    assert state["norm.running_mean"].item() == pytest.approx(-2 * expected, rel=1e-5)
    assert state["norm.num_batches_tracked"].item() == count


def test_ema_of_a_short_run_is_close_to_its_last_weights() -> None:
    module = Module()
    ema = started(module, 0.999)
    steps(ema, module, 1, 110)
    # a fixed decay of 0.999 would give 6.7
    assert 90 < averaged(ema, module)[0]["norm.weight"].item() < 110


def test_ema_updates_every_second_step_from_the_fourth_on() -> None:
    module = Module()
    ema = started(module, 0.9, every=2, first=3)  # steps are counted from 0: 4, 6, 8 have the weights 5, 7, 9
    steps(ema, module, 1, 10)
    expected = 2 / 11 * 5 + 9 / 11 * 7
    expected = 3 / 12 * expected + 9 / 12 * 9
    assert averaged(ema, module)[0]["norm.weight"].item() == pytest.approx(expected)
    assert not ema.should_update(epoch_idx=8)


def test_ema_resumes_from_a_checkpoint() -> None:
    whole, half, resumed = Module(), Module(), Module()
    one, two = started(whole, 0.9), started(half, 0.9)
    steps(one, whole, 1, 12)
    steps(two, half, 1, 6)
    _, checkpoint = averaged(two, half)
    three = started(resumed, 0.9)
    three.on_load_checkpoint(SimpleNamespace(), resumed, checkpoint)  # type: ignore[arg-type]
    three.load_state_dict(two.state_dict())
    assert resumed.norm.weight.item() == 6
    steps(three, resumed, 7, 12)
    for name, value in averaged(one, whole)[0].items():
        assert torch.equal(value, averaged(three, resumed)[0][name]), name
