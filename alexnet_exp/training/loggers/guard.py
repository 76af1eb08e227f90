"""A logger that can fail, or not answer, at no cost to the run: the run goes on, and says so."""

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
from alexnet_exp.training.loggers.base import Closing

# Seconds between two attempts to reach a tracker again, doubled after each; and the longest.
PAUSE, LONGEST_PAUSE = 10.0, 300.0
# Seconds that a run waits, in all, for a server: at its start; at its end while that answers nothing; at its end where
# it had failed before.
START, END, END_LOST = 5.0, 10.0, 3.0
# Rows that are kept for a tracker which does not take them; metrics.csv has the older ones.
KEPT = 10_000
TRIES = 3  # for a row that is refused while all else is taken

log = logging.getLogger(__name__)


class Opened(Protocol):
    """What `Guarded` needs of a tracker's logger: see `Tracker`, and Lightning's `Logger`."""

    logged: int | None

    @property
    def experiment(self) -> Any: ...
    def log_hyperparams(self, params: dict[str, Any]) -> None: ...
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...
    def save(self) -> None: ...
    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None: ...
    def abandon(self) -> None: ...


class Guarded(Logger, Closing):
    """Hands all it is told to the tracker that `start` opens, in order, in a thread of its own: no step waits for it.

    When that fails, one line says which tracker was lost and from which step on. It is opened anew after a pause, which
    is the same as going on with it in a resumed run: it gets those rows of the folder's metrics.csv that it does not
    have, and not again those that it has. So nothing is missing or there twice once it works again.

    name: what the log calls it. parameters: the run's settings. server: whether it is reached over a network; only then
    is there a time after which the run waits no more for it, at its start and at its end. A `UserError` of `start` is
    raised by `begin`: it is the run's own settings that cannot be.
    """

    def __init__(
        self, name: str, start: Callable[[], Opened], run: Path, parameters: Mapping[str, Any], server: bool
    ) -> None:
        super().__init__()
        self._name, self._start, self._run, self._server = name, start, run, server
        self._parameters = dict(parameters)
        self._rows: deque[tuple[dict[str, float], int | None]] = deque(maxlen=KEPT)
        self._changed = threading.Condition()
        self._tracker: Opened | None = None
        self._until = -1  # rows up to this step have arrived: it has them already when the run repeats them
        self._tries = 0
        self._progress = 0
        self._told = False  # the log has said that it is lost
        self._reason = ""
        self._failed: UserError | None = None
        self._ending: tuple[Ending, Mapping[str, float], int] | None = None
        self._over = False
        self._closed = False
        # a daemon: a server that hangs must not keep the process
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
        """The tracker's own object; one that takes every call and does nothing while there is none."""
        tracker = self._tracker
        return DummyLogger().experiment if tracker is None else tracker.experiment

    def begin(self) -> None:
        """Opens the tracker; returns when it is there, or when the run need not wait for it any longer."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._tracker or self._told or self._over, START if self._server else None)
            if self._failed is not None:
                raise self._failed
            if self._tracker is None and not self._told:
                self._say_lost(f"it has not answered within {START:g} s")

    def log_hyperparams(self, params: dict[str, Any], *arguments: Any, **options: Any) -> None:  # type: ignore[override]
        """Nothing: the tracker has the run's parameters, of which Lightning knows only a part."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Takes a row for the tracker; returns at once."""
        with self._changed:
            self._rows.append((dict(metrics), step))
            self._changed.notify_all()

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Tells how the run ended, after all that is still to be told; a tracker that is lost gets one more chance."""
        with self._changed:
            self._ending = (ending, dict(metrics), step)
            self._changed.notify_all()
            seen = -1
            while not self._over and seen != self._progress:  # as long as it gets anywhere, it is waited for
                seen = self._progress
                patience = (END_LOST if self._told else END) if self._server else None
                self._changed.wait_for(lambda seen=seen: self._over or self._progress != seen, patience)  # type: ignore[misc]
            if not self._closed:
                rows = f", nor {len(self._rows)} of its rows" if self._rows else ""
                told = f"was not told how the run ended{rows}: {self._reason or 'it does not answer'}"
                log.warning(f"logger={self._name}: {told}; metrics.csv and result.json have it all")
            elif self._told:
                self._say_well()

    def _work(self) -> None:
        pause = PAUSE
        while not self._over:
            last = self._ending is not None
            try:
                self._open()
                pause = PAUSE
                self._hand_over()
            except UserError as error:
                self._end(error)
            except Exception as error:
                self._lose(error)
                if last:
                    self._end()
                with self._changed:
                    self._changed.wait_for(lambda: self._ending is not None, pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _open(self) -> None:
        """Opens the tracker, and sends the rows that metrics.csv has and it has not."""
        if not self._run.is_dir():  # trackers would make it anew
            raise FileNotFoundError(f"{self._run} is gone")
        tracker = self._start()
        try:
            tracker.log_hyperparams(self._parameters)
            rows = self._recorded()
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
            if self._told and self._ending is None:
                self._say_well()

    def _recorded(self) -> list[tuple[dict[str, float], int]]:
        try:
            rows = read_metrics(self._run)
        except (UserError, OSError):
            return []
        return [
            ({key: value for key, value in row.items() if isinstance(value, float)}, int(step))
            for row in rows
            if (step := row.get("step")) is not None
        ]

    def _hand_over(self) -> None:
        """Sends what there is to send, until the run has ended; then closes the tracker."""
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
                if self._rows and self._rows[0] is row:  # it may have been pushed out by the newest
                    self._rows.popleft()
                self._tries = 0
                self._progress += 1
                self._changed.notify_all()

    def _lose(self, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        with self._changed:
            if self._tracker is not None and self._rows:
                self._tries += 1
                if self._tries == TRIES:
                    self._tries = 0
                    _, step = self._rows.popleft()
                    log.warning(f"logger={self._name}: did not take the row of step {step}: {reason}")
            if self._tracker is not None:
                self._tracker.abandon()
            self._tracker, self._reason = None, reason
            if not self._told and self._ending is None:
                self._say_lost(reason)
            self._changed.notify_all()

    def _say_well(self) -> None:
        self._told, self._reason = False, ""
        log.warning(f"logger={self._name}: works again, nothing is missing there")

    def _say_lost(self, reason: str) -> None:
        self._told = True
        step = next((step for _, step in self._rows if step is not None), None)
        since = "" if step is None else f" from step {step} on"
        log.warning(
            f"logger={self._name}: lost{since}: {reason}; the run goes on, metrics.csv has all of it, and what is "
            "missing there is sent when it works again"
        )

    def _end(self, error: UserError | None = None) -> None:
        with self._changed:
            self._failed, self._over = error, True
            if error is not None and self._told:
                log.warning(f"logger={self._name}: {error}")
            self._changed.notify_all()
