"""What the first layer looks for: the paper's Figure 3."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_exp.plots.style import figure, save
from alexnet_exp.settings import UserError

ACROSS = 16
# in pixels of the picture: a filter is enlarged to at least TILE, whatever its kernel size, so that gaps stay narrow
TILE = 60
GAP = 4
BETWEEN_COLUMNS = 20


def filters(weight: NDArray[np.floating], path: Path, columns: int = 1) -> None:
    """The filters of a first layer, [out, in, height, width], 16 a line, each stretched to its own range.

    Three input channels are shown as colour, one as grey. The filters of the network's `columns` are set apart, the
    first column on top, as in the paper's Figure 3. Raises UserError for any other number of channels.
    """
    mosaic = mosaic_of(weight, columns)
    height, width = mosaic.shape[:2]
    inches = 8.0
    made = figure(inches, inches * height / width)
    made.set_layout_engine("none")
    axes = made.add_axes((0, 0, 1, 1))
    axes.imshow(mosaic, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    save(made, path)


def mosaic_of(weight: NDArray[np.floating], columns: int = 1) -> NDArray[np.float64]:
    """The same picture as an array [height, width, 3] in 0..1, white between the filters."""
    out, channels, height, width = weight.shape
    if channels not in (1, 3):
        raise UserError(f"the first layer has {channels} input channels; only 1 (grey) and 3 (colour) can be shown")
    tiles = np.broadcast_to(_stretched(weight).transpose(0, 2, 3, 1), (out, height, width, 3))
    scale = math.ceil(TILE / width)
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    blocks = [_grid(block) for block in np.array_split(tiles, columns)]
    space = np.ones((BETWEEN_COLUMNS, blocks[0].shape[1], 3))
    parts = [part for block in blocks for part in (space, block)][1:]
    return np.pad(np.concatenate(parts), ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=1.0)


def _stretched(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each filter by itself, over all its channels, to 0..1; one that is the same everywhere is mid-grey."""
    low = weight.min(axis=(1, 2, 3), keepdims=True).astype(np.float64)
    span = weight.max(axis=(1, 2, 3), keepdims=True) - low
    return np.where(span > 0, (weight - low) / np.where(span > 0, span, 1), 0.5)


def _grid(tiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tiles [n, height, width, 3] in lines of up to 16, with white gaps."""
    count, height, width, _ = tiles.shape
    lines, across = math.ceil(count / ACROSS), min(count, ACROSS)
    grid = np.ones((lines * (height + GAP) - GAP, across * (width + GAP) - GAP, 3))
    for index, tile in enumerate(tiles):
        top, left = index // ACROSS * (height + GAP), index % ACROSS * (width + GAP)
        grid[top : top + height, left : left + width] = tile
    return grid
