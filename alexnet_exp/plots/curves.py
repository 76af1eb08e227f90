"""Draws learning curves and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from alexnet_exp.plots.style import ACCENT, INK, NOTE, QUIET, figure, literal, quiet, save

Row = Mapping[str, float | None]
SPLITS = {"train": QUIET, "val": ACCENT}


def learning_curves(rows: Sequence[Row], path: Path, title: str, tested: float | None = None) -> None:
    """Draws loss and top-1 accuracy by epoch, for training and validation, from the rows of metrics.csv.

    A vertical line marks the epoch `tested`, whose checkpoint was tested.
    """
    made = figure(9, 3.6)
    made.suptitle(literal(title), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    left, right = made.subplots(1, 2)
    _by_epoch(left, rows, "loss", "Loss (cross-entropy)")
    _by_epoch(right, rows, "top1", "Top-1 accuracy")
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    caption = f"{title}: loss and top-1 accuracy by epoch, of training and validation."
    if tested is not None:
        caption += f" The checkpoint of epoch {tested:.0f} was tested."
        for axes in (left, right):
            axes.axvline(tested, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        # at the top, where a loss curve has no line at its best epoch
        _, top = left.get_ylim()
        side = "right" if tested - left.get_xlim()[0] > left.get_xlim()[1] - tested else "left"
        _label(left, tested, top, f"epoch {tested:.0f}: tested", (-4 if side == "right" else 4, -2), NOTE, side, "top")
    save(made, path, caption)


def schedule(curve: Sequence[float], path: Path, steps_per_epoch: int = 1, title: str = "Learning rate") -> None:
    """Draws the learning rate of each step in `curve`, at least one; with `steps_per_epoch` the axis counts epochs.

    A rate that falls from level to level is drawn on a logarithmic axis, where every level can be read.
    """
    made = figure(6.5, 3.4)
    axes = made.subplots()
    quiet(axes, title, "Step" if steps_per_epoch == 1 else "Epoch")
    axes.xaxis.set_major_locator(_whole_numbers())
    # each value applies to one whole step
    times = [step / steps_per_epoch for step in range(len(curve) + 1)]
    axes.step(times, [*curve, curve[-1]], where="post", color=ACCENT, linewidth=1.8)
    peak = max(range(len(curve)), key=curve.__getitem__)
    labelled = sorted({0, peak, len(curve) - 1}) if curve[-1] < curve[peak] else sorted({0, peak})
    levels = _levels(curve)
    if levels:
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_ylim(min(curve) / 2, curve[peak] * 3)
        labelled = levels
    else:
        axes.set_ylim(0, curve[peak] * 1.15)
    axes.margins(x=0.02)
    for step in labelled:
        at_end = step == len(curve) - 1
        side = "right" if at_end else "left" if levels or step == 0 else "center"
        # the label of the start is above a curve that rises from there
        offset = (2, 20) if step == 0 < peak else (3 if side == "left" else 0, 4)
        _label(axes, times[step + at_end], curve[step], f"{curve[step]:.3g}", offset, INK, side)
    save(made, path)


def _levels(curve: Sequence[float]) -> list[int]:
    """Returns the first step of each level of a step function, the highest first; empty for another curve."""
    falls = [
        step
        for step in range(2, len(curve))
        if 0 < curve[step] < curve[step - 1] / 2 and curve[step - 2] == curve[step - 1]
    ]
    return [max(range(len(curve)), key=curve.__getitem__), *falls] if falls else []


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10])


def _by_epoch(axes: Axes, rows: Sequence[Row], metric: str, title: str) -> None:
    quiet(axes, title, "Epoch")
    axes.xaxis.set_major_locator(_whole_numbers())
    ends = []
    for split, colour in SPLITS.items():
        points = [(epoch, value) for epoch, value in _series(rows, f"{split}/{metric}") if math.isfinite(value)]
        if points:
            epochs, values = zip(*points, strict=True)
            marker = "o" if len(points) <= 30 else None
            axes.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5)
            ends.append((split, epochs[-1], values[-1], colour))
    axes.margins(x=0.04, y=0.08)
    if ends and len({row["epoch"] for row in rows}) == 1:
        axes.set_xlim(ends[0][1] - 1, ends[0][1] + 1)
    _label_ends(axes, ends, as_percent=metric == "top1")


def _series(rows: Sequence[Row], column: str) -> list[tuple[float, float]]:
    pairs = ((row["epoch"], row.get(column)) for row in rows)
    return [(epoch, value) for epoch, value in pairs if epoch is not None and value is not None]


def _label_ends(axes: Axes, ends: list[tuple[str, float, float, str]], as_percent: bool) -> None:
    """Labels each line at its last point; two labels that are close are moved apart."""
    low, high = axes.get_ylim()
    apart = 0.07 * (high - low)
    ends = sorted(ends, key=lambda end: end[2])
    places: list[float] = []
    for end in ends:
        places.append(max(places[-1] + apart, end[2]) if places else end[2])
    # centred on the ends of the lines, because the upper one may end at the top of the axes
    shift = sum(place - end[2] for place, end in zip(places, ends, strict=True)) / max(len(ends), 1)
    for place, (split, epoch, value, colour) in zip(places, ends, strict=True):
        place -= shift
        text = f"{split} {value:.1%}" if as_percent else f"{split} {value:.3f}"
        height = (place - value) / (high - low) * axes.get_window_extent().height * 72 / axes.figure.dpi
        _label(axes, epoch, value, text, (7, height), colour, "left", "center")


def _label(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    offset: tuple[float, float],
    colour: str,
    horizontal: str = "center",
    vertical: str = "bottom",
) -> None:
    axes.annotate(
        text, (x, y), offset, textcoords="offset points", color=colour, fontsize=8.5, ha=horizontal, va=vertical
    )
