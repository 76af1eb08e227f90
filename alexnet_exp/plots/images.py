"""Draws images with predictions, and with their nearest training images: the two halves of the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet_exp.plots.style import INK, LINE, NOTE, OTHER, QUIET, TRUE, WRONG, figure, save, words, wrapped

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Numbers = NDArray[np.floating]

# all in inches
EDGE = 0.15
PANEL, PICTURE, NAME, BAR, PANELS_APART = 2.35, 1.6, 0.3, 0.2, 0.25
ACROSS = 4
TILE, TILES_APART, UNDER, QUERY_APART = 1.1, 0.1, 0.42, 0.3
HEADING = 0.3
FULL = 1.25  # width of the axis, where 1 is a probability of 1: the rest is for the text `>99.9%`


def predictions(
    images: Bytes,
    labels: Integers,
    top: Integers,
    probabilities: Numbers,
    names: Sequence[str],
    path: Path,
    caption: str,
) -> None:
    """Draws each image with its class and the most probable classes as bars, the true one in blue.

    `images` uint8 [N, H, W, 3], their `labels` [N], the most probable classes `top` [N, k], and their
    `probabilities` [N, k]; `names` by class.
    """
    across = min(ACROSS, len(images))
    lines = -(-len(images) // across)
    bars = top.shape[1] * BAR
    height = PICTURE + NAME + bars + PANELS_APART
    width = max(2, across) * (PANEL + PANELS_APART) - PANELS_APART + 2 * EDGE
    made, bottom = _framed(width, lines * height - PANELS_APART, caption)
    for place, image in enumerate(images):
        left = EDGE + place % across * (PANEL + PANELS_APART)
        low = bottom + (lines - 1 - place // across) * height
        _show(_axes(made, left + (PANEL - PICTURE) / 2, low + bars + NAME, PICTURE, PICTURE), image)
        name = words(names[labels[place]], 30)
        _write(made, left + PANEL / 2, low + bars + NAME / 2, name, 9, weight="bold")
        _bars(_axes(made, left, low, PANEL, bars), top[place], probabilities[place], labels[place], names)
    save(made, path, caption)


def neighbours(
    images: Bytes,
    labels: Integers,
    near: Bytes,
    near_labels: Integers,
    distances: Numbers,
    names: Sequence[str],
    path: Path,
    caption: str,
) -> None:
    """Draws a row for each image: the image, then its neighbours by distance, with a frame if the class differs.

    `images` uint8 [N, H, W, 3] and their `labels` [N]; the neighbours `near` [N, k, H, W, 3], their labels [N, k] and
    `distances` [N, k]; `names` by class.
    """
    k = near.shape[1]
    height = TILE + UNDER
    width = max(5, k + 1) * (TILE + TILES_APART) - TILES_APART + QUERY_APART + 2 * EDGE
    made, bottom = _framed(width, len(images) * height + HEADING, caption)
    head = bottom + len(images) * height + HEADING / 2
    _write(made, EDGE, head, "image", 8.5, NOTE, ha="left")
    first = EDGE + TILE + TILES_APART + QUERY_APART
    _write(made, first, head, "nearest training images, and their distances", 8.5, NOTE, ha="left")
    for row, image in enumerate(images):
        low = bottom + (len(images) - 1 - row) * height + UNDER
        _show(_axes(made, EDGE, low, TILE, TILE), image)
        _write(made, EDGE + TILE / 2, low - LINE * 0.7, words(names[labels[row]], 15), 8, weight="bold")
        for column in range(k):
            left = first + column * (TILE + TILES_APART)
            axes = _axes(made, left, low, TILE, TILE)
            _show(axes, near[row, column])
            wrong = near_labels[row, column] != labels[row]
            if wrong:
                axes.spines[:].set(visible=True, color=WRONG, linewidth=3)
            colour = WRONG if wrong else INK
            _write(made, left + TILE / 2, low - LINE * 0.7, words(names[near_labels[row, column]], 16), 8, colour)
            _write(made, left + TILE / 2, low - LINE * 1.6, _digits(float(distances[row, column])), 7.5, NOTE)
    save(made, path, caption)


def _framed(width: float, content: float, caption: str) -> tuple[Figure, float]:
    """Returns a figure with `caption` at the bottom, and the bottom of the content in inches."""
    text = wrapped(caption, width - 2 * EDGE)
    bottom = EDGE + (text.count("\n") + 1) * LINE + 0.1
    made = figure(width, bottom + content + EDGE)
    made.set_layout_engine("none")
    made.text(
        EDGE / width,
        EDGE / made.get_figheight(),
        text,
        fontsize=8,
        color=NOTE,
        va="bottom",
        linespacing=1.3,
    )
    return made, bottom


def _axes(made: Figure, left: float, low: float, width: float, height: float) -> Axes:
    across, up = made.get_size_inches()
    return made.add_axes((left / across, low / up, width / across, height / up))


def _write(
    made: Figure,
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = INK,
    ha: str = "center",
    weight: str = "normal",
) -> None:
    across, up = made.get_size_inches()
    made.text(x / across, y / up, text, fontsize=size, color=colour, ha=ha, va="center", fontweight=weight)


def _show(axes: Axes, image: Bytes) -> None:
    axes.imshow(image)  # matplotlib enlarges small images without interpolation
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _bars(axes: Axes, classes: Integers, probabilities: Numbers, true: int, names: Sequence[str]) -> None:
    places = range(len(classes))
    axes.barh(places, probabilities, height=0.84, color=[TRUE if each == true else OTHER for each in classes])
    for place, (each, probability) in enumerate(zip(classes, probabilities, strict=True)):
        weight = "bold" if each == true else "normal"
        axes.text(0.02, place, words(names[each], 26), fontsize=8, va="center", color=INK, fontweight=weight)
        axes.text(FULL, place, _percent(float(probability)), fontsize=7.5, va="center", ha="right", color=INK)
    axes.set_xlim(0, FULL)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_axis_off()
    axes.axvline(0, color=QUIET, linewidth=1.2)


def _digits(distance: float) -> str:
    """Returns a distance with three digits."""
    if distance >= 99.95 or distance == 0:
        return f"{distance:,.0f}"
    return f"{distance:#.3g}"


def _percent(probability: float) -> str:
    """Returns a probability in percent, never rounded to 0% or 100%."""
    if 0 < probability < 0.001:
        return "<0.1%"
    if 0.999 < probability < 1:
        return ">99.9%"
    return f"{probability:.1%}"
