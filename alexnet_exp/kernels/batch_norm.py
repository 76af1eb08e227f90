"""Provides batch norm, ReLU and max pool in one kernel on a CPU: batch_norm.c on tensors of float32 or bfloat16.

The output of batch norm passes ReLU and pool unrounded, so that two values which rounding would make equal stay
different. Sums are float32 or better, and every result is rounded once.
"""

from __future__ import annotations

from ctypes import Array, c_int64
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.kernels.bindings import address, check_memory, int64s, is_half, loaded
from alexnet_exp.kernels.derivatives import differentiable

CHANNELS_LAST = torch.channels_last


class PoolWindow(NamedTuple):
    """The window of a max pool without padding, in pixels. Kernel 1 and stride 1: no pool."""

    kernel: int = 1
    stride: int = 1
    ceil: bool = False

    def side(self, side: int) -> int:
        """Returns the side of the pooled maps, as torch counts it: the last window must begin within the maps."""
        return (side - self.kernel + (self.stride - 1 if self.ceil else 0)) // self.stride + 1


NO_POOL = PoolWindow()


class RunningStatistics(NamedTuple):
    """A batch norm's running mean and variance, float32 [C], and the weight of the new batch in them."""

    mean: Tensor
    variance: Tensor
    momentum: float


def batch_norm_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    running: RunningStatistics | None,
    window: PoolWindow = NO_POOL,
) -> Tensor:
    """Returns the max pool of ReLU of batch norm with the batch's own statistics.

    Updates `running` as torch's batch norm does. x [N, C, H, W] float32 or bfloat16, channels_last; parameters and
    statistics float32 [C]. Returns [N, C, pooled H, pooled W] of the type of x, channels_last.
    """
    normed: Tensor = _BatchNormReLU.apply(x, weight, bias, eps, running, window)
    return normed


def frozen_norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, running: RunningStatistics, window: PoolWindow = NO_POOL
) -> Tensor:
    """Returns the same as `batch_norm_relu` with the running statistics, as in evaluation; without a gradient."""
    gain = weight * (running.variance + eps).rsqrt()
    return _normed(x, gain, bias - running.mean * gain, window, differentiable=False)[0]


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        running: RunningStatistics | None,
        window: PoolWindow,
    ) -> Tensor:
        n, channels, height, width = x.shape
        count = n * height * width
        mean, variance = weight.new_empty(channels), weight.new_empty(channels)
        given = address(x), is_half(x), count, channels, address(mean), address(variance)
        check_memory(loaded().batch_norm_statistics(*given, torch.get_num_threads()))
        if running is not None and count > 0:
            unbiased = variance * (count / (count - 1))
            for statistic, new in ((running.mean, mean), (running.variance, unbiased)):
                statistic.mul_(1 - running.momentum).add_(new, alpha=running.momentum)
        inverse = (variance + eps).rsqrt_()
        gain = weight * inverse
        offset = torch.addcmul(bias, mean, gain, value=-1)
        y, taken, source = _normed(x, gain, offset, window, differentiable=True)
        ctx.save_for_backward(x, weight, bias, taken, source, gain, offset, mean, inverse)
        ctx.window = window
        ctx.by_torch, ctx.operands = partial(_by_torch, eps=eps, window=window), 3
        return y

    @staticmethod
    @differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, _, _, taken, source, gain, offset, mean, inverse = ctx.saved_tensors
        g = g.contiguous(memory_format=CHANNELS_LAST)
        channels, half, threads = len(gain), is_half(x), torch.get_num_threads()
        factors = address(gain), address(offset)
        sums = gain.new_empty(2, channels)
        summed = address(x if source is None else source), address(g), half, g.numel() // channels, channels
        check_memory(loaded().batch_norm_sums(*summed, *factors, address(mean), address(sums), threads))
        dbias, dweight = sums[0], sums[1] * inverse
        dx = None
        if ctx.needs_input_grad[0]:
            # dx = gain * (g - mean of g - normed * mean of (g * normed)), normed = (x - mean) * inverse
            dx = torch.empty_like(x)
            share = gain / -(x.numel() // channels)
            slope = share * inverse * dweight
            rest = torch.addcmul(share * dbias, slope, mean, value=-1)
            given = address(x), address(g), address(taken), half, _pooled(x, ctx.window)
            slopes = address(gain), address(slope), address(rest)
            loaded().batch_norm_backward(*given, *factors, *slopes, address(dx), threads)
        return dx, dweight, dbias, None, None, None


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float, window: PoolWindow) -> Tensor:
    y = F.batch_norm(x.float(), None, None, weight, bias, training=True, eps=eps).relu()
    if window.kernel > 1:
        y = F.max_pool2d(y, window.kernel, window.stride, ceil_mode=window.ceil)
    return y.to(x.dtype)


def _normed(
    x: Tensor, gain: Tensor, offset: Tensor, window: PoolWindow, differentiable: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Returns the pool of ReLU of gain * x + offset.

    `differentiable`: also the place of each value in its window, and the value of x there (None without a pool).
    """
    n, channels, height, width = x.shape
    y = torch.empty((n, channels, window.side(height), window.side(width)), dtype=x.dtype, memory_format=CHANNELS_LAST)
    taken = source = None
    if differentiable and window.kernel > 1:
        taken, source = torch.empty_like(y, dtype=torch.uint8), torch.empty_like(y)
    given = address(x), is_half(x), _pooled(x, window), address(gain), address(offset)
    results = address(y), address(taken), address(source)
    loaded().batch_norm_forward(*given, *results, torch.get_num_threads())
    return y, taken, source


def _pooled(x: Tensor, window: PoolWindow) -> Array[c_int64]:
    """Returns the struct `Shape` of batch_norm.c."""
    n, channels, height, width = x.shape
    return int64s(n, height, width, channels, *window[:2], window.side(height), window.side(width))
