"""What our loggers have beyond Lightning's: where they stand, and an end that tells how the run ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from alexnet_exp.runs.status import Ending

ROW = "seconds"  # the column that the row of every epoch has: by it a tracker knows which rows have arrived


class Closing(ABC):
    """A logger that is closed by us, once, when all of the run has ended; Lightning closes as training does."""

    @abstractmethod
    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Takes the final metrics, of the step `step`, and the ending."""


class Tracker(Closing):
    """A logger of a run that may have been cut off. logged: the step of the last row that it had when it was opened."""

    logged: int | None = None

    def abandon(self) -> None:
        """Lets go of what it holds, files and threads, after a failure; another is opened in its place."""
