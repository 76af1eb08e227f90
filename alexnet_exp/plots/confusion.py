"""Draws a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from alexnet_exp.plots.style import ACCENT, INK, QUIET, figure, literal, quiet, save

WITH_COUNTS = 20
WITH_NAMES = 60
LONGEST_NAME = 22
LETTERS_AN_INCH = 8
# shades follow the square root, so that a share of one in a hundred is still visible
ROOT = 0.5
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", ACCENT])


def confusion_matrix(
    labels: ArrayLike, predictions: ArrayLike, classes: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draws true classes as rows and predicted ones as columns, shaded by the share of the row.

    `labels` and `predictions` are class indices [N]. Up to 20 classes have their counts written in, up to 60 their
    names; with more, a class is one pixel or more without text.
    """
    counts = count(labels, predictions, len(classes))
    totals = counts.sum(axis=1, keepdims=True)
    parts = counts / np.maximum(totals, 1)
    side = float(np.clip(0.52 * len(classes), 4.2, 8.0)) if len(classes) <= WITH_NAMES else 8.0
    made = figure(side + 2.0, side + 1.2)
    if title:
        made.suptitle(literal(title), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    axes = made.subplots()
    image = axes.imshow(parts, cmap=SHADES, norm=PowerNorm(ROOT, 0, 1), interpolation="nearest")
    images = int(counts.sum())
    accuracy = f", top-1 {counts.trace() / images:.1%}" if images else ""
    quiet(axes, f"{images:,} images, {len(classes)} classes{accuracy}", "Predicted class")
    axes.set_ylabel("True class", fontsize=9, color=INK)
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=QUIET, linewidth=0.6)
    if len(classes) <= WITH_NAMES:
        _name(axes, classes, side)
    if len(classes) <= WITH_COUNTS:
        _write_counts(axes, counts, parts)
    bar = made.colorbar(
        image, ax=axes, shrink=0.5, aspect=25, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1], format=PercentFormatter(xmax=1)
    )
    bar.set_label("share of the true class", fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    bar.outline.set_visible(False)
    caption = f"Share of each true class (row) that was predicted as each class (column): {images:,} images{accuracy}."
    save(made, path, f"{title}: {caption}" if title else caption)


def count(labels: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Returns the confusion matrix:

    counts by true class [row] and predicted class [column], int64 [classes, classes].
    """
    pairs = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _name(axes: Axes, classes: Sequence[str], inches: float) -> None:
    short = (name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in classes)
    names = [literal(name) for name in short]
    size = float(np.clip(420 / len(names) / 2, 4.5, 9))
    flat = max(map(len, names)) <= LETTERS_AN_INCH * inches / len(names)
    axes.set_xticks(
        range(len(names)), names, fontsize=size, rotation=0 if flat else 45, ha="center" if flat else "right"
    )
    axes.set_yticks(range(len(names)), names, fontsize=size)
    if not flat:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")


def _write_counts(axes: Axes, counts: NDArray[np.int64], parts: NDArray[np.float64]) -> None:
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if parts[row, column] ** ROOT > 0.6 else INK
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=8 if len(text) < 5 else 6.5, color=colour)
