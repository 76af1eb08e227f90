"""Provides the interface of loggers that resume a run and report how it ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from alexnet_exp.runs.status import Ending

EPOCH_KEY = "seconds"  # a column of every epoch's row, by which a tracker knows which rows it has received


class ClosableLogger(ABC):
    """A logger that the run closes once, after the test; Lightning already finalizes loggers after training."""

    @abstractmethod
    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Logs the final metrics at `step` and how the run ended, and closes the logger."""


class Tracker(ClosableLogger):
    """A logger of a run that may be resumed. logged: the step of the last row that it had when it was opened."""

    logged: int | None = None

    def abandon(self) -> None:
        """Releases files and threads after a failure; another tracker is opened in its place."""
