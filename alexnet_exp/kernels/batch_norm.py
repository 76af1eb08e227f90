"""Provides batch norm, ReLU and max pool in one kernel, for bfloat16 on a CPU: batch_norm.c on tensors.

The output of batch norm passes ReLU and pool unrounded, so that two values which rounding would make equal stay
different. Sums are float32 or better, and every result is rounded once.
"""

from __future__ import annotations

from ctypes import Array, c_int64
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import address, check_memory, int64s, loaded
from alexnet_exp.kernels.derivatives import first_order

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

    Updates `running` as torch's batch norm does. x bfloat16 [N, C, H, W] channels_last, parameters and statistics
    float32 [C]. Returns bfloat16 [N, C, pooled H, pooled W], channels_last.
    """
    normed: Tensor = _BatchNormReLU.apply(x, weight, bias, eps, running, window)
    return normed


def frozen_norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, running: RunningStatistics, window: PoolWindow = NO_POOL
) -> Tensor:
    """Returns the same as `batch_norm_relu` with the running statistics, as in evaluation; without a gradient."""
    gain = weight * (running.variance + eps).rsqrt()
    return _normed(x, gain, bias - running.mean * gain, window)[0]


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
        results = address(mean), address(variance)
        check_memory(loaded().batch_norm_statistics(address(x), count, channels, *results, torch.get_num_threads()))
        if running is not None:
            unbiased = variance * (count / (count - 1))
            for statistic, new in ((running.mean, mean), (running.variance, unbiased)):
                statistic.mul_(1 - running.momentum).add_(new, alpha=running.momentum)
        inverse = (variance + eps).rsqrt_()
        gain = weight * inverse
        offset = torch.addcmul(bias, mean, gain, value=-1)
        y, taken = _normed(x, gain, offset, window)
        ctx.save_for_backward(x, taken, gain, offset, mean, inverse)
        ctx.window = window
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, taken, gain, offset, mean, inverse = ctx.saved_tensors
        g = g.contiguous(memory_format=CHANNELS_LAST)
        shape, threads = _pooled(x, ctx.window), torch.get_num_threads()
        sums = gain.new_empty(2, len(gain))
        given = address(x), address(g), address(taken), shape, address(gain), address(offset)
        check_memory(loaded().batch_norm_sums(*given, address(mean), address(sums), threads))
        dbias, dweight = sums[0], sums[1] * inverse
        dx = None
        if ctx.needs_input_grad[0]:
            # dx = gain * (g - mean of g - normed * mean of (g * normed)), normed = (x - mean) * inverse
            dx = torch.empty_like(x)
            share = gain / -(x.numel() // len(gain))
            slope = share * inverse * dweight
            rest = torch.addcmul(share * dbias, slope, mean, value=-1)
            factors = address(gain), address(slope), address(rest)
            loaded().batch_norm_backward(*given, *factors, address(dx), threads)
        return dx, dweight, dbias, None, None, None


def _normed(x: Tensor, gain: Tensor, offset: Tensor, window: PoolWindow) -> tuple[Tensor, Tensor | None]:
    """Returns the pool of ReLU of gain * x + offset, and the place of each value in its window (None: no pool)."""
    n, channels, height, width = x.shape
    y = torch.empty((n, channels, window.side(height), window.side(width)), dtype=x.dtype, memory_format=CHANNELS_LAST)
    taken = torch.empty_like(y, dtype=torch.uint8) if window.kernel > 1 else None
    given = address(x), _pooled(x, window), address(gain), address(offset)
    loaded().batch_norm_forward(*given, address(y), address(taken), torch.get_num_threads())
    return y, taken


def _pooled(x: Tensor, window: PoolWindow) -> Array[c_int64]:
    """Returns the struct `Shape` of batch_norm.c."""
    n, channels, height, width = x.shape
    return int64s(n, height, width, channels, *window[:2], window.side(height), window.side(width))
