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


def status_label(status: str) -> str:
    """Returns `Status.label` of a status read from a file; a text that is not a `Status` is returned as it is."""
    try:
        return Status(status).label
    except ValueError:
        return status


class NotFiniteError(RuntimeError):
    """The loss became NaN or infinite. It is reported in one line, without a traceback."""


class Pruned(Exception):  # noqa: N818 (it is no error)
    """The run was asked to end early; the message is the reason."""


@dataclass(frozen=True)
class Ending:
    """How a run ended. `status` is the one in result.json, or `refused` if the run did not start.

    code: of the process. reason: one line. trace: the traceback of an unexpected error. recorded: whether result.json
    already has this ending.
    """

    status: Status
    code: ExitCode
    reason: str = ""
    trace: str = ""
    recorded: bool = False


def ending_of(error: BaseException) -> Ending:
    """Returns the ending for the exception that stopped a run."""
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
    """Leaves signals to `processes.signals` inside the block, and re-raises the exception of a signal unchanged.

    By default, Lightning raises an exception of its own for SIGTERM. After a KeyboardInterrupt it ignores SIGINT, tears
    down, and exits with 1.
    """
    from pytorch_lightning.callbacks import LambdaCallback

    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    # this callback runs first once Lightning ignores SIGINT
    trainer.callbacks.insert(0, LambdaCallback(on_exception=lambda *_: signals.install_handlers()))  # type: ignore[attr-defined]
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def _nothing() -> None:
    pass
