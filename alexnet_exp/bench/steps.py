"""Times training steps of the real Trainer: warm-up steps, counted steps, and steps with measured layers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from alexnet_exp.bench.layers import LayerSeconds, LayerTimes
from alexnet_exp.bench.timer import BACKWARD, OPTIMIZER, ZERO, Span, Stopwatch

FIRST = 2  # steps before the duration of a step is known; the first one loads kernels and compiles
# Seconds, least and most steps of the further warm-up, of the counted steps, and of those with measured layers.
WARM, COUNTED, LAYERED = (1.0, 1, 8), (8.0, 3, 1000), (4.0, 2, 40)
FRAMEWORK = "framework"


@dataclass(frozen=True)
class BenchPlan:
    """The numbers of steps after the first two."""

    warm: int
    counted: int
    layered: int

    @classmethod
    def of(cls, step: float, steps: int | None, layers: bool, part: float) -> BenchPlan:
        """Returns the plan for steps of `step` seconds. steps: requested number. part: share of the time to use."""

        def fitting(seconds: float, least: int, most: int) -> int:
            return max(least, min(most, int(seconds * part / max(step, 1e-6))))

        return cls(fitting(*WARM), steps or fitting(*COUNTED), fitting(*LAYERED) + 1 if layers else 0)


@dataclass(frozen=True)
class Step:
    """One optimizer step: its seconds, those of its parts, and the images of this rank. first: of an epoch."""

    seconds: float
    parts: dict[str, float]
    images: int
    first: bool
    layers: LayerSeconds | None = None


@dataclass
class _RecordedStep:
    """A step whose times have not been read yet."""

    start: Any
    end: Any
    spans: list[Span]
    images: int
    first: bool


@dataclass
class Timed:
    """The measured steps. first_seconds: of the first step, which compiles. memory: peak, in bytes."""

    first_seconds: float = 0.0
    warm_seconds: float = 0.0
    warm_steps: int = 0
    counted: list[Step] = field(default_factory=list)
    layered: list[Step] = field(default_factory=list)
    memory: int = 0


class BenchSteps(pl.Callback):
    """Runs the plan in a Trainer whose profiler is `stopwatch`, and stops the fit at its end. The result is `timed`.

    layers: creates the measurement of layers; None: layers are not measured. memory: returns the peak memory in bytes.
    part: share of the time to use.
    """

    def __init__(
        self,
        stopwatch: Stopwatch,
        steps: int | None,
        layers: Callable[[], LayerTimes] | None,
        memory: Callable[[], int],
        part: float = 1.0,
    ):
        self.stopwatch, self.clock = stopwatch, stopwatch.clock
        self.timed = Timed()
        self._wanted, self._layers, self._memory, self._part = steps, layers, memory, part
        self._plan: BenchPlan | None = None
        self._watch: LayerTimes | None = None
        self._noted: list[_RecordedStep] = []
        self._last: Any = None
        self._images = self._done = 0
        self._first = True
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.perf_counter()
        self._last = self.clock.mark()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += _size(batch)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        end = self.clock.mark()
        noted = _RecordedStep(self._last, end, self.stopwatch.take(), self._images, self._first)
        self._last, self._images, self._first, self._done = end, 0, False, self._done + 1
        self._take(noted, trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._watch is not None:
            self._watch.remove()

    def _take(self, noted: _RecordedStep, trainer: pl.Trainer) -> None:
        if self._plan is None:
            self._warm_up(noted, trainer)
            return
        if self._watch is not None:
            self._take_layers(noted)
        elif self._done > FIRST + self._plan.warm:
            self._noted.append(noted)
        counted = FIRST + self._plan.warm + self._plan.counted
        if self._done == FIRST + self._plan.warm:
            self._begin_counting()
        elif self._done == counted:
            self.clock.settle()
            self.timed.counted = [self._read(each) for each in self._noted]
            self.timed.memory = self._memory()
            if self._plan.layered and self._layers is not None:
                self._watch = self._layers()
        if self._done == counted + self._plan.layered:
            trainer.should_stop = True
        if self._done in (FIRST + self._plan.warm, counted):
            self._last = self.clock.mark()  # the work of this callback belongs to no step

    def _warm_up(self, noted: _RecordedStep, trainer: pl.Trainer) -> None:
        self.clock.settle()
        if self._done == 1:
            self.timed.first_seconds = self.clock.seconds(noted.start, noted.end)
        if self._done == FIRST:
            second = self.clock.seconds(noted.start, noted.end)
            # all ranks use the plan of rank 0, so that they stop together
            self._plan = trainer.strategy.broadcast(
                BenchPlan.of(second, self._wanted, self._layers is not None, self._part)
            )

    def _begin_counting(self) -> None:
        self.clock.settle()
        self.timed.warm_steps, self.timed.warm_seconds = self._done, time.perf_counter() - self._began
        if self.clock.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.clock.device)

    def _take_layers(self, noted: _RecordedStep) -> None:
        assert self._watch is not None
        assert self._plan is not None
        self.clock.settle()
        ended = [span.end for span in noted.spans if span.part == BACKWARD]
        alone = len(ended) == 1  # the nodes of several accumulated batches cannot be distinguished
        step = self._read(noted, self._watch.take(ended[-1]) if alone else None)
        if not alone:
            self._watch.forget()
        if (
            self._done > FIRST + self._plan.warm + self._plan.counted + 1
        ):  # the first one includes the registration of hooks
            self.timed.layered.append(step)

    def _read(self, noted: _RecordedStep, layers: LayerSeconds | None = None) -> Step:
        seconds = self.clock.seconds(noted.start, noted.end)
        return Step(seconds, self._parts(noted, seconds), noted.images, noted.first, layers)

    def _parts(self, noted: _RecordedStep, whole: float) -> dict[str, float]:
        """Returns the seconds of each part, which sum to the whole.

        The span of the optimizer includes the other parts.
        """
        parts: dict[str, float] = {}
        inside = 0.0
        for span in noted.spans:
            took = self.clock.seconds(span.start, span.end)
            parts[span.part] = parts.get(span.part, 0.0) + took
            inside += took if span.inside else 0.0
        parts[OPTIMIZER] = parts.get(OPTIMIZER, 0.0) - inside + parts.pop(ZERO, 0.0)
        return parts | {FRAMEWORK: whole - sum(parts.values())}


def usual(steps: list[Step]) -> list[Step]:
    """Returns the steps with the most common number of images, except the first of an epoch; all if none is left."""
    often = Counter(step.images for step in steps).most_common(1)
    kept = [step for step in steps if step.images == often[0][0] and not step.first] if often else []
    return kept or steps


def _size(batch: Any) -> int:
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    return len(first) if isinstance(first, Tensor) else 0
