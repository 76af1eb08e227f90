"""Draws the filters of the first layer, as in the paper's Figure 3."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_exp.errors import UserError
from alexnet_exp.plots.style import DPI, INK, LINE, NOTE, figure, save, wrapped

ACROSS = 16
# in pixels: a filter is enlarged to at least TILE for any kernel size, so that gaps stay narrow
TILE = 60
GAP = 4
BETWEEN_COLUMNS = 48
MARGIN = 12
COLUMN_NAME_HEIGHT = 28  # of the line above a column
MIN_WIDTH = 720  # for a readable caption


def filters(
    weight: NDArray[np.floating], path: Path, columns: int = 1, layer: str = "the first layer", run: str = ""
) -> None:
    """Draws the filters of `layer`, [out, in, height, width], 16 per line, each on its own scale around zero.

    Three input channels are shown as colour, one as grey. The filters of the network's `columns` are set apart and
    named, the first column on top, as in the paper's Figure 3. Every weight is a square of whole pixels. Raises
    UserError for any other number of channels.
    """
    mosaic = mosaic_of(weight, columns)
    height, width = mosaic.shape[:2]
    out, channels, rows, across = weight.shape
    caption = (
        f"{out} filters of {layer}, {rows}x{across}, {'in colour' if channels == 3 else 'of one channel'}"
        f"{f', in {columns} columns' if columns > 1 else ''}. Each on its own scale: mid-grey is a weight of 0, "
        "the full range the filter's largest weight by amount; so the strengths of two filters cannot be compared."
    )
    caption += f" {run}." if run else ""
    whole = max(width, MIN_WIDTH) + 2 * MARGIN
    text = wrapped(caption, (whole - 2 * MARGIN) / DPI)
    below = round((text.count("\n") + 1) * LINE * DPI) + 2 * MARGIN
    above = COLUMN_NAME_HEIGHT if columns > 1 else 0
    total = height + above + below + MARGIN
    made = figure(whole / DPI, total / DPI)
    made.set_layout_engine("none")
    # pixel by pixel, because resampling would blur the squares or make them unequal
    made.figimage((mosaic * 255).round().astype(np.uint8), MARGIN, below)
    if columns > 1:
        top = MARGIN
        for number, block in enumerate(np.array_split(np.arange(out), columns), start=1):
            made.text(
                (MARGIN + GAP) / whole,
                1 - (top + COLUMN_NAME_HEIGHT / 2) / total,
                f"column {number}",
                fontsize=9,
                color=INK,
                va="center",
            )
            top += math.ceil(len(block) / ACROSS) * (_tile(weight) + GAP) - GAP + BETWEEN_COLUMNS
    made.text((MARGIN + GAP) / whole, MARGIN / total, text, fontsize=8, color=NOTE, va="bottom", linespacing=1.3)
    save(made, path, caption)


def mosaic_of(weight: NDArray[np.floating], columns: int = 1) -> NDArray[np.float64]:
    """Returns the filters as an image [height, width, 3] in 0..1 with white gaps."""
    out, channels, height, width = weight.shape
    if channels not in (1, 3):
        raise UserError(f"the first layer has {channels} input channels; only 1 or 3 can be drawn")
    tiles = np.broadcast_to(_scaled(weight).transpose(0, 2, 3, 1), (out, height, width, 3))
    scale = _tile(weight) // width
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    blocks = [_grid(block) for block in np.array_split(tiles, columns)]
    space = np.ones((BETWEEN_COLUMNS, blocks[0].shape[1], 3))
    parts = [part for block in blocks for part in (space, block)][1:]
    return np.pad(np.concatenate(parts), ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=1.0)


def _tile(weight: NDArray[np.floating]) -> int:
    """Returns the pixels across a filter, a whole number for each weight."""
    width = int(weight.shape[3])
    return math.ceil(TILE / width) * width


def _scaled(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scales each filter by its largest absolute weight over all channels to 0..1, with zero at 1/2."""
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
    return 0.5 + weight / np.where(largest > 0, 2 * largest, 1)


def _grid(tiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Arranges tiles [n, height, width, 3] in lines of up to 16, with white gaps."""
    count, height, width, _ = tiles.shape
    lines, across = math.ceil(count / ACROSS), min(count, ACROSS)
    grid = np.ones((lines * (height + GAP) - GAP, across * (width + GAP) - GAP, 3))
    for index, tile in enumerate(tiles):
        top, left = index // ACROSS * (height + GAP), index % ACROSS * (width + GAP)
        grid[top : top + height, left : left + width] = tile
    return grid
