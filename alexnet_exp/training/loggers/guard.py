"""Provides a logger that isolates the run from a tracker that fails or does not answer."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger

from alexnet_exp.errors import UserError
from alexnet_exp.runs.reader import read_metrics
from alexnet_exp.runs.status import Ending
from alexnet_exp.training.loggers.base import ClosableLogger

# Seconds between two attempts to connect again, doubled after each; and their maximum.
RETRY_SECONDS, MOST_RETRY_SECONDS = 10.0, 300.0
# Seconds that a run waits for a server: at its start; at its end, for each sign of progress; at its end, where the
# connection was lost.
START_SECONDS, END_SECONDS, LOST_END_SECONDS = 5.0, 10.0, 3.0
MOST_WAITING_ROWS = 10_000  # metrics.csv has the older ones
ROW_ATTEMPTS = 3  # for a row that fails while the connection works

log = logging.getLogger(__name__)


class TrackerLogger(Protocol):
    """What `GuardedLogger` needs of a tracker's logger: see `Tracker`, and Lightning's `Logger`."""

    logged: int | None

    @property
    def experiment(self) -> Any: ...
    def log_hyperparams(self, params: dict[str, Any]) -> None: ...
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...
    def save(self) -> None: ...
    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None: ...
    def abandon(self) -> None: ...


class GuardedLogger(Logger, ClosableLogger):
    """Forwards all rows to the tracker that `start` opens, in order, in a thread of its own: no step waits for it.

    After a failure, one warning says which connection was lost and from which step on. The tracker is opened again
    after a pause, as in a resumed run: it gets the rows of the folder's metrics.csv that it does not have. So no row
    is missing or duplicated once it works again.

    name: for the log. parameters: the run's settings. server: whether it is reached over a network; only then does the
    run stop waiting for it after some seconds, at its start and at its end. `begin` raises a `UserError` of `start`,
    which is about the run's own settings.
    """

    def __init__(
        self, name: str, start: Callable[[], TrackerLogger], run: Path, parameters: Mapping[str, Any], server: bool
    ) -> None:
        super().__init__()
        self._name, self._start, self._run, self._server = name, start, run, server
        self._parameters = dict(parameters)
        self._rows: deque[tuple[dict[str, float], int | None]] = deque(maxlen=MOST_WAITING_ROWS)
        self._changed = threading.Condition()
        self._tracker: TrackerLogger | None = None
        self._until = -1  # the tracker has the rows up to this step, also when a resumed run repeats them
        self._attempts = 0
        self._progress = 0
        self._lost = False  # and a warning has been logged
        self._reason = ""
        self._failed: UserError | None = None
        self._ending: tuple[Ending, Mapping[str, float], int] | None = None
        self._ended = False
        self._closed = False
        # a daemon: a server that hangs must not keep the process alive
        self._thread = threading.Thread(target=self._work, name=f"logger-{name}", daemon=True)

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._run.name

    @property
    def save_dir(self) -> str:
        return str(self._run)

    @property
    def experiment(self) -> Any:
        """The tracker's own object; while the connection is lost, one that ignores every call."""
        tracker = self._tracker
        return DummyLogger().experiment if tracker is None else tracker.experiment

    def begin(self) -> None:
        """Opens the tracker; returns when it is open, or when the run stops waiting for it."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(
                lambda: self._tracker or self._lost or self._ended, START_SECONDS if self._server else None
            )
            if self._failed is not None:
                raise self._failed
            if self._tracker is None and not self._lost:
                self._log_lost(f"no answer within {START_SECONDS:g} s")

    def log_hyperparams(self, params: dict[str, Any], *arguments: Any, **options: Any) -> None:  # type: ignore[override]
        """Does nothing: the tracker has the run's parameters already, and Lightning knows only a part of them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a row for the tracker; returns at once."""
        with self._changed:
            self._rows.append((dict(metrics), step))
            self._changed.notify_all()

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Sends the waiting rows, then how the run ended; tries once more where the connection is lost."""
        with self._changed:
            self._ending = (ending, dict(metrics), step)
            self._changed.notify_all()
            seen = -1
            while not self._ended and seen != self._progress:  # wait as long as there is progress
                seen = self._progress
                seconds = (LOST_END_SECONDS if self._lost else END_SECONDS) if self._server else None
                self._changed.wait_for(lambda seen=seen: self._ended or self._progress != seen, seconds)  # type: ignore[misc]
            if not self._closed:
                count = len(self._rows)
                rows = f" and {count} row{'s' if count > 1 else ''} were" if count else " was"
                reason = self._reason or "no answer"
                log.warning(
                    f"logger={self._name}: final status{rows} not sent: {reason}; "
                    "metrics.csv and result.json are complete"
                )
            elif self._lost:
                self._log_reconnected()

    def _work(self) -> None:
        pause = RETRY_SECONDS
        while not self._ended:
            last = self._ending is not None
            try:
                self._open()
                pause = RETRY_SECONDS
                self._send()
            except UserError as error:
                self._end(error)
            except Exception as error:
                self._lose(error)
                if last:
                    self._end()
                with self._changed:
                    self._changed.wait_for(lambda: self._ending is not None, pause)
                pause = min(2 * pause, MOST_RETRY_SECONDS)

    def _open(self) -> None:
        """Opens the tracker, and sends the rows of metrics.csv that it does not have."""
        if not self._run.is_dir():  # a tracker would create it again
            raise FileNotFoundError(f"{self._run} no longer exists")
        tracker = self._start()
        try:
            tracker.log_hyperparams(self._parameters)
            rows = self._recorded_rows()
            for row, step in rows:
                if tracker.logged is None or step > tracker.logged:
                    tracker.log_metrics(row, step)
            tracker.save()
        except BaseException:
            tracker.abandon()
            raise
        with self._changed:
            self._until = max([-1 if tracker.logged is None else tracker.logged, *(step for _, step in rows)])
            self._tracker = tracker
            self._progress += 1
            self._changed.notify_all()
            if self._lost and self._ending is None:
                self._log_reconnected()

    def _recorded_rows(self) -> list[tuple[dict[str, float], int]]:
        try:
            rows = read_metrics(self._run)
        except (UserError, OSError):
            return []
        return [
            ({key: value for key, value in row.items() if isinstance(value, float)}, int(step))
            for row in rows
            if (step := row.get("step")) is not None
        ]

    def _send(self) -> None:
        """Sends rows until the run has ended; then closes the tracker."""
        assert self._tracker is not None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._ending)
                row = self._rows[0] if self._rows else None
            if row is None:
                assert self._ending is not None
                self._tracker.close(*self._ending)
                self._closed = True
                return self._end()
            metrics, step = row
            if step is None or step > self._until:
                self._tracker.log_metrics(metrics, step)
                self._tracker.save()
            with self._changed:
                if self._rows and self._rows[0] is row:  # a full queue drops the oldest row
                    self._rows.popleft()
                self._attempts = 0
                self._progress += 1
                self._changed.notify_all()

    def _lose(self, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        with self._changed:
            if self._tracker is not None and self._rows:
                self._attempts += 1
                if self._attempts == ROW_ATTEMPTS:
                    self._attempts = 0
                    _, step = self._rows.popleft()
                    log.warning(f"logger={self._name}: the row of step {step} was not accepted: {reason}")
            if self._tracker is not None:
                self._tracker.abandon()
            self._tracker, self._reason = None, reason
            if not self._lost and self._ending is None:
                self._log_lost(reason)
            self._changed.notify_all()

    def _log_reconnected(self) -> None:
        self._lost, self._reason = False, ""
        log.warning(f"logger={self._name}: reconnected; backlog delivered")

    def _log_lost(self, reason: str) -> None:
        self._lost = True
        step = next((step for _, step in self._rows if step is not None), None)
        since = "" if step is None else f" at step {step}"
        log.warning(
            f"logger={self._name}: connection lost{since}: {reason}; training continues, metrics.csv is complete, "
            "and the backlog is sent after reconnecting"
        )

    def _end(self, error: UserError | None = None) -> None:
        with self._changed:
            self._failed, self._ended = error, True
            if error is not None and self._lost:
                log.warning(f"logger={self._name}: {error}")
            self._changed.notify_all()
