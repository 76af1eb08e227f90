"""A step of the framework against a bare loop with the same operations: ms more, and how many times as long.

    python -m benchmarks overhead

The framework's side is a whole run's: Lightning, metrics, steps.csv in a run folder, the watch, the look whether a
checkpoint is due, the progress bar. The bare side takes the same images from the same array, cuts and mirrors them, and
makes the same step (forward, loss, backward, optimizer) in the same precision and memory layout, with nothing else. The
two change places after every step, in one process: whatever else the machine does meets both alike.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from alexnet_exp.config.compose import compose
from alexnet_exp.config.schema import Config, Interval
from alexnet_exp.config.validate import validate
from alexnet_exp.data.loader import Batch
from alexnet_exp.optim.optimizers import build_optimizer
from alexnet_exp.processes.memory import keep_freed_memory
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.training.build import Experiment, build, lay_out, prepare
from alexnet_exp.training.callbacks.diagnostics import Diagnostics
from alexnet_exp.training.callbacks.progress import Progress
from alexnet_exp.training.callbacks.recorder import Recorder
from alexnet_exp.training.checkpoints.callback import Checkpoints
from alexnet_exp.training.devices import Placement, place, skip_nvml_check
from alexnet_exp.training.module import AlexNetModule
from alexnet_exp.training.trainer import build_trainer
from benchmarks.rows import Goal, Row

MOST_MORE = 1.0  # ms a step
MOST_TIMES = 1.03
TURNS = 9
STEPS = 40  # steps of each side in a turn, whose median is the turn's figure
WARMUP = 10
IMAGES = ("data=random", "data.size=32", "data.n=1280", "data.val=none", "test.run=false", "schedule=constant")
CASES: Mapping[str, tuple[str, ...]] = {
    "digits, width 0.25, batch 32": ("data=digits", "data.val=none", "data.batch_size=32", "schedule=constant"),
    "tutorial's network, batch 128": ("model=tutorial", *IMAGES, "data.classes=10", "data.batch_size=128"),
}


def rows(turns: int = TURNS, **_: Any) -> list[Row]:
    """Two rows a network: the difference in ms a step, and the ratio."""
    keep_freed_memory()
    found = []
    for name, overrides in CASES.items():
        measured = measure(overrides, turns)
        times = [(1e3 * median(ours), 1e3 * median(bare)) for ours, bare in measured]
        note = f"up to {STEPS} steps a turn, each side's after the other's"
        against = "bare loop"
        more = {"target": MOST_MORE, "goal": Goal.at_most_more}
        ratio = {"target": MOST_TIMES, "goal": Goal.at_most_ratio}
        found.append(Row(f"{name}: ms more", f"{name}: difference", against, "ms", times, note=note, **more))  # type: ignore[arg-type]
        found.append(Row(f"{name}: times", f"{name}: ratio", against, "ms", times, note=note, **ratio))  # type: ignore[arg-type]
    return found


def measure(overrides: tuple[str, ...], turns: int) -> list[tuple[list[float], list[float]]]:
    """Of each turn the seconds of our steps, and of the bare loop's."""
    config = validate(compose([*overrides, "trainer=cpu", "trainer.max_epochs=null", "trainer.max_steps=1"]))
    config.trainer.max_steps = WARMUP + turns * STEPS
    bare = Bare(config)
    clock = Clock(bare.step)
    with tempfile.TemporaryDirectory() as folder:
        fit(config, Path(folder), clock)
    ours, theirs = clock.ours[WARMUP:], clock.theirs[WARMUP:]
    each = len(ours) // turns  # fewer than STEPS: the first step of an epoch is not measured
    return [(ours[at : at + each], theirs[at : at + each]) for at in range(0, turns * each, each)]


class Clock(pl.Callback):
    """Seconds from the end of a step to the end of the next one, and between them those of a step of `other`."""

    def __init__(self, other: Callable[[], None]):
        self.other = other
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self._mark: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = None  # an epoch's end is no part of a step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if self._mark is not None:
            self.ours.append(now - self._mark)
            self.other()
            self.theirs.append(time.perf_counter() - now)
        self._mark = time.perf_counter()


class Silent(Progress):
    """The bar as a terminal gets it, drawn into nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._console_kwargs = {"file": io.StringIO(), "force_terminal": True}


def fit(config: Config, folder: Path, clock: pl.Callback) -> None:
    """A training as `train` makes it, with `clock` behind all other callbacks."""
    experiment, placement = opened(config)
    run = RunFolder(folder)
    run.begin({}, {})
    diagnostics = Diagnostics(len(experiment.card["classes"]), None)
    every = Interval.read(config.checkpoint.every)
    assert every is not None
    recorder = Recorder(run)
    checkpoints = Checkpoints(run, experiment.card, recorder, every, config.checkpoint.keep)
    callbacks = [diagnostics, recorder, checkpoints, Silent(), clock]
    trainer = build_trainer(config.trainer, placement, callbacks, [])
    with skip_nvml_check(placement.accelerator):
        trainer.fit(experiment.module, datamodule=experiment.data)


def opened(config: Config) -> tuple[Experiment, Placement]:
    """The experiment with its data, on the CPU, in the layout that its placement says."""
    experiment = build(config)
    placement = place(config.trainer, experiment.multiply_adds)
    lay_out(experiment, placement.channels_last)
    prepare(experiment)
    return experiment, placement


class Bare:
    """The experiment of a configuration, trained with nothing but PyTorch and the data's own arrays."""

    def __init__(self, config: Config):
        experiment, placement = opened(config)
        module, self.data = experiment.module, experiment.data
        assert isinstance(module, AlexNetModule)
        self.module = module.train()
        self.optimizer = build_optimizer(config.optim, module.network)
        self.bf16 = placement.precision == "bf16-mixed"
        self._batches = self._endless()

    def step(self) -> None:
        images, labels = next(self._batches)
        with self._autocast():
            loss = F.cross_entropy(self.module(images).float(), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()

    def _endless(self) -> Iterator[Batch]:
        data: Any = self.data
        while True:
            for number, (images, labels) in enumerate(data.loader("train", shuffle=True)):
                yield data._fitted(data.augment(images, 0, number)), labels
