"""The ladder of docs/background/ladder.md: its table and its picture, from the runs' own files.

    python -m alexnet_exp experiment=ladder/N data=folder data.root=FOLDER      for each rung N
    python -m benchmarks.ladder N=RUN [N=RUN ...]

Without runs it reads those kept in results/ladder/. Rung 1's accuracy is that of the five seeds of the tutorial,
which are the same experiment in float32; a run of it, if one is kept, gives its cost.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_exp.plots.style import ACCENT, INK, NOTE, QUIET, figure, quiet, save
from alexnet_exp.runs.reader import read_result

KEPT = Path(__file__).parent / "results" / "ladder"
TUTORIAL = Path(__file__).parent / "results" / "tutorial"
IDEAS = {
    1: "the unchanged tutorial",
    2: "one-cycle learning rate",
    3: "batch norm after every layer",
    4: "higher spatial resolution",
    5: "random crops and mirrors, ten test views",
    6: "three times the epochs",
    7: "two convolutions per pool, two cycles",
}
FACTS = ("seed", "precision", "device", "epochs", "seconds", "images_per_s", "parameters", "multiply_adds")
TEST_FACTS = ("test_views", "test_centre", "test_images", "metrics")
GOAL = 0.9
TRAINING_IMAGES = 50_000
TUTORIAL_SIZE = (9_638_474, 117_909_632)  # of rung 1: trainable parameters, multiply-adds an image


@dataclass(frozen=True)
class Rung:
    """What a rung came to. `accuracies`: of the test images, 0..1, a seed each; `training`: how long, and on what."""

    number: int
    accuracies: list[float]
    training: str
    images: int
    parameters: int
    multiply_adds: int

    @property
    def accuracy(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def teraflop(self) -> float:
        """Of the training: 2 a multiply-add, and 3 times the forward pass for forward and backward."""
        return 6 * self.multiply_adds * self.images / 1e12


def main() -> None:
    """Keeps the runs that are named, prints the table and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="N=RUN: the folder of a run of rung N")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/ladder.png"))
    given = parser.parse_args()
    for word in given.runs:
        number, _, run = word.partition("=")
        keep(int(number), Path(run))
    found = rungs()
    print(table(found))
    picture(found, given.out)


def keep(number: int, run: Path) -> None:
    """Copies what the table is made of from a run's folder: its facts, and its metrics.csv as it is."""
    result = read_result(run)
    name = f"rung{number}_seed{result['seed']}"
    facts = {key: result[key] for key in (*FACTS, *TEST_FACTS) if key in result}
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(run / "metrics.csv", KEPT / f"{name}.csv")


def rungs() -> list[Rung]:
    """All rungs of which runs are kept, in order; the first is always there."""
    found = []
    for number in IDEAS:
        kept = [json.loads(file.read_text()) for file in sorted(KEPT.glob(f"rung{number}_seed*.json"))]
        if number == 1:
            found.append(Rung(1, tutorial(), _training(kept), 5 * TRAINING_IMAGES, *TUTORIAL_SIZE))
        elif kept:
            found.append(_rung(number, kept))
    return found


def _rung(number: int, kept: list[dict[str, Any]]) -> Rung:
    accuracies = [each["metrics"]["test/top1"] for each in kept]
    images = kept[0]["epochs"] * TRAINING_IMAGES
    return Rung(number, accuracies, _training(kept), images, kept[0]["parameters"], kept[0]["multiply_adds"])


def _training(kept: list[dict[str, Any]]) -> str:
    """Seconds, the mean of the runs; precision and threads, which are the same in all of them."""
    if not kept:
        return "-"
    seconds = statistics.fmean(each["seconds"] for each in kept)
    precision = {"bf16-mixed": "bf16", "32-true": "float32"}[kept[0]["precision"]]
    return f"{seconds:,.0f} s, {precision}, {kept[0]['device'].rpartition(', ')[2]}"


def tutorial() -> list[float]:
    """The test accuracy after the last epoch of the tutorial's experiment, a seed each."""
    found = []
    for file in sorted(TUTORIAL.glob("seed*.csv")):
        with file.open(newline="") as lines:
            found.append(float(list(csv.DictReader(lines))[-1]["val/top1"]))
    return found


def table(found: list[Rung]) -> str:
    """Markdown: accuracy, gain and cost, a row a rung."""
    titles = ["rung", "the idea", "test top-1", "gain", "seeds", "images", "training", "TFLOP", "parameters"]
    titles.append("multiply-adds an image")
    rows = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for rung, before in zip(found, [None, *found], strict=False):
        gain = (
            ""
            if before is None or before.number + 1 != rung.number
            else f"{100 * (rung.accuracy - before.accuracy):+.2f}"
        )
        half = interval(rung.accuracies)
        accuracy = f"{100 * rung.accuracy:.2f} %" + (f" ± {100 * half:.2f}" if half else "")
        row = [
            f"{rung.number}",
            IDEAS[rung.number],
            accuracy,
            gain,
            f"{len(rung.accuracies)}",
            f"{rung.images:,}",
            rung.training,
        ]
        row += [f"{rung.teraflop:.0f}", f"{rung.parameters:,}", f"{rung.multiply_adds:,}"]
        rows.append("| " + " | ".join(row) + " |")
    return "\n".join([*rows, ""])


def interval(values: list[float]) -> float | None:
    """Half the 95% t interval of the mean; None of one value."""
    from scipy import stats

    if len(values) < 2:
        return None
    return float(statistics.stdev(values) / math.sqrt(len(values)) * stats.t.ppf(0.975, len(values) - 1))


def picture(found: list[Rung], path: Path) -> None:
    """Two panels, a line a rung: accuracy with what the idea gave, and what arithmetic the training takes."""
    made = figure(9.5, 3.9)
    left, right = made.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
    places = [rung.number for rung in found]
    values = [100 * rung.accuracy for rung in found]
    left.step([values[0], *values], [places[0], *places], where="pre", color=QUIET, linewidth=1)
    left.scatter(values, places, color=ACCENT, s=42, zorder=3)
    for rung, value, before in zip(found, values, [None, *values], strict=False):
        gain = "" if before is None else f"  {value - before:+.1f}"
        told, place = f"{value:.1f} %{gain}", (value, rung.number)
        left.annotate(told, place, (9, -3), textcoords="offset points", fontsize=8, color=INK)
    # below the last rung alone: further up it would run through the figures
    left.axvline(100 * GOAL, ymax=0.06, color=NOTE, linewidth=1.2)
    left.annotate(
        "goal",
        (100 * GOAL, 0.015),
        (-4, 0),
        ("data", "axes fraction"),
        "offset points",
        ha="right",
        fontsize=8,
        color=NOTE,
    )
    left.set_xlim(min(values) - 2, 100)
    left.set_yticks(places, [f"{rung.number}  {IDEAS[rung.number]}" for rung in found])
    left.invert_yaxis()
    quiet(left, "Test accuracy, and the gain of each change", "per cent of 10,000 test images")
    right.barh(places, [rung.teraflop for rung in found], height=0.45, color=ACCENT, alpha=0.75)
    for rung in found:
        told, place = f"{rung.teraflop:.0f}", (rung.teraflop, rung.number)
        right.annotate(told, place, (4, -3), textcoords="offset points", fontsize=8, color=INK)
    right.set_xlim(0, 1.3 * max(rung.teraflop for rung in found))
    quiet(right, "Training", "TFLOP")
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
    save(made, path, "Test accuracy of seven rungs from the tutorial to 90 per cent, and what each costs.")


if __name__ == "__main__":
    main()
