"""Tests of the warnings about common training failures."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_exp.model.spec import Norm
from alexnet_exp.training.callbacks import diagnostics as module
from alexnet_exp.training.callbacks.diagnostics import Diagnostics


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def epoch(
    diagnostics: Diagnostics,
    clock: Clock,
    number: int,
    loss: float,
    wait: float,
    work: float,
    validate: float = 0,
    steps: int = 30,
) -> None:
    logged = SimpleNamespace(metrics={"callback": {}})
    trainer: Any = SimpleNamespace(current_epoch=number, _logger_connector=logged, global_step=steps * (number + 1))
    lightning_module: Any = SimpleNamespace(metrics={"train/loss": loss})
    diagnostics.on_train_epoch_start(trainer, lightning_module)
    for step in range(steps):
        clock.now += wait
        diagnostics.on_train_batch_start(trainer, lightning_module, None, step)
        clock.now += work
        diagnostics.on_train_batch_end(trainer, lightning_module, None, None, step)
        clock.now += validate
        diagnostics.on_validation_end(trainer, lightning_module)
    diagnostics.on_train_epoch_end(trainer, lightning_module)


def test_waiting_for_data_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics = Diagnostics(classes=10, norm=None)
    for number in range(3):
        epoch(diagnostics, clock, number, loss=1.0, wait=3, work=1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "74% of the time is spent waiting for data; try a larger data.workers" in caplog.text


def test_validation_and_short_waits_are_not_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    epoch(Diagnostics(classes=10, norm=None), clock, 0, loss=1.0, wait=1, work=2, validate=100)
    assert caplog.text == ""


def test_loss_at_chance_is_logged_once_from_the_second_epoch_on(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics = Diagnostics(classes=1000, norm=None)
    epoch(diagnostics, clock, 0, loss=math.log(1000), wait=0, work=1)
    assert caplog.text == ""
    for number in (1, 2):
        epoch(diagnostics, clock, number, loss=1.005 * math.log(1000), wait=0, work=1)
    assert len(caplog.records) == 1
    assert "stays at ln(1000) = 6.908, that of random guesses; try another optim.lr" in caplog.text


def test_falling_loss_is_not_reported(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    epoch(Diagnostics(classes=10, norm=None), clock, 5, loss=0.97 * math.log(10), wait=0, work=1)
    assert caplog.text == ""


@pytest.mark.parametrize(("norm", "advised"), [(Norm.lrn, True), (Norm.none, True), (Norm.bn, False), (None, False)])
def test_batch_norm_is_suggested_for_other_norms(
    clock: Clock, caplog: pytest.LogCaptureFixture, norm: Norm | None, advised: bool
) -> None:
    epoch(Diagnostics(10, norm), clock, 1, loss=math.log(10), wait=0, work=1)
    assert "that of random guesses" in caplog.text
    assert ("model=bn" in caplog.text) == advised


def test_few_steps_are_not_judged(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics = Diagnostics(10, norm=None)
    for number in range(20):
        epoch(diagnostics, clock, number, loss=math.log(10), wait=0, work=1, steps=1)
        assert bool(caplog.text) == (number == 19), number
