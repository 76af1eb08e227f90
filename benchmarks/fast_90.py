"""Seconds and FLOP of experiment=fast_90, the least for a mean of 90 % on CIFAR-10, against the ladder's last rung.

    python -m benchmarks fast_90 --cifar FOLDER

A run a turn, each with a seed of its own, as a user starts it: of fixed length, tested after the last epoch. The rung's
FLOP are those of its kept run; its hours are another machine's, so the seconds are held against the limit alone. FLOP
are those of the definition: 6 for each multiply-add of an image's forward pass, that is 2 forward and 4 backward. Cost:
up to 8 minutes a turn on two cores with bf16.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks import cifar as images_of
from benchmarks.accuracy_time import run
from benchmarks.ladder import interval, rungs
from benchmarks.rows import Goal, Measured, Row

EXPERIMENT = "experiment=fast_90"
GOOD = 0.9  # mean test accuracy
MINUTES = 8.0
RUNG = 7
FEWER = 5  # times the FLOP of that rung of the ladder


def rows(turns: int = 5, cifar: Path | None = None) -> Measured:
    """The seconds of the training, its FLOP against ladder/7's, and the accuracy."""
    images_of.opened(cifar)  # decoded and cached before the clock runs
    runs = [run(turn + 1, cifar, EXPERIMENT) for turn in range(turns)]
    rung = next(each for each in rungs() if each.number == RUNG)
    accuracies = [each["accuracy"] for each in runs]
    half = interval(accuracies) or 0.0
    seeds = f"{turns} seed{'s' * (turns > 1)}"
    note = f"mean test accuracy {statistics.fmean(accuracies):.2%} ± {100 * half:.2f} points, {seeds}"
    seconds = [(each["training"], 60 * MINUTES) for each in runs]
    flop = [(each["petaflop"], rung.teraflop / 1000) for each in runs]
    accuracy = [(100 * each["accuracy"], 100 * GOOD) for each in runs]
    limit = f"{MINUTES:g} minutes"
    found = [
        Row("training", "fast_90, training", limit, "s", seconds, target=1, goal=Goal.at_most_ratio, note=note),
        Row("flop", "fast_90, FLOP of its training", f"ladder/{rung.number}", "PFLOP", flop, target=FEWER),
        Row("accuracy", "fast_90, test accuracy", f"{GOOD:.0%}", "% right", accuracy, True, 1, note=note),
    ]
    return Measured(found, {"runs": runs, "accuracy": {"mean": statistics.fmean(accuracies), "half_interval": half}})
