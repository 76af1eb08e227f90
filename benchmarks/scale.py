"""How cost grows: images/s with batch, width, threads and ranks; `compare` with runs; memory with the data set.

Curves more than rows: docs/pictures/scale.png is drawn of them. Training is the tutorial's network on random images, by
the Trainer of a run (`bench`), so that what a user chooses is what is measured. Cost: two minutes.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from alexnet_exp.bench.run import BenchRequest
from alexnet_exp.bench.run import measure as bench
from alexnet_exp.config.compose import compose
from alexnet_exp.config.validate import validate
from alexnet_exp.plots.style import ACCENT, INK, QUIET, figure, quiet, save
from alexnet_exp.processes.cpus import cores
from alexnet_exp.processes.memory import keep_freed_memory
from benchmarks.compare_runs import generate
from benchmarks.compare_runs import measure as command
from benchmarks.memory import held
from benchmarks.rows import Goal, Measured, Row
from benchmarks.table import Result

BATCHES = (8, 16, 32, 64, 128, 256, 512)
WIDTHS = (0.25, 0.5, 1.0, 1.5, 2.0)
RUNS = (100, 1_000, 10_000)
IMAGES = (25_000, 50_000, 100_000)  # of 32x32 pixels
RANKS = (1, 2)
COPIED = 1.1  # more than this times one process's memory, and something is held twice
NETWORK = ("model=tutorial", "optim=adam", "schedule=constant", "data=random", "data.size=32", "data.classes=10")
STEPS = 8  # of each width
IMAGE_BYTES = 3 * 32 * 32
OTHER_SIDE = "#c4661f"

Points = dict[str, list[float]]  # by what is varied, as text: what each turn measured


def rows(turns: int = 2) -> Measured:
    """The curves, and of each what it comes to: one end of it against the other."""
    keep_freed_memory()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "batch": gathered(turns, _batches),
            "width": gathered(turns, lambda: {width: _width(width) for width in WIDTHS}),
            "threads": gathered(turns, lambda: {threads: _threads(threads) for threads in (1, cores())}),
            "ranks": gathered(turns, lambda: {ranks: _ranks(ranks) for ranks in RANKS}),
            "compare": gathered(turns, _compare(Path(folder))),
            "memory": {ranks: gathered(1, _memory(Path(folder), ranks)) for ranks in RANKS},
        }
    return Measured(_rows(found), json.loads(json.dumps(found)))  # its keys as text, as a file would have them


def gathered(turns: int, measure: Callable[[], Mapping[Any, float]]) -> Points:
    """What `measure` gives for each point, turn after turn over the whole curve: a disturbance is no kink in it."""
    found: Points = {}
    for _ in range(turns):
        for point, value in measure().items():
            found.setdefault(f"{point:g}", []).append(value)
    print("  " + ", ".join(f"{point}: {statistics.median(each):.4g}" for point, each in found.items()), file=sys.stderr)
    return found


def _batches() -> dict[float, float]:
    made = bench(_config(), BenchRequest(batches=BATCHES, layers=False))
    return {each["batch_size"]: each["images_per_s"] for each in made["batches"]}


def _width(width: float) -> float:
    return float(bench(_config(f"model.width={width}"), BenchRequest(steps=STEPS, layers=False))["images_per_s"])


def _threads(threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return float(bench(_config(), BenchRequest(steps=STEPS, layers=False))["images_per_s"])
    finally:
        torch.set_num_threads(before)


def _config(*more: str) -> Any:
    return validate(compose([*NETWORK, "data.batch_size=128", "trainer=cpu", *more]))


def _ranks(ranks: int) -> float:
    """Of a run as a user starts it, all cores shared out among its ranks; the batch is 128 images in all."""
    words = [*NETWORK, "data.batch_size=128", "data.n=1280", "data.val=none", "test.run=false", "trainer.max_epochs=2"]
    words += ["checkpoint.keep=none", "hydra.run.dir=run", "trainer=ddp_cpu", f"trainer.devices={ranks}"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        quietly: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(
            [sys.executable, "-m", "alexnet_exp", *words], cwd=folder, env=environment, check=True, **quietly
        )
        lines = (Path(folder) / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))  # of the epoch that was warm
    return float(last["images_per_s"])


def _compare(folder: Path) -> Callable[[], dict[float, float]]:
    """Seconds of the CPU of `compare` over so many run folders, process start and all."""
    for count in RUNS:
        generate(folder / str(count), count)
    return lambda: {count: command(["compare", str(folder / str(count))])[1] for count in RUNS}


def _memory(folder: Path, ranks: int) -> Callable[[], dict[float, float]]:
    """Bytes that the ranks hold of so many images, together."""

    def measure() -> dict[float, float]:
        return {count: held(_array(folder, count), ranks) for count in IMAGES}

    return measure


def _array(folder: Path, count: int) -> Path:
    file = folder / f"{count}.npy"
    if not file.exists():
        pixels = np.random.default_rng(1).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        np.save(file, pixels)
    return file


def _rows(found: Mapping[str, Any]) -> list[Row]:
    def turns(points: Points, ours: float, peer: float) -> list[tuple[float, float]]:
        return list(zip(points[f"{ours:g}"], points[f"{peer:g}"], strict=True))

    rate: dict[str, Any] = {"unit": "images/s", "higher_is_better": True}
    largest, threads = max(IMAGES), cores()
    memory = list(zip(found["memory"][2][f"{largest:g}"], found["memory"][1][f"{largest:g}"], strict=True))
    made = [
        Row("batch", "batch 128", "batch 32", turns=turns(found["batch"], 128, 32), **rate),
        Row("width", "width 0.5", "width 1", turns=turns(found["width"], 0.5, 1), **rate),
        Row("ranks", "2 ranks", "1 process, all cores", turns=turns(found["ranks"], 2, 1), **rate),
        Row(
            "compare", "compare of 10,000 runs, CPU time", "of 100 runs", "s", turns(found["compare"], 10_000, 100),
            goal=Goal.at_most_ratio,
        ),
        Row(
            "memory", f"memory of {largest:,} images, 2 ranks", "1 rank", "MB",
            [(two / 1e6, one / 1e6) for two, one in memory], goal=Goal.at_most_ratio, target=COPIED,
        ),
    ]  # fmt: skip
    if threads > 1:
        several = turns(found["threads"], threads, 1)
        made.insert(2, Row("threads", f"{threads} threads", "1 thread", turns=several, **rate))
    return made


def draw(result: Result, path: Path) -> None:
    """Six small panels: what is varied across, what it costs upwards."""
    found = result.data
    made = figure(10.5, 5.6)
    batch, step, width, shared, compare, memory = made.subplots(2, 3).flat
    _curve(batch, "Images/s, by batch", "images in a batch", found["batch"], log=True)
    _curve(step, "Milliseconds of a step, by batch", "images in a batch", _milliseconds(found["batch"]))
    step.xaxis.set_major_locator(FixedLocator([32, 128, 256, 512]))
    _curve(width, "Images/s, by width", "model.width", found["width"])
    shared_out = {f"{threads} thread{'s' * (threads != '1')}": each for threads, each in found["threads"].items()}
    shared_out |= {f"{ranks} rank{'s' * (ranks != '1')}": each for ranks, each in found["ranks"].items()}
    _bars(shared, "Images/s, by threads and ranks", shared_out)
    _curve(compare, "Seconds of the CPU, of compare", "runs", found["compare"], log=True)
    compare.set_yscale("log")
    compare.set_ylim(0.05, 10)
    compare.tick_params(which="minor", length=0)
    compare.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for runs, each in found["compare"].items():
        middle = statistics.median(each)
        compare.annotate(
            f"{middle:.2f}",
            (float(runs), middle),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
        )
    compare.margins(x=0.12)
    _memory_panel(memory, found["memory"])
    save(made, path, "How images per second, compare and memory grow with what is asked of them.")


def _milliseconds(images_per_s: Points) -> Points:
    return {size: [1000 * float(size) / rate for rate in rates] for size, rates in images_per_s.items()}


def _curve(axes: Axes, title: str, name: str, points: Points, log: bool = False) -> None:
    quiet(axes, title, name)
    across = [float(point) for point in points]
    if log:
        axes.set_xscale("log")
    axes.plot(across, [statistics.median(each) for each in points.values()], color=ACCENT, lw=2, marker="o", ms=4)
    _ticks(axes, across)


def _ticks(axes: Axes, across: Iterable[float]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(list(across)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_ylim(bottom=0)


def _bars(axes: Axes, title: str, points: Points) -> None:
    quiet(axes, title, "")
    heights = [statistics.median(each) for each in points.values()]
    bars = axes.bar(list(points), heights, color=[QUIET if "thread" in name else ACCENT for name in points], width=0.6)
    axes.set_ylim(top=1.12 * max(heights))
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, color=INK, padding=2)


def _memory_panel(axes: Axes, by_ranks: Mapping[str, Points]) -> None:
    quiet(axes, "MB of memory for the images, in all", "images of 32x32, thousands")
    counts = [float(point) for point in by_ranks["1"]]
    across = [count / 1000 for count in counts]
    copies = [2 * count * IMAGE_BYTES / 1e6 for count in counts]
    axes.plot(across, copies, color=QUIET, lw=1.2, ls="--", label="2 ranks with a copy each: not so here")
    for (ranks, points), colour, style in zip(by_ranks.items(), (ACCENT, OTHER_SIDE), ("o-", "x--"), strict=True):
        sizes = [statistics.median(each) / 1e6 for each in points.values()]
        axes.plot(across, sizes, style, color=colour, lw=1.8, ms=6, label=f"{ranks} rank{'s' * (ranks != '1')}")
    _ticks(axes, across)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
