"""Layers of 2012 computed from their formulas, one map, pixel or window at a time: the references of tests."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.model.locally_connected import LocallyConnected2d
from alexnet_exp.model.spec import Convention


def lrn_by_the_formula(
    a: Tensor, size: int, alpha: float, beta: float, k: float, convention: Convention, columns: int
) -> Tensor:
    """b_i = a_i / (k + alpha * sum of a_j^2)^beta, j from i - n/2 to i + n/2 inside the column."""
    alpha = alpha / size if convention == Convention.code else alpha
    b, maps = torch.empty_like(a), a.shape[1] // columns
    for column in range(columns):
        for i in range(maps):
            around = range(max(0, i - size // 2), min(maps - 1, i + size // 2) + 1)
            total = sum(a[:, column * maps + j] ** 2 for j in around)
            b[:, column * maps + i] = a[:, column * maps + i] / (k + alpha * total) ** beta
    return b


def within_map_by_the_formula(x: Tensor, size: int, scale: float, beta: float, k: float) -> Tensor:
    y, (height, width) = torch.empty_like(x), x.shape[2:]
    for row in range(height):
        for column in range(width):
            top, left = max(0, row - size // 2), max(0, column - size // 2)
            window = x[:, :, top : row + size // 2 + 1, left : column + size // 2 + 1]
            total = (window**2).sum(dim=(2, 3))
            y[:, :, row, column] = x[:, :, row, column] / (k + scale / size**2 * total) ** beta
    return y


def average_pool_by_hand(maps: Tensor, kernel: int = 3, stride: int = 2) -> Tensor:
    """cuda-convnet's: sizes rounded up, each window divided by as many pixels as it has inside the map."""
    side = maps.shape[-1]
    out = math.ceil((side - kernel) / stride) + 1
    pooled = maps.new_empty(*maps.shape[:2], out, out)
    for row in range(out):
        for column in range(out):
            top, left = row * stride, column * stride
            pooled[:, :, row, column] = maps[:, :, top : top + kernel, left : left + kernel].mean(dim=(2, 3))
    return pooled


def by_the_pixel(layer: LocallyConnected2d, maps: Tensor) -> Tensor:
    """A convolution of one window at a time, each with the weights and biases of its own pixel."""
    height, width = layer.size
    k, s = layer.kernel, layer.stride
    padded = F.pad(maps, [layer.padding] * 4)
    units = [
        F.conv2d(
            padded[:, :, y * s : y * s + k, x * s : x * s + k],
            layer.weight[y, x].permute(3, 2, 0, 1),  # [kernel, kernel, in, out] as a convolution's
            layer.bias[y, x],
        ).flatten(1)
        for y in range(height)
        for x in range(width)
    ]
    return torch.stack(units, dim=-1).unflatten(-1, layer.size)
