"""Provides the normalizations of 2012: local response normalization across maps, and cuda-convnet's within a map."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_exp.kernels import lrn as kernel
from alexnet_exp.kernels.lrn import Formula, at_least_float32
from alexnet_exp.kernels.tracing import operators_are_traced
from alexnet_exp.model.spec import Convention


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

    Computed by kernels/lrn.c on a CPU and by kernels/lrn_triton.py on a GPU, there also in a compiled graph; by torch's
    operators where there is no kernel, where operators are traced otherwise (`operators_are_traced`), and for a
    gradient with a graph (`create_graph=True`).
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
            operator = kernel.operator_for_graphs(maps, formula)
            return _traceable(maps, formula) if operator is None else operator(maps, *formula)
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
        return kernel.forward(a, formula)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (a,), formula = ctx.saved_tensors, ctx.formula
        if torch.is_grad_enabled():  # create_graph=True: the gradient will be differentiated
            return torch.autograd.grad(_traceable(a, formula), a, g, create_graph=True)[0], None
        return kernel.backward(a, g, formula), None


def _traceable(a: Tensor, formula: Formula) -> Tensor:
    """Returns b of the formula by operators that can be exported, transformed and differentiated twice."""
    wide = at_least_float32(a)
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
        wide = at_least_float32(maps)
        mean = F.avg_pool2d(wide.square(), self.size, stride=1, padding=self.size // 2)
        return (wide * (self.k + self.scale * mean).pow(-self.beta)).to(maps.dtype)

    def extra_repr(self) -> str:
        return f"{self.size}, scale={self.scale}, beta={self.beta}, k={self.k}"
