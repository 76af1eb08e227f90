"""Which ending an exception means, and what a signal does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from alexnet_exp.endings import NotFiniteError, Terminated, ending_of, interruptible, own_interrupts
from alexnet_exp.settings import UserError


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", 130, "by Ctrl-C (SIGINT)"),
        (SIGTERMException(), "interrupted", 143, "by SIGTERM"),
        (UserError("data.root=x: no such folder"), "failed", 2, "data.root=x: no such folder"),
        (NotFiniteError("the loss is nan"), "failed", 1, "the loss is nan"),
        (ValueError("first\nsecond"), "failed", 1, "ValueError: first"),
        (SystemExit(3), "failed", 1, "SystemExit: 3"),
    ],
)
def test_an_exception_is_an_ending(error: BaseException, status: str, code: int, reason: str) -> None:
    ending = ending_of(error)
    assert (ending.status, ending.code, ending.reason) == (status, code, reason)
    unexpected = isinstance(error, ValueError | SystemExit) and not isinstance(error, UserError | SIGTERMException)
    assert bool(ending.trace) == unexpected


def test_the_first_ctrl_c_raises_and_the_second_does_not_disturb_the_ending() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                raise AssertionError("not interrupted")
            except KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "put back"
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone() -> None:
    before, entered = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interruptible():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [before]


def test_lightnings_exit_is_the_interrupt_that_it_was() -> None:
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(SystemExit), own_interrupts(trainer):
        raise SystemExit(1)
    trainer.state.status = pl.trainer.states.TrainerStatus.INTERRUPTED
    with pytest.raises(KeyboardInterrupt), own_interrupts(trainer):
        raise SystemExit(1)
    with pytest.raises(SIGTERMException), own_interrupts(trainer):
        raise SIGTERMException


@pytest.mark.parametrize(("sent", "raised", "code"), [(signal.SIGINT, KeyboardInterrupt, 130), (15, Terminated, 143)])
def test_the_first_signal_stops_and_the_second_does_nothing(sent: int, raised: type[BaseException], code: int) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as stopped:
        _stopped(sent, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert type(stopped.value) is raised
    assert ending_of(stopped.value).code == code
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_is_broken_by_the_signal_is_no_error_of_its_own() -> None:
    with pytest.raises(KeyboardInterrupt):
        _stopped(signal.SIGINT, _break)
    with pytest.raises(AttributeError), interruptible(sigterm=True):
        _break()


def _stopped(sent: int, then: Callable[[], None]) -> None:
    with interruptible(sigterm=True):
        try:
            os.kill(os.getpid(), sent)
        finally:
            then()


def _break() -> None:
    raise AttributeError("left half-way")
