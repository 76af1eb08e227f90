"""What our loggers have beyond Lightning's: an end that tells how the run ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from alexnet_exp.endings import Ending


class Closing(ABC):
    """A logger that is closed by us, once, when all of the run has ended; Lightning closes as training does."""

    @abstractmethod
    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Takes the final metrics, of the step `step`, and the ending."""
