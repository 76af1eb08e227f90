"""How well so many images tell an accuracy: an experiment's smallest honesty."""

from __future__ import annotations

import math
from collections.abc import Mapping

Z = 1.96  # two-sided, 95%


def half_width(accuracy: float, images: int) -> float:
    """Half the width of the 95% interval of an accuracy (0..1) that was counted on `images`.

    Wilson's score interval (1927), which has a width also where all or none were right.
    """
    spread = math.sqrt(accuracy * (1 - accuracy) / images + Z**2 / (4 * images**2))
    return Z * spread / (1 + Z**2 / images)


def margin(accuracy: float, images: int) -> str:
    """The half width in words: `360 images tell it to +-1.7 points`."""
    return f"{images:,} images tell it to +-{100 * half_width(accuracy, images):.1f} points"


def summary_line(
    metrics: Mapping[str, float],
    images: int | None,
    checkpoint: str,
    epoch: int,
    views: int = 1,
    centre: Mapping[str, float] | None = None,
) -> str:
    """The log's last line: `test: top-1 0.9750 (...), best checkpoint, epoch 8`; without top-1 what else there is.

    After a test of several views also what the `centre` alone came to.
    """
    top1 = metrics.get("test/top1")
    if top1 is None:
        found = ", ".join(f"{key.removeprefix('test/')} {value:.4f}" for key, value in metrics.items())
    else:
        found = f"top-1 {top1:.4f}" + (f" ({margin(top1, images)})" if images else "")
    if views > 1 and centre and "test/top1" in centre:
        found += f" from {views} views, {centre['test/top1']:.4f} from the centre"
    return f"test: {found or 'no metric test/... was logged'}, {checkpoint} checkpoint, epoch {epoch}"
