"""The tutorial's experiment over seeds: table and picture of docs/get-started/tutorial.md, from the runs' metrics.csv.

    python -m alexnet_exp -m experiment=tutorial data=folder data.root=FOLDER callbacks=precise_bn \\
        callbacks.precise_bn.images=5000 trainer.channels_last=true seed=1,2,3,4,5
    python -m benchmarks.tutorial RUN RUN RUN RUN RUN

Without runs it reads those kept in results/tutorial/. Cost of the runs: about 20 minutes each on one CPU core alone.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from scipy import stats

from alexnet_exp.plots.style import ACCENT, INK, QUIET, figure, quiet, save
from alexnet_exp.runs.reader import read_result

KEPT = Path(__file__).parent / "results" / "tutorial"
RUNNING, MEASURED = "val/top1", "val/top1_precise_bn"
# What the tutorial printed, and two runs of the same script in Keras on the re-encoded images.
PRINTED = [0.4414, 0.5565, 0.4983, 0.5892, 0.6053]
KERAS = [[0.335, 0.501, 0.464, 0.566, 0.515], [0.446, 0.529, 0.571, 0.548, 0.570]]
EPOCHS = np.arange(1, len(PRINTED) + 1)
SECOND = "#c4661f"

Curves = Mapping[str, NDArray[np.float64]]  # accuracy after each epoch, by seed


def main() -> None:
    """Keeps the runs' tables, prints the Markdown tables and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders; their metrics.csv go to results/tutorial/")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/tutorial.png"))
    given = parser.parse_args()
    for run in given.runs:
        shutil.copyfile(run / "metrics.csv", KEPT / f"seed{read_result(run)['seed']}.csv")
    running, measured = curves(RUNNING), curves(MEASURED)
    print("Running averages\n", table(running), "Measured anew\n", table(measured), sep="\n")
    for name, found in (("running averages", running), ("running averages, the same seeds", same(running, measured))):
        print(f"{name}: {jumps(found)}")
    print(f"measured anew: {jumps(measured)}")
    picture(running, measured, given.out)


def curves(column: str) -> Curves:
    """The kept runs' values of a column, of those that have it."""
    found = {}
    for file in sorted(KEPT.glob("seed*.csv")):
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        if column in rows[0]:
            found[file.stem.removeprefix("seed")] = np.array([float(row[column]) for row in rows])
    return found


def same(these: Curves, seeds_of: Curves) -> Curves:
    """`these` of the seeds that the other has."""
    return {seed: these[seed] for seed in seeds_of}


def table(found: Curves) -> str:
    """Markdown: accuracy after each epoch, a row a seed, then the mean with its 95% t interval."""
    values = np.stack(list(found.values()))
    half = values.std(0, ddof=1) / np.sqrt(len(values)) * stats.t.ppf(0.975, len(values) - 1)
    rows = ["| seed | epoch 1 | " + " | ".join(map(str, EPOCHS[1:])) + " |", "|---" * (len(EPOCHS) + 1) + "|"]
    rows += [f"| {seed} | " + " | ".join(f"{value:.4f}" for value in row) + " |" for seed, row in found.items()]
    mean = [f"{value:.3f} ± {width:.3f}" for value, width in zip(values.mean(0), half, strict=True)]
    return "\n".join([*rows, "| mean, 95% interval | " + " | ".join(mean) + " |", ""])


def jumps(found: Curves) -> str:
    """How often accuracy fell from one epoch to the next, the worst fall, and the spread over seeds by epoch."""
    values = np.stack(list(found.values()))
    steps = np.diff(values, axis=1)
    fell, worst = int((steps < 0).sum()), 100 * max(0.0, -float(steps.min()))
    spread = ", ".join(f"{100 * sd:.1f}" for sd in values.std(0, ddof=1))
    return f"{fell} of {steps.size} steps fell, the worst by {worst:.1f} points; sd over seeds, points: {spread}"


def picture(running: Curves, measured: Curves, path: Path) -> None:
    """Both curves: each seed a thin line, the mean a thick one; the tutorial's printed values as hollow diamonds."""
    made = figure(7.2, 4.4)
    axes = made.subplots()
    quiet(axes, "Test accuracy of the tutorial's network after each epoch (CIFAR-10, re-encoded)", "Epoch")
    for found, colour, name in ((measured, SECOND, "measured anew"), (running, ACCENT, "as running averages")):
        values = np.stack(list(found.values()))
        axes.plot(EPOCHS, values.T, color=colour, linewidth=0.9, alpha=0.35)
        label = f"batch norm statistics {name}: mean of {len(values)} seeds"
        axes.plot(EPOCHS, values.mean(0), color=colour, linewidth=2.4, marker="o", markersize=4, label=label)
    for index, row in enumerate(KERAS):
        label = "the script in Keras on these images, two runs" if index == 0 else None
        axes.plot(EPOCHS, row, color=QUIET, linewidth=1.1, linestyle=":", label=label)
    axes.plot(EPOCHS, PRINTED, "D", color=INK, markerfacecolor="none", markersize=7, label="printed by the tutorial")
    axes.set_xticks(EPOCHS)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(made, path)


if __name__ == "__main__":
    main()
