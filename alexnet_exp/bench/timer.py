"""Moments of a device's own time, and how long Lightning's parts of a step take in it.

On a GPU a moment is an event in its stream: nothing waits for it, so that measuring does not slow down what is
measured; the time between two of them is read once all is done. On the CPU it is the processor's clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pytorch_lightning.profilers import Profiler

WAIT, AUGMENT, FORWARD, BACKWARD, OPTIMIZER = "data wait", "augmentation", "forward", "backward", "optimizer"
ZERO = "zero_grad"
# Lightning's names of what it does in a step: who does it (before the bracket), and what.
ACTIONS = {
    ("", "train_dataloader_next"): WAIT,
    ("Strategy", "batch_to_device"): AUGMENT,
    ("Strategy", "training_step"): FORWARD,
    ("Strategy", "backward"): BACKWARD,
    ("LightningModule", "optimizer_step"): OPTIMIZER,
    ("LightningModule", "optimizer_zero_grad"): ZERO,
}


class Clock:
    """Gives moments, and the seconds between two of them, which are known after `settle`."""

    def __init__(self, device: torch.device):
        self.device = device

    def mark(self) -> Any:
        """This moment, in the device's own time."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            return event
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """From one moment to a later one."""
        return float(start.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - start)

    def settle(self) -> None:
        """Waits until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Span:
    """From `start` to `end` the step was at `part`; `inside`: within the optimizer's own span."""

    part: str
    start: Any
    end: Any
    inside: bool


class Stopwatch(Profiler):
    """Notes when the parts of a step begin and end; all else that Lightning tells a profiler costs it one look-up."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock
        self._parts: dict[str, str | Literal[False]] = {}  # by Lightning's whole names
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
        """What was noted since the last call."""
        taken, self._spans = self._spans, []
        return taken


def _part(action: str) -> str | Literal[False]:
    who = action.partition("]")[0].removeprefix("[") if action.startswith("[") else ""
    what = action.rpartition(".")[2]
    return ACTIONS.get((who, what)) or ACTIONS.get(("", what)) or False
