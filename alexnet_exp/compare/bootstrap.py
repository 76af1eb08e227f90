"""A second interval of a difference: for new test images too, from the predictions that runs keep.

The interval over seeds answers "would other seeds say so, on these images?". This one asks for other images of the same
kind as well: of few images the choice can matter more than the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alexnet_exp.errors import UserError
from alexnet_exp.runs.predictions import TEST_FILE, read_predictions
from alexnet_exp.runs.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Interval = tuple[float, float]

WITHIN = {"test/top1": 1, "test/top5": 5}  # the metrics that predictions tell, and how many guesses each allows
DRAWS = 1000
SEEDS_DRAWN = 20  # seeds of an arm from which on they are drawn too
_AT_ONCE = 50  # draws whose images are in memory together


class Answers:
    """Which test images each run got right; each file is read once."""

    def __init__(self, metric: str):
        self.guesses = WITHIN.get(metric)
        self._read: dict[Any, tuple[NDArray[np.int64], NDArray[np.bool_]] | None] = {}

    def of(self, runs: Sequence[Run]) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]] | None:
        """Labels and rights of every run; None where a file is missing or damaged, or the metric is another."""
        found = [one for run in runs if (one := self._one(run)) is not None]
        return found if len(found) == len(runs) else None

    def _one(self, run: Run) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
        if run.path not in self._read:
            self._read[run.path] = None if self.guesses is None else _rights(run, self.guesses)
        return self._read[run.path]


def interval(arm: Sequence[Run], baseline: Sequence[Run], answers: Answers, alpha: float = 0.05) -> Interval | None:
    """Of the difference in accuracy, over new images and new seeds.

    The images by bootstrap: each draw takes as many as there are, the same for all runs. The seeds by bootstrap as well
    where each arm has `SEEDS_DRAWN`, n - 1 of n, which add as much spread as they have. Below that a bootstrap of seeds
    would be too narrow, and their part is Welch's: both variances are added, with the degrees of freedom of
    Satterthwaite (1946), and the interval is never narrower than that over seeds alone. What an image and a seed do
    together is in both parts, so that it is rather too wide than too narrow.

    The draws are the same every time. None for fewer than three seeds, and where the runs did not all keep predictions
    for the same labels.
    """
    if min(len(arm), len(baseline)) < 3:
        return None
    first, second = answers.of(arm), answers.of(baseline)
    if first is None or second is None:
        return None
    import numpy as np

    labels = first[0][0]
    if any(not np.array_equal(labels, other) for other, _ in [*first, *second]):
        return None
    rights = np.stack([right for _, right in [*first, *second]], axis=1).astype(np.float32)
    images, generator = len(labels), np.random.default_rng(0)
    if images == 0:
        return None
    # [draws, runs]: the accuracy of each run on each draw of images
    accuracies = np.empty((DRAWS, rights.shape[1]))
    for start in range(0, DRAWS, _AT_ONCE):
        drawn = generator.integers(0, images, size=(_AT_ONCE, images), dtype=np.int32)
        drawn += np.arange(_AT_ONCE, dtype=np.int32)[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=_AT_ONCE * images).reshape(_AT_ONCE, images)
        accuracies[start : start + _AT_ONCE] = times.astype(np.float32) @ rights / images
    if min(len(first), len(second)) < SEEDS_DRAWN:
        drawn_differences = accuracies[:, : len(first)].mean(axis=1) - accuracies[:, len(first) :].mean(axis=1)
        measured = rights.mean(axis=0, dtype=np.float64)
        parts = float(drawn_differences.var(ddof=1)), measured[: len(first)], measured[len(first) :]
        return _with_welch(*parts, images=images, alpha=alpha)
    means = []
    for columns in (accuracies[:, : len(first)], accuracies[:, len(first) :]):
        n = columns.shape[1]
        seeds = generator.integers(0, n, size=(DRAWS, n - 1))
        means.append(np.take_along_axis(columns, seeds, axis=1).mean(axis=1))
    low, high = np.quantile(means[0] - means[1], [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _with_welch(
    of_images: float, arm: NDArray[np.float64], baseline: NDArray[np.float64], images: int, alpha: float
) -> Interval:
    """The interval from the variance that the images add, and the accuracies of each arm's runs."""
    from scipy.stats import t

    of_seeds = [float(runs.var(ddof=1)) / len(runs) for runs in (arm, baseline)]
    freedom = [len(arm) - 1, len(baseline) - 1]
    half = 0.0
    for variances, degrees in ((of_seeds, freedom), ([*of_seeds, of_images], [*freedom, max(1, images - 1)])):
        total = sum(variances)
        if total > 0:
            squares = sum(each**2 / degree for each, degree in zip(variances, degrees, strict=True))
            half = max(half, float(t.ppf(1 - alpha / 2, total**2 / squares)) * total**0.5)
    difference = float(arm.mean() - baseline.mean())
    return difference - half, difference + half


def _rights(run: Run, guesses: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
    try:
        kept = read_predictions(run.path / TEST_FILE)
    except UserError:
        return None
    return kept.labels, (kept.guesses(guesses) == kept.labels[:, None]).any(axis=1)
