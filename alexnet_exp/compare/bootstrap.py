"""Computes the interval of a difference for new test images and new seeds, from saved predictions.

The interval over seeds holds for these images. With few test images, their selection can matter more than the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alexnet_exp.compare.statistics import Interval
from alexnet_exp.errors import UserError
from alexnet_exp.runs.predictions import TEST_FILE, read_predictions
from alexnet_exp.runs.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GUESSES_BY_METRIC = {
    "test/top1": 1,
    "test/top5": 5,
}  # metrics that follow from predictions
BOOTSTRAP_DRAWS = 1000
FEWEST_BOOTSTRAP_SEEDS = 20  # of each arm; seeds are bootstrapped from this number
_DRAWS_PER_BATCH = 50  # in memory at the same time


class Answers:
    """The test images that each run classified correctly; each file is read once."""

    def __init__(self, metric: str):
        self.guesses = GUESSES_BY_METRIC.get(metric)
        self._read: dict[Any, tuple[NDArray[np.int64], NDArray[np.bool_]] | None] = {}

    def of(self, runs: Sequence[Run]) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]] | None:
        """Returns labels and correctness of every run; None for a missing or damaged file or another metric."""
        found = [one for run in runs if (one := self._one(run)) is not None]
        return found if len(found) == len(runs) else None

    def _one(self, run: Run) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
        if run.path not in self._read:
            self._read[run.path] = None if self.guesses is None else _rights(run, self.guesses)
        return self._read[run.path]


def bootstrap_interval(
    arm: Sequence[Run], baseline: Sequence[Run], answers: Answers, alpha: float = 0.05
) -> Interval | None:
    """Returns the interval of the difference in accuracy over new images and new seeds.

    Images are bootstrapped: each draw has as many images as the test set, the same for all runs. Seeds are bootstrapped
    too if each arm has `FEWEST_BOOTSTRAP_SEEDS`, with n - 1 of n draws, which add as much spread as the seeds have.
    With fewer seeds a bootstrap would be too narrow, and Welch's variance of the seeds is added to that of the images,
    with the degrees of freedom of Satterthwaite (1946); the interval is never narrower than that over seeds alone. The
    interaction of image and seed is in both parts, so the interval is too wide rather than too narrow.

    The draws are the same in every call. None for fewer than three seeds, or unless all runs have predictions for the
    same labels.
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
    accuracies = np.empty((BOOTSTRAP_DRAWS, rights.shape[1]))
    for start in range(0, BOOTSTRAP_DRAWS, _DRAWS_PER_BATCH):
        drawn = generator.integers(0, images, size=(_DRAWS_PER_BATCH, images), dtype=np.int32)
        drawn += np.arange(_DRAWS_PER_BATCH, dtype=np.int32)[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=_DRAWS_PER_BATCH * images).reshape(_DRAWS_PER_BATCH, images)
        accuracies[start : start + _DRAWS_PER_BATCH] = times.astype(np.float32) @ rights / images
    if min(len(first), len(second)) < FEWEST_BOOTSTRAP_SEEDS:
        drawn_differences = accuracies[:, : len(first)].mean(axis=1) - accuracies[:, len(first) :].mean(axis=1)
        measured = rights.mean(axis=0, dtype=np.float64)
        parts = float(drawn_differences.var(ddof=1)), measured[: len(first)], measured[len(first) :]
        return _with_welch(*parts, images=images, alpha=alpha)
    means = []
    for columns in (accuracies[:, : len(first)], accuracies[:, len(first) :]):
        n = columns.shape[1]
        seeds = generator.integers(0, n, size=(BOOTSTRAP_DRAWS, n - 1))
        means.append(np.take_along_axis(columns, seeds, axis=1).mean(axis=1))
    low, high = np.quantile(means[0] - means[1], [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _with_welch(
    of_images: float, arm: NDArray[np.float64], baseline: NDArray[np.float64], images: int, alpha: float
) -> Interval:
    """Returns the interval from the variance due to the images and the accuracies of the runs of each arm."""
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
