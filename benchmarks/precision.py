"""Whether bf16 learns as well as float32: two one-sided tests on the runs kept in results/precision/runs.csv.

    python -m alexnet_exp -m experiment=fast_cifar10 trainer.precision=bf16-mixed,32-true 'seed=range(1,31)'
    python -m benchmarks.precision

Equivalent: the 90% interval of the mean difference of paired seeds (same order, crops, mirrors and initial values) lies
within the margin, which is what two one-sided tests at 5% come to (Schuirmann, 1987). Cost of the runs: some 12 minutes
on one CPU core.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

KEPT = Path(__file__).parent / "results" / "precision" / "runs.csv"
MARGIN = 0.5  # points
PAIR = ("bf16-mixed", "32-true")


@dataclass(frozen=True)
class Equivalence:
    """Of paired runs, in points of test top-1: the mean of bf16 - float32, its 90% interval, the greater p."""

    seeds: int
    difference: float
    low: float
    high: float
    p: float

    @property
    def holds(self) -> bool:
        """Whether both one-sided tests reject a difference as great as the margin, at 5%."""
        return self.p < 0.05


def main() -> None:
    """Prints the verdict of all kept seeds, and of the first ten."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--margin", type=float, default=MARGIN, help="points")
    given = parser.parse_args()
    pairs = read(KEPT)
    for number in (10, len(pairs)):
        print(told(equivalence(pairs[:number], given.margin), given.margin))


def read(file: Path) -> list[tuple[float, float]]:
    """Test top-1 of bf16 and of float32, in points, a pair a seed, by seed."""
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = {(int(row["seed"]), row["trainer.precision"]): 100 * float(row["test/top1"]) for row in rows}
    seeds = sorted({seed for seed, _ in found})
    return [(found[seed, PAIR[0]], found[seed, PAIR[1]]) for seed in seeds]


def equivalence(pairs: list[tuple[float, float]], margin: float) -> Equivalence:
    """The two one-sided t tests of the pairs' differences against -margin and +margin."""
    differences = [ours - theirs for ours, theirs in pairs]
    mean, freedom = statistics.fmean(differences), len(pairs) - 1
    error = statistics.stdev(differences) / math.sqrt(len(pairs))
    half = error * float(stats.t.ppf(0.95, freedom))
    p = max(float(stats.t.sf((mean + margin) / error, freedom)), float(stats.t.cdf((mean - margin) / error, freedom)))
    return Equivalence(len(pairs), mean, mean - half, mean + half, p)


def told(found: Equivalence, margin: float) -> str:
    """One line."""
    verdict = f"equivalent within {margin:g} points" if found.holds else f"not shown to be within {margin:g} points"
    interval = f"90% interval {found.low:+.2f} to {found.high:+.2f}"
    return (
        f"{found.seeds} seeds: bf16 - float32 = {found.difference:+.2f} points ({interval}; p {found.p:.4f}): {verdict}"
    )


if __name__ == "__main__":
    main()
