"""How a run ends: done, pruned, failed, interrupted, or refused before it began; and the exit code of each."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from alexnet_exp.settings import BAD_INPUT, DONE, FAILED, INTERRUPTED, TERMINATED, UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl


class NotFiniteError(RuntimeError):
    """The loss became NaN or infinite: no fault of the code, and one line says it."""


class Pruned(Exception):  # noqa: N818 (it is no error)
    """The run was asked to end early; says why."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it is listened to. Whoever ends its work in order on Ctrl-C does so here too."""


@dataclass(frozen=True)
class Ending:
    """`status` is what result.json says, or `refused` where the run did not begin and its folder was not touched.

    reason: one line. trace: of an error that nobody expected. recorded: whether result.json has it already.
    """

    status: str
    code: int
    reason: str = ""
    trace: str = ""
    recorded: bool = False


def ending_of(error: BaseException) -> Ending:
    """The ending that an exception means."""
    if isinstance(error, KeyboardInterrupt) and not isinstance(error, Terminated):
        return Ending("interrupted", INTERRUPTED, "by Ctrl-C (SIGINT)")
    if isinstance(error, Terminated) or _is_sigterm(error):
        return Ending("interrupted", TERMINATED, "by SIGTERM")
    if isinstance(error, UserError):
        return Ending("failed", BAD_INPUT, str(error))
    if isinstance(error, Pruned):
        return Ending("pruned", DONE, str(error))
    if isinstance(error, NotFiniteError):
        return Ending("failed", FAILED, str(error))
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return Ending("failed", FAILED, reason, "".join(traceback.format_exception(error)))


@contextmanager
def interruptible(*, sigterm: bool = False) -> Iterator[None]:
    """Inside, the first SIGINT raises KeyboardInterrupt; with `sigterm` the first SIGTERM `Terminated`.

    Also where a script started us in the background, with SIGINT ignored by inheritance, and where code that was
    stopped half-way raises another error of it. Those that follow are ignored, so that the ending can be written: ranks
    get one from the terminal and one from the process that started them. Outside of the main thread nothing changes:
    whoever owns that handles signals.
    """
    numbers = (signal.SIGINT, signal.SIGTERM) if sigterm else (signal.SIGINT,)
    stops: list[KeyboardInterrupt] = []

    def once(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        stops.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise stops[0]

    try:
        before = {each: signal.signal(each, once) for each in numbers}
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


@contextmanager
def own_interrupts(trainer: pl.Trainer) -> Iterator[None]:
    """Lightning turns Ctrl-C into sys.exit(1) once it has torn down; here it comes out as a KeyboardInterrupt again."""
    try:
        yield
    except SystemExit as error:
        if trainer.interrupted and not _is_sigterm(error):
            raise KeyboardInterrupt from None
        raise


def _is_sigterm(error: BaseException) -> bool:
    # imported here, or the process that only waits for its ranks would spend a second on Lightning
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    return isinstance(error, SIGTERMException)
