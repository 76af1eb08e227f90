"""Ctrl-C and SIGTERM while a sweep runs: both end it in order, and the second one does not disturb that."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from alexnet_exp.settings import INTERRUPTED, TERMINATED


class Terminated(KeyboardInterrupt):
    """SIGTERM. Whoever ends its work in order on Ctrl-C does so here too."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first SIGINT raises KeyboardInterrupt, the first SIGTERM `Terminated`; those that follow do nothing.

    Also where a script started this process in the background, with SIGINT ignored by inheritance, and where code that
    was stopped half-way raises another error of it. Outside of the main thread nothing changes: whoever owns that
    handles signals.
    """
    stops: list[KeyboardInterrupt] = []

    def once(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        stops.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise stops[0]

    try:
        before = {each: signal.signal(each, once) for each in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield
        return
    try:
        yield
    except Exception as error:
        if stops:
            raise stops[0] from error
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def exit_code(stop: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 143 for SIGTERM."""
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
