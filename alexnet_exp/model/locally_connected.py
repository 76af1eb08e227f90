"""Provides a locally connected layer: a convolution with separate weights at every pixel of the output."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocallyConnected2d(nn.Module):
    """A convolution whose weights are not shared: "local" of cuda-convnet, whose 13 % net has two.

    Settings: `Stage.local` of model/spec.py. Input [N, in_channels, H, W], output [N, out_channels, height, width],
    where `size` = (height, width) must be (H + 2 * padding - kernel) // stride + 1, and the same of W.

    `weight` [height, width, kernel, kernel, in, out] and `bias` [height, width, out]: as in cuda-convnet, every output
    unit has a bias. Both are initialized as a convolution of torch: uniform in +-1 / sqrt(fan-in).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        size: tuple[int, int],
        stride: int = 1,
        padding: int = 0,
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.kernel = in_channels, out_channels, kernel
        self.size, self.stride, self.padding = size, stride, padding
        limit = 1 / math.sqrt(in_channels * kernel**2)
        self.weight = nn.Parameter(torch.empty(*size, kernel, kernel, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(*size, out_channels))
        nn.init.uniform_(self.weight, -limit, limit)
        nn.init.uniform_(self.bias, -limit, limit)

    def forward(self, maps: Tensor) -> Tensor:
        height, width = self.size
        # One matrix product for each pixel of the output: the windows of all images times the weights of the pixel.
        # Pixels come first, so that a window consists of whole rows of channels; this is twice as fast as F.unfold.
        pixels = F.pad(maps, [self.padding] * 4).permute(2, 3, 0, 1).contiguous()
        rows, columns = self.stride * (height - 1) + 1, self.stride * (width - 1) + 1
        windows = torch.cat(
            [
                pixels[i : i + rows : self.stride, j : j + columns : self.stride]
                for i in range(self.kernel)
                for j in range(self.kernel)
            ],
            dim=-1,
        )
        out = torch.baddbmm(
            self.bias.flatten(0, 1).unsqueeze(1), windows.flatten(0, 1), self.weight.flatten(2, 4).flatten(0, 1)
        )
        return out.view(height, width, out.shape[1], out.shape[2]).permute(2, 3, 0, 1)

    def pixels(self) -> Iterator[Tensor]:
        """Yields the weights of each output pixel, row by row, as those of a convolution: [out, in, kernel, kernel]."""
        for weight in self.weight.detach().flatten(0, 1):
            yield weight.permute(3, 2, 0, 1)

    def extra_repr(self) -> str:
        maps = f"{self.in_channels}, {self.out_channels}, kernel={self.kernel}"
        return f"{maps}, size={self.size}, stride={self.stride}, padding={self.padding}"
