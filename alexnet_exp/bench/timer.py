"""Times the parts of Lightning's training step in the time of the device.

On a GPU a mark is an event in its stream. Nothing waits for it, so the measurement does not slow down the step; the
time between two marks is read at the end. On the CPU a mark is a time of the system clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pytorch_lightning.profilers import Profiler

WAIT, AUGMENT, FORWARD, BACKWARD, OPTIMIZER = "data wait", "augmentation", "forward", "backward", "optimizer"
ZERO = "zero_grad"
# Lightning's names of the actions of a step: who does it (in brackets) and what.
ACTIONS = {
    ("", "train_dataloader_next"): WAIT,
    ("Strategy", "batch_to_device"): AUGMENT,
    ("Strategy", "training_step"): FORWARD,
    ("Strategy", "backward"): BACKWARD,
    ("LightningModule", "optimizer_step"): OPTIMIZER,
    ("LightningModule", "optimizer_zero_grad"): ZERO,
}


class Clock:
    """Records marks, and returns the seconds between two of them after `settle`."""

    def __init__(self, device: torch.device):
        self.device = device

    def mark(self) -> Any:
        """Returns a mark of the current time of the device."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            return event
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Returns the seconds from one mark to a later one."""
        return float(start.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - start)

    def settle(self) -> None:
        """Waits until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Span:
    """The time from `start` to `end` of a `part`. inside: whether it is within the span of the optimizer."""

    part: str
    start: Any
    end: Any
    inside: bool


class Stopwatch(Profiler):
    """A profiler of Lightning that records the spans of a step's parts; other actions cost one dictionary lookup."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock
        self._parts: dict[str, str | Literal[False]] = {}  # by Lightning's full action names
        self._open: dict[str, Any] = {}
        self._spans: list[Span] = []

    def start(self, action_name: str) -> None:
        part = self._parts.get(action_name)
        if part is None:
            part = self._parts[action_name] = _part(action_name)
        if part:
            self._open[part] = self.clock.mark()

    def stop(self, action_name: str) -> None:
        part = self._parts.get(action_name)
        if part and part in self._open:
            start = self._open.pop(part)
            self._spans.append(Span(part, start, self.clock.mark(), OPTIMIZER in self._open))

    def take(self) -> list[Span]:
        """Returns the spans recorded since the last call."""
        taken, self._spans = self._spans, []
        return taken


def _part(action: str) -> str | Literal[False]:
    who = action.partition("]")[0].removeprefix("[") if action.startswith("[") else ""
    what = action.rpartition(".")[2]
    return ACTIONS.get((who, what)) or ACTIONS.get(("", what)) or False
