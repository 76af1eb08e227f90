"""The two normalizations of 2012: local response normalization across maps, and cuda-convnet's within a map."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alexnet_exp.model.spec import Convention


class LRN(nn.Module):
    """Local response normalization across maps (section 3.3 of the paper).

        b_i = a_i / (k + alpha * S_i)^beta

    S_i runs over the `size` maps around map i, at the same pixel, cut off at the first and last map. Convention
    `paper`: S_i is the sum of a_j^2, the formula as printed. Convention `code`: S_i is that sum divided by `size`, as
    Krizhevsky's 2012 code and `torch.nn.LocalResponseNorm` compute it (also at the edges, where fewer than `size` maps
    are summed). So alpha = 1e-4 under `code` is 2e-5 under `paper`.

    With `columns` > 1 each of as many equal groups of maps is normalized by itself, as each GPU of 2012 saw only its
    own. [N, C, ...] of any floating dtype, C a multiple of `columns`, to the same; half precisions are computed in
    float32, since squares overflow them.
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
        arguments = (alpha, self.beta, self.k, self.size // 2, self.columns)
        wide = _at_least_float32(maps)
        if not torch.is_grad_enabled():
            return _response(wide, *arguments)[0].to(maps.dtype)  # no function of our own in an exported graph
        normalized: Tensor = _Response.apply(wide, *arguments)
        return normalized.to(maps.dtype)

    def extra_repr(self) -> str:
        settings = f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, convention={self.convention}"
        return f"{settings}, columns={self.columns}"


class _Response(torch.autograd.Function):
    """LRN with its gradient written out: 3 to 4 times faster on a CPU than what autograd makes of the formula.

    With d_i = k + alpha * S_i, b_i = a_i * d_i^-beta and g the gradient of b, that of a is
    g_i * d_i^-beta - 2 * alpha * beta * a_i * (sum of g_j * b_j / d_j over the same maps as in S_i): map i stands in
    the sum of just those maps that stand in its own.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, alpha: float, beta: float, k: float, reach: int, columns: int) -> Tensor:
        b, scale, d = _response(a, alpha, beta, k, reach, columns)
        ctx.save_for_backward(a, scale, d)
        ctx.arguments = (alpha, beta, reach, columns)
        return b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, scale, d = ctx.saved_tensors
        alpha, beta, reach, columns = ctx.arguments
        scaled = g * scale
        around = _sum_around((scaled * a).div_(d), reach, columns)
        return scaled.addcmul_(a, around, value=-2 * alpha * beta), None, None, None, None, None


def _response(
    a: Tensor, alpha: float, beta: float, k: float, reach: int, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """a * d^-beta, d^-beta, and d = k + alpha * (sum of a^2 over the maps up to `reach` away)."""
    d = _sum_around(a.square(), reach, columns).mul_(alpha).add_(k)
    scale = d.pow(-beta)
    return a * scale, scale, d


def _sum_around(x: Tensor, reach: int, columns: int) -> Tensor:
    """The sum of each map and of those up to `reach` before and behind it in its column; [N, C, ...] to the same."""
    total = x.clone()
    for values, sums in zip(x.chunk(columns, 1), total.chunk(columns, 1), strict=True):
        for distance in range(1, min(reach, values.shape[1] - 1) + 1):
            sums[:, distance:] += values[:, :-distance]
            sums[:, :-distance] += values[:, distance:]
    return total


class WithinMapNorm(nn.Module):
    """Response normalization within a map: "cnorm" and "rnorm" of cuda-convnet, in the code and not in the paper.

        y = x / (k + scale / size^2 * sum of x^2 over the size x size window of the same map)^beta

    The window is centred on the pixel and cut off at the map's edge; the divisor stays size^2 there. [N, C, H, W] of
    any floating dtype to the same.
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
