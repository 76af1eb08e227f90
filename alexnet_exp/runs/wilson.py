"""Provides the confidence interval of an accuracy for a number of test images, and the last line of a run's log."""

from __future__ import annotations

import math
from collections.abc import Mapping

Z = 1.96  # two-sided, 95%


def half_width(accuracy: float, images: int) -> float:
    """Returns half the width of the 95% confidence interval of an accuracy (0..1) on `images` test images.

    Wilson's score interval (1927), which has a width even if all or none of the answers are right.
    """
    spread = math.sqrt(accuracy * (1 - accuracy) / images + Z**2 / (4 * images**2))
    return Z * spread / (1 + Z**2 / images)


def margin(accuracy: float, images: int) -> str:
    """Returns the half width as text: `+-1.7 points (95% CI, 360 images)`."""
    return f"+-{100 * half_width(accuracy, images):.1f} points (95% CI, {images:,} images)"


def summary_line(
    metrics: Mapping[str, float],
    images: int | None,
    checkpoint: str,
    epoch: int,
    views: int = 1,
    centre: Mapping[str, float] | None = None,
) -> str:
    """Returns the last line of a log: `test: top-1 0.9750 +-1.7 points (...), best checkpoint, epoch 8`.

    Without a top-1 accuracy it has the other metrics. For several views it also has the metric of the `centre` alone.
    """
    top1 = metrics.get("test/top1")
    if top1 is None:
        found = ", ".join(f"{key.removeprefix('test/')} {value:.4f}" for key, value in metrics.items())
    else:
        found = f"top-1 {top1:.4f}" + (f" {margin(top1, images)}" if images else "")
    if views > 1 and centre and "test/top1" in centre:
        found += f" from {views} views, {centre['test/top1']:.4f} from the centre"
    return f"test: {found or 'no test metric was logged'}, {checkpoint} checkpoint, epoch {epoch}"
