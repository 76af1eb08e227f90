"""The two normalizations of 2012: local response normalization across maps, and cuda-convnet's within a map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        wide = _at_least_float32(maps)
        n, c = maps.shape[:2]
        # A window of maps is a window of rows once each map is laid out as one: a 2-D pool, 3 times faster on a CPU
        # than the 3-D one of torch.nn.LocalResponseNorm. Padding counts, so that it divides by `size` at the edges too.
        squares = wide.square().reshape(n * self.columns, 1, c // self.columns, -1)
        mean = F.avg_pool2d(squares, (self.size, 1), stride=1, padding=(self.size // 2, 0)).reshape(maps.shape)
        alpha = self.alpha * self.size if self.convention == Convention.paper else self.alpha
        return (wide * (self.k + alpha * mean).pow(-self.beta)).to(maps.dtype)

    def extra_repr(self) -> str:
        settings = f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, convention={self.convention}"
        return f"{settings}, columns={self.columns}"


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
