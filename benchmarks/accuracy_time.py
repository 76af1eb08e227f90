"""Seconds to the tutorial's accuracy: experiment=fast_cifar10 as a user runs it, against the Keras script's 5 epochs.

Another recipe, so a figure of its own: nothing here says how fast the same training is. Ours is measured anew in every
turn, each with a seed of its own. The script takes 12 minutes, so its curve is read from keras_tutorial.jsonl of this
processor's results, which --keras PYTHON --images NPZ measures anew.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.ticker import FuncFormatter, PercentFormatter

from alexnet_exp.config.compose import compose_run
from alexnet_exp.plots.style import ACCENT, NOTE, QUIET, figure, quiet, save
from alexnet_exp.processes.memory import keep_freed_memory
from alexnet_exp.runs.reader import read_config, read_result, read_steps
from alexnet_exp.training.build import build, lay_out, prepare
from alexnet_exp.training.devices import cpu_computes_in_bf16, place
from alexnet_exp.training.trainer import build_trainer
from benchmarks import cifar as images_of
from benchmarks.processor import results_folder
from benchmarks.rows import Measured, Missing, Row
from benchmarks.table import Result

KERAS_CURVE = "keras_tutorial.jsonl"  # beside this processor's results
EXPERIMENT = "experiment=fast_cifar10"
EVERY = 15  # steps, of 150, between two points of the curve
PRINTED = 0.6053  # the last test accuracy that the tutorial prints
SOONER, SOONER_IN_FLOAT32 = 60, 20
OTHER_SIDE = "#c4661f"


def rows(turns: int = 3, cifar: Path | None = None, keras: Path | None = None, images: Path | None = None) -> Measured:
    """The whole command's seconds and those of the run inside it against the script's 5 epochs; and how accurate."""
    curve = keras_curve(keras, images, cifar)
    images_of.opened(cifar)  # decoded and cached before the clock runs, as the script's images are
    runs = [run(turn + 1, cifar) for turn in range(turns)]
    sooner = SOONER if cpu_computes_in_bf16() else SOONER_IN_FLOAT32
    peer = float(curve[-1]["seconds"])
    reached = statistics.fmean(each["accuracy"] for each in runs)
    script, ended = "Keras script, 5 epochs", f"the script ended at {curve[-1]['accuracy']:.1%}"
    told = f"mean test accuracy {reached:.2%} of {turns} seed{'s' * (turns > 1)}, fixed length" + (
        "" if reached >= PRINTED else f": NOT the {PRINTED:.2%} that was to be reached"
    )
    whole = Row(
        "whole_command",
        "fast_cifar10, whole command",
        script,
        "s",
        [(each["wall"], peer) for each in runs],
        target=sooner,
        note=f"{told}; {ended}",
    )
    alone = Row(
        "run",
        "fast_cifar10, the run inside it",
        script,
        "s",
        [(each["run"], peer) for each in runs],
        target=sooner,
        note=ended,
    )
    accuracy = Row(
        "accuracy",
        "fast_cifar10, test accuracy",
        f"the tutorial's {PRINTED:.2%}",
        "% right",
        [(100 * each["accuracy"], 100 * PRINTED) for each in runs],
        higher_is_better=True,
        target=1,
    )
    return Measured([whole, alone, accuracy], {"runs": runs, "keras": curve, "curve": our_curve(cifar)})


def keras_curve(python: Path | None, images: Path | None, cifar: Path | None) -> list[dict[str, Any]]:
    """Of each epoch: epoch, seconds since the training began, test accuracy. Measured where a Python is given."""
    file = results_folder() / KERAS_CURVE
    if python is not None:
        if images is None:
            raise Missing("--images NPZ, the file for the Keras script; it is written if it is not there")
        script = Path(__file__).with_name("keras_tutorial.py")
        command = [str(python), str(script), str(images_of.npz(images, cifar))]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Missing(f"{python} could not run the Keras script; it needs: pip install tensorflow-cpu")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(done.stdout, encoding="utf-8")
    if not file.exists():
        raise Missing(f"{file}, the Keras script's curve; --keras PYTHON --images NPZ measures it")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def run(seed: int, cifar: Path | None, experiment: str = EXPERIMENT) -> dict[str, Any]:
    """One run as a user starts it.

    wall: seconds of the process; run: those from its result.json's start to its end; training: of the fit alone.
    accuracy: of the test. petaflop: of the training.
    """
    words = [experiment, *images_of.overrides(cifar), f"seed={seed}", "hydra.run.dir=run"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "alexnet_exp", *words], cwd=folder, check=False, stdout=subprocess.DEVNULL
        )
        wall = time.perf_counter() - start
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with exit code {done.returncode}")
        result = read_result(Path(folder) / "run")
        steps = read_steps(Path(folder) / "run")[-1][0]
        batch = read_config(Path(folder) / "run")["data"]["batch_size"]
    return {
        "seed": seed,
        "wall": wall,
        "run": _seconds(result["start"], result["end"]),
        "training": result["seconds"],
        "accuracy": result["metrics"]["test/top1"],
        "petaflop": 6 * result["multiply_adds"] * steps * batch / 1e15,
    }


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def our_curve(cifar: Path | None) -> list[tuple[float, float]]:
    """Seconds of training alone, and test accuracy, along one run of the experiment, which nobody looks at else."""
    keep_freed_memory()
    config = compose_run([EXPERIMENT, *images_of.overrides(cifar)]).config
    experiment = build(config)
    placement = place(config.trainer, experiment.multiply_adds)
    lay_out(experiment, placement.channels_last)
    prepare(experiment)
    curve = Curve(experiment.data)
    build_trainer(config.trainer, placement, [curve], []).fit(experiment.module, datamodule=experiment.data)
    return curve.points


class Curve(pl.Callback):
    """Tests the network now and then, while the clock stands still."""

    def __init__(self, data: Any):
        self.data = data
        self.points: list[tuple[float, float]] = []
        self._seconds = self._since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % EVERY:
            return
        self._seconds += time.perf_counter() - self._since
        pl_module.eval()
        right = images = 0
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for pixels, labels in self.data.loader("test"):
                right += int((pl_module(self.data.centred(pixels)).argmax(1) == labels).sum())
                images += len(labels)
        pl_module.train()
        self.points.append((self._seconds, right / images))
        self._since = time.perf_counter()


def draw(result: Result, path: Path) -> None:
    """Accuracy against seconds, time on a logarithmic axis: the script's epochs, and our runs."""
    runs, keras = result.data["runs"], result.data["keras"]
    machine = f"{result.machine['cpu']}, {result.machine['cores']} cores"
    made = figure(7.2, 4.2)
    axes = made.subplots()
    quiet(
        axes,
        f"Test accuracy on CIFAR-10 against time; {machine}",
        "seconds of training, or of the whole command where that is said",
    )
    axes.set_xscale("log")
    axes.axhline(PRINTED, color=QUIET, linewidth=0.9, linestyle="--")
    axes.text(
        0.99, PRINTED + 0.005, f"printed by the tutorial: {PRINTED:.2%}",
        transform=axes.get_yaxis_transform(), ha="right", fontsize=8, color=NOTE,
    )  # fmt: skip
    seconds, values = zip(*result.data["curve"], strict=True)
    axes.plot(seconds, values, color=ACCENT, linewidth=2, label="experiment=fast_cifar10 while it trains: test")
    name = f"its test at the end of the whole command, {len(runs)} seed{'s' * (len(runs) > 1)}"
    axes.plot(*_points(runs, "wall"), "o", color=ACCENT, markersize=6, label=name)
    name = "the Keras script's five epochs, their tests included"
    axes.plot(*_points(keras, "seconds"), color=OTHER_SIDE, linewidth=2, marker="D", markersize=5, label=name)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.tick_params(which="both", labelsize=8, length=0)
    for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatted(FuncFormatter(_one_two_five))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(made, path, "Accuracy against seconds of experiment=fast_cifar10 and of the Keras script's five epochs.")


def _points(of: list[dict[str, Any]], seconds: str) -> tuple[list[float], list[float]]:
    return [each[seconds] for each in of], [each["accuracy"] for each in of]


def _one_two_five(value: float, _: int) -> str:
    """Of a logarithmic axis only the ticks that can be read beside one another."""
    text = f"{value:g}"
    return text if text.rstrip("0") in ("1", "2", "5") else ""
