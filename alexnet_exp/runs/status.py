"""Provides the status of a run, how a run ended, and the exit code of each ending."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from alexnet_exp.errors import ExitCode, UserError
from alexnet_exp.processes import signals
from alexnet_exp.processes.signals import Terminated
from alexnet_exp.runs.disk_errors import UnwritableError

if TYPE_CHECKING:
    import pytorch_lightning as pl


class Status(StrEnum):
    """The status of a run or of a job. The values are in result.json, tables and JSON; `label` is what people read."""

    RUNNING = "running"
    DONE = "done"
    PRUNED = "pruned"  # ended early by its search; its metrics count for the search alone
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # stopped by a signal, and resumable
    DIED = "died"  # result.json says running, and no process holds the run's lock
    UNKNOWN = "unknown"  # of another project's run, which records no status
    REFUSED = "refused"  # rejected before it started; the folder was not changed
    PENDING = "open"  # a sweep's job that has not started
    QUEUED = "queued"  # a sweep's job that a cluster has accepted

    @property
    def label(self) -> str:
        """The status as it is printed for people: `killed` for died, `pending` for open."""
        return {Status.DIED: "killed", Status.PENDING: "pending"}.get(self, self.value)


class NotFiniteError(RuntimeError):
    """The loss became NaN or infinite: no fault of the code, and one line says it."""


class Pruned(Exception):  # noqa: N818 (it is no error)
    """The run was asked to end early; says why."""


@dataclass(frozen=True)
class Ending:
    """`status` is what result.json says, or `refused` where the run did not begin and its folder was not touched.

    reason: one line. trace: of an error that nobody expected. recorded: whether result.json has it already.
    """

    status: Status
    code: ExitCode
    reason: str = ""
    trace: str = ""
    recorded: bool = False


def ending_of(error: BaseException) -> Ending:
    """The ending that an exception means."""
    if isinstance(error, Terminated):
        return Ending(Status.INTERRUPTED, ExitCode.TERMINATED, f"by {error.signal.name}")
    if isinstance(error, KeyboardInterrupt):
        return Ending(Status.INTERRUPTED, ExitCode.INTERRUPTED, "by Ctrl-C (SIGINT)")
    if isinstance(error, UnwritableError):
        return Ending(Status.FAILED, ExitCode.FAILED, str(error))
    if isinstance(error, UserError):
        return Ending(Status.FAILED, ExitCode.BAD_INPUT, str(error))
    if isinstance(error, Pruned):
        return Ending(Status.PRUNED, ExitCode.OK, str(error))
    if isinstance(error, NotFiniteError):
        return Ending(Status.FAILED, ExitCode.FAILED, str(error))
    reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    return Ending(Status.FAILED, ExitCode.FAILED, reason, "".join(traceback.format_exception(error)))


@contextmanager
def own_interrupts(trainer: pl.Trainer) -> Iterator[None]:
    """Inside, Lightning leaves signals to `stopping`, and the exception that a signal raised comes out as it was.

    Lightning has SIGTERM raise an exception of its own, and where it meets a KeyboardInterrupt it makes the process
    deaf to SIGINT, tears down, and exits with 1.
    """
    from pytorch_lightning.callbacks import LambdaCallback

    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    # the first thing that it does once it is deaf
    trainer.callbacks.insert(0, LambdaCallback(on_exception=lambda *_: signals.install_handlers()))  # type: ignore[attr-defined]
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _nothing() -> None:
    pass
