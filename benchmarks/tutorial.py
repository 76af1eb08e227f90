"""The tutorial's experiment over seeds: table and picture of docs/tutorial.md, from the runs' metrics.csv.

    python -m alexnet_exp -m experiment=tutorial data=folder data.root=FOLDER callbacks=precise_bn \\
        trainer.channels_last=true seed=1,2,3,4,5
    python -m benchmarks.tutorial RUN RUN RUN RUN RUN --out docs/pictures/tutorial.png

Without runs it reads those kept in results/tutorial/. Cost of the runs: about 20 minutes each on one CPU core.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alexnet_exp.plots.style import figure, quiet, save
from alexnet_exp.runs.read import read_result

KEPT = Path(__file__).parent / "results" / "tutorial"
RUNNING, MEASURED = "val/top1", "val/top1_precise_bn"
# What the tutorial printed, and two runs of the same script in Keras on the re-encoded images.
PRINTED = [0.4414, 0.5565, 0.4983, 0.5892, 0.6053]
KERAS = [[0.335, 0.501, 0.464, 0.566, 0.515], [0.446, 0.529, 0.571, 0.548, 0.570]]
EPOCHS = np.arange(1, len(PRINTED) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run folders; their metrics.csv are kept in results/tutorial/"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/tutorial.png"))
    given = parser.parse_args()
    for run in given.runs:
        shutil.copyfile(run / "metrics.csv", KEPT / f"seed{read_result(run)['seed']}.csv")
    files = sorted(KEPT.glob("seed*.csv"))
    seeds = [file.stem.removeprefix("seed") for file in files]
    running, measured = (np.array([_column(file, name) for file in files]) for name in (RUNNING, MEASURED))
    print(table(seeds, running), table(seeds, measured), jumps(running, measured), sep="\n\n")
    picture(running, measured, given.out)
    print(given.out)


def _column(file: Path, name: str) -> list[float]:
    with file.open(newline="") as lines:
        return [float(row[name]) for row in csv.DictReader(lines)]


def table(seeds: Sequence[str], values: NDArray[np.float64]) -> str:
    """Markdown: accuracy after each epoch, a row a seed, then the mean with the 95% t interval of it."""
    rows = ["| seed | " + " | ".join(["epoch 1", *map(str, EPOCHS[1:])]) + " |", "|---" * (len(EPOCHS) + 1) + "|"]
    rows += [
        f"| {seed} | " + " | ".join(f"{value:.4f}" for value in row) + " |"
        for seed, row in zip(seeds, values, strict=True)
    ]
    half = half_interval(values)
    mean = [f"{value:.4f} ± {width:.4f}" for value, width in zip(values.mean(0), half, strict=True)]
    return "\n".join([*rows, "| mean, 95% interval | " + " | ".join(mean) + " |"])


def half_interval(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the width of the 95% t interval of each column's mean; `values` is [runs, epochs]."""
    n = len(values)
    spread: NDArray[np.float64] = values.std(0, ddof=1) / np.sqrt(n) * stats.t.ppf(0.975, n - 1)
    return spread


def jumps(running: NDArray[np.float64], measured: NDArray[np.float64]) -> str:
    """How often accuracy fell from one epoch to the next, and by how much it differed between the two statistics."""
    lines = []
    for name, values in (("running averages", running), ("measured anew", measured)):
        steps = np.diff(values, axis=1)
        fell, worst = int((steps < 0).sum()), 100 * max(0.0, -steps.min())
        spread = ", ".join(f"{100 * sd:.1f}" for sd in values.std(0, ddof=1))
        lines.append(
            f"{name}: {fell} of {steps.size} steps fell, the worst by {worst:.1f} points; sd over seeds {spread}"
        )
    return "\n".join(lines)


def picture(running: NDArray[np.float64], measured: NDArray[np.float64], path: Path) -> None:
    """Both curves: each seed a thin line, the mean a thick one; the tutorial's printed values as hollow diamonds."""
    made = figure(7.0, 4.2)
    axes = made.subplots()
    quiet(axes, "Test accuracy after each epoch: tutorial network, CIFAR-10 re-encoded", "epoch")
    for values, colour, name in (
        (measured, "#b8b8b8", "statistics measured anew"),
        (running, "#1f5fbf", "running averages"),
    ):
        for row in values:
            axes.plot(EPOCHS, row, color=colour, linewidth=0.8, alpha=0.5)
        axes.plot(
            EPOCHS,
            values.mean(0),
            color=colour,
            linewidth=2.5,
            marker="o",
            markersize=4,
            label=f"ours, {name} (mean of {len(values)})",
        )
    for index, row in enumerate(KERAS):
        label = "the script in Keras, same images, two runs" if index == 0 else None
        axes.plot(EPOCHS, row, color="#c46a1b", linewidth=1, linestyle=":", label=label)
    axes.plot(
        EPOCHS,
        PRINTED,
        "D",
        markerfacecolor="none",
        markeredgecolor="black",
        markersize=7,
        linestyle="none",
        label="printed by the tutorial",
    )
    axes.set_xticks(EPOCHS)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(made, path)


if __name__ == "__main__":
    main()
