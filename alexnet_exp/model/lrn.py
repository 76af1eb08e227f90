"""Provides the normalizations of 2012: local response normalization across maps, and cuda-convnet's within a map."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_exp.kernels import lrn as kernel
from alexnet_exp.kernels.lrn import Formula
from alexnet_exp.kernels.tracing import operators_are_traced
from alexnet_exp.model.spec import Convention

CHUNK_VALUES = 1 << 18  # processed at a time by torch's operators on a CPU, so that they stay in its caches


class LRN(nn.Module):
    """Local response normalization across maps (section 3.3 of the paper). Settings: `Lrn` of model/spec.py.

        b_i = a_i / (k + alpha * S_i)^beta

    S_i runs over the `size` maps around map i, at the same pixel, cut off at the first and last map. Convention
    `paper`: S_i is the sum of a_j^2, the formula as printed. Convention `code`: S_i is that sum divided by `size`, as
    Krizhevsky's 2012 code and `torch.nn.LocalResponseNorm` compute it (also at the edges, where fewer than `size` maps
    are summed). So alpha = 1e-4 under `code` is 2e-5 under `paper`.

    `columns` > 1: the maps are split into as many equal groups, which are normalized separately, as on the two GPUs of
    2012. Input and output: [N, C, ...] of any floating dtype and the same layout, C a multiple of `columns`, else
    ValueError. Half precisions are computed in float32, since squares overflow them. Only the input is saved for the
    backward pass.

    Computed by kernels/lrn.c on a CPU; by torch's operators where there is no kernel, where operators are traced
    (`operators_are_traced`), and for a gradient with a graph (`create_graph=True`).
    """

    def __init__(
        self,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 2.0,
        convention: Convention = Convention.code,
        columns: int = 1,
    ):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        self.convention, self.columns = convention, columns

    def forward(self, maps: Tensor) -> Tensor:
        alpha = self.alpha if self.convention == Convention.paper else self.alpha / self.size
        formula = Formula(alpha, self.beta, self.k, self.size // 2, self.columns)
        if operators_are_traced():
            return _traceable(maps, formula)
        if maps.shape[1] % self.columns:
            raise ValueError(f"{maps.shape[1]} maps cannot be split into {self.columns} columns")
        normalized: Tensor = _Response.apply(maps, formula)
        return normalized

    def extra_repr(self) -> str:
        settings = f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, convention={self.convention}"
        return f"{settings}, columns={self.columns}"


class _Response(torch.autograd.Function):
    """LRN with an explicit gradient that needs only the input.

    With d_i = k + alpha * S_i, b_i = a_i * d_i^-beta and g the gradient of b, the gradient of a is
    g_i * d_i^-beta - 2 * alpha * beta * a_i * (sum of g_j * b_j / d_j over the maps of S_i): map i is in the sum of
    exactly those maps that are in its own sum.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, formula: Formula) -> Tensor:
        ctx.save_for_backward(a)
        ctx.formula = formula
        return kernel.forward(a, formula) if kernel.takes(a, formula) else _by_operators(a, formula)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (a,), formula = ctx.saved_tensors, ctx.formula
        if torch.is_grad_enabled():  # create_graph=True: the gradient will be differentiated
            return torch.autograd.grad(_traceable(a, formula), a, g, create_graph=True)[0], None
        by_kernel = kernel.takes(a, formula) and kernel.takes(g, formula)
        return kernel.backward(a, g, formula) if by_kernel else _gradient_by_operators(a, g, formula), None


def _by_operators(a: Tensor, formula: Formula) -> Tensor:
    """Returns b of the formula, of `a` [N, C, ...]."""
    b = torch.empty_like(a)
    for values, normalized in zip(_chunks(a), _chunks(b), strict=True):
        wide = _at_least_float32(values)
        normalized.copy_(_scale(_divisor(wide, formula), formula.beta).mul_(wide))
    return b


def _gradient_by_operators(a: Tensor, g: Tensor, formula: Formula) -> Tensor:
    """Returns the gradient of `a` from `g`, the gradient of b."""
    gradient = torch.empty_like(a)
    for values, above, below in zip(_chunks(a), _chunks(g), _chunks(gradient), strict=True):
        wide = _at_least_float32(values)
        d = _divisor(wide, formula)
        scaled = _scale(d, formula.beta).mul_(above)
        around = _sum_around((scaled * wide).div_(d), formula)
        below.copy_(scaled.addcmul_(wide, around, value=-2 * formula.alpha * formula.beta))
    return gradient


def _chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Returns the images in chunks on a CPU, whole on a GPU, where few large operations are faster."""
    if x.device.type != "cpu" or x.numel() <= CHUNK_VALUES:
        return (x,)
    return torch.split(x, max(1, CHUNK_VALUES // x[0].numel()))


def _divisor(a: Tensor, formula: Formula) -> Tensor:
    """Returns d = k + alpha * (sum of a^2 over the maps up to `reach` away)."""
    return _sum_around(a.square(), formula).mul_(formula.alpha).add_(formula.k)


def _scale(d: Tensor, beta: float) -> Tensor:
    """Returns d^-beta; for the usual 0.75 by square roots, which take a fraction of the time of a power."""
    if beta != 0.75:
        return d.pow(-beta)
    root = d.sqrt()
    return root.sqrt().mul_(root).reciprocal_()


def _sum_around(x: Tensor, formula: Formula) -> Tensor:
    """Returns the sum of each map and its neighbors up to `reach` away in its column; [N, C, ...], as `x`."""
    total = x.clone()
    for values, sums in zip(x.chunk(formula.columns, 1), total.chunk(formula.columns, 1), strict=True):
        for distance in range(1, min(formula.reach, values.shape[1] - 1) + 1):
            sums[:, distance:] += values[:, :-distance]
            sums[:, :-distance] += values[:, distance:]
    return total


def _traceable(a: Tensor, formula: Formula) -> Tensor:
    """Returns b of the formula by operators that can be exported, transformed and differentiated twice."""
    wide = _at_least_float32(a)
    maps = a.shape[1] // formula.columns
    squares = wide.square().reshape(a.shape[0], formula.columns, maps, *a.shape[2:])
    reach = min(formula.reach, maps - 1)
    padded = F.pad(squares, [0, 0] * (a.dim() - 2) + [reach, reach])
    total = reduce(torch.add, (padded.narrow(2, shift, maps) for shift in range(2 * reach + 1)))
    d = total.flatten(1, 2) * formula.alpha + formula.k
    return (wide * d.pow(-formula.beta)).to(a.dtype)


class WithinMapNorm(nn.Module):
    """Response normalization within a map: "cnorm" and "rnorm" of cuda-convnet, in the code and not in the paper.

    Settings: `WithinMap` of model/spec.py (`model.within_map` in YAML).

        y = x / (k + scale / size^2 * sum of x^2 over the size x size window of the same map)^beta

    The window is centered on the pixel and cut off at the map's edge; the divisor stays size^2 there. Input and output:
    [N, C, H, W] of the same floating dtype.
    """

    def __init__(self, size: int = 5, scale: float = 0.001, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size, self.scale, self.beta, self.k = size, scale, beta, k

    def forward(self, maps: Tensor) -> Tensor:
        wide = _at_least_float32(maps)
        mean = F.avg_pool2d(wide.square(), self.size, stride=1, padding=self.size // 2)
        return (wide * (self.k + self.scale * mean).pow(-self.beta)).to(maps.dtype)

    def extra_repr(self) -> str:
        return f"{self.size}, scale={self.scale}, beta={self.beta}, k={self.k}"


def _at_least_float32(maps: Tensor) -> Tensor:
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
