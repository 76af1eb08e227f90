"""Which ending an exception means, and that Lightning leaves signals to us."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from alexnet_exp.errors import UserError
from alexnet_exp.processes.signals import (
    ECHO_SECONDS,
    STOP_SIGNALS,
    Terminated,
    stop_at_boundaries,
    stop_error,
    stop_on_signals,
    stop_signal,
)
from alexnet_exp.runs.status import NotFiniteError, ending_of, own_interrupts


@pytest.mark.parametrize(
    ("raised", "status", "code", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", 130, "by Ctrl-C (SIGINT)"),
        (Terminated(), "interrupted", 75, "by SIGTERM"),
        (Terminated(signal.SIGUSR1), "interrupted", 75, "by SIGUSR1"),
        (UserError("data.root=x: no such folder"), "failed", 2, "data.root=x: no such folder"),
        (NotFiniteError("the loss is nan"), "failed", 1, "the loss is nan"),
        (ValueError("\n\n  first\nsecond"), "failed", 1, "ValueError: first"),
        (ValueError("first\nsecond"), "failed", 1, "ValueError: first"),
        (SystemExit(3), "failed", 1, "SystemExit: 3"),
    ],
)
def test_exceptions_are_mapped_to_endings(raised: BaseException, status: str, code: int, reason: str) -> None:
    ending = ending_of(raised)
    assert (ending.status, ending.code, ending.reason) == (status, code, reason)
    assert bool(ending.trace) == isinstance(raised, ValueError | SystemExit)


@pytest.fixture
def trainer() -> pl.Trainer:
    return pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu", max_epochs=1
    )


class Model(pl.LightningModule):
    """Sends itself signals in its first step."""

    def __init__(self, *numbers: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.numbers = numbers
        self.steps = 0

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        for each in self.numbers if self.steps == 0 else ():
            os.kill(os.getpid(), each)
        self.steps += 1
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Boundary(pl.Callback):
    """Stops after the step in which a signal was heard."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        if stop_signal():
            raise stop_error()


def fit(trainer: pl.Trainer, model: Model) -> None:
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(3, 1)))
    with stop_on_signals(), own_interrupts(trainer), stop_at_boundaries():
        trainer.fit(model, batches)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_lightning_ends_at_the_boundary_with_the_signal_that_was_sent(trainer: pl.Trainer, number: int) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    trainer.callbacks.append(Boundary())
    model = Model(number)
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(trainer, model)
    expected = KeyboardInterrupt if number == signal.SIGINT else Terminated
    assert (type(stopped.value), model.steps) == (expected, 1)
    assert getattr(stopped.value, "signal", signal.SIGINT) == number
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_a_second_signal_does_not_wait_for_the_boundary(trainer: pl.Trainer) -> None:
    model = Model(signal.SIGTERM, signal.SIGINT)
    with pytest.raises(Terminated):
        fit(trainer, model)
    assert model.steps == 0


def test_a_second_ctrl_c_interrupts_lightnings_teardown(trainer: pl.Trainer) -> None:
    class Late(pl.Callback):
        """While Lightning, told of the first, ends its work."""

        def on_exception(self, *arguments: Any) -> None:
            time.sleep(ECHO_SECONDS)
            os.kill(os.getpid(), signal.SIGINT)
            torn_down.append("went on")

    torn_down: list[str] = []
    trainer.callbacks += [Boundary(), Late()]
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, Model(signal.SIGINT))
    assert torn_down == []


def test_other_exits_are_not_changed(trainer: pl.Trainer) -> None:
    class Exit(pl.Callback):
        def on_train_start(self, *arguments: Any) -> None:
            sys.exit(3)

    trainer.callbacks.append(Exit())
    with pytest.raises(SystemExit, match="3"):
        fit(trainer, Model())
