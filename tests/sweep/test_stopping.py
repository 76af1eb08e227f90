"""Ctrl-C and SIGTERM while a sweep runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from alexnet_exp.sweep.stopping import Terminated, exit_code, stoppable


@pytest.mark.parametrize(("sent", "raised", "code"), [(signal.SIGINT, KeyboardInterrupt, 130), (15, Terminated, 143)])
def test_the_first_signal_stops_and_the_second_does_nothing(sent: int, raised: type[BaseException], code: int) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as stopped:
        _stopped(sent, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert type(stopped.value) is raised
    assert exit_code(stopped.value) == code
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_is_broken_by_the_signal_is_no_error_of_its_own() -> None:
    with pytest.raises(KeyboardInterrupt):
        _stopped(signal.SIGINT, _break)
    with pytest.raises(AttributeError), stoppable():
        _break()


def _stopped(sent: int, then: Callable[[], None]) -> None:
    with stoppable():
        try:
            os.kill(os.getpid(), sent)
        finally:
            then()


def _break() -> None:
    raise AttributeError("left half-way")
