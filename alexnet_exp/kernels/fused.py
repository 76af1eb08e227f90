"""Provides fused kernels for bfloat16 on a CPU: convolution, batch norm with ReLU and max pool, ReLU with dropout.

Each function takes maps or units in bfloat16, as autocast makes them, and parameters in float32. Sums are float32 or
better, and every result is rounded once. `FusedStage` of model/stage.py decides which modules run in them.

Differences from torch's operators, beyond rounding:

- the gradient of a convolution's weights is float32; torch rounds it to bfloat16;
- batch norm's output passes ReLU and pool unrounded, so that two values which rounding would make equal stay different;
- dropout draws its mask from one number of torch's generator, so that the same seed drops other units than in torch.
"""

from __future__ import annotations

from ctypes import CDLL, Array, c_int64
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import library
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


@cache
def has_bfloat16_products() -> bool:
    """Whether the kernels are loaded and this processor multiplies bfloat16 (AVX512_BF16)."""
    kernels = library()
    return kernels is not None and bool(kernels.convolution_takes(64, 64))


def takes_maps(maps_in: int, maps_out: int) -> bool:
    """Whether the convolution's kernels apply to these numbers of maps: multiples of 48 or 64."""
    return bool(_kernels().convolution_takes(maps_in, maps_out))


# ---- convolution ----


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, pad: int, relu: bool = False) -> Tensor:
    """Returns a convolution of stride 1 by a square window, followed by ReLU if `relu`.

    x bfloat16 [N, in, H, W] channels_last, weight float32 [out, in, k, k], bias float32 [out]. Returns bfloat16
    [N, out, H + 2 pad - k + 1, W + 2 pad - k + 1], channels_last.
    """
    convolved: Tensor = _Convolution.apply(x, weight, bias, pad, relu)
    return convolved


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pad: int, relu: bool) -> Tensor:
        weight = weight.contiguous(memory_format=CHANNELS_LAST)
        bias = None if bias is None else bias.contiguous()
        out, _, kernel, _ = weight.shape
        ctx.shape = _ConvolutionShape.of(x, out, kernel, pad)
        y = torch.empty((len(x), out, *ctx.shape[4:6]), dtype=x.dtype, memory_format=CHANNELS_LAST)
        arguments = _address(x), _address(weight), _address(bias), ctx.shape.array(), relu, _address(y)
        _check(_kernels().convolution_forward(*arguments, torch.get_num_threads()))
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.bias = bias is not None
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        g = g.contiguous(memory_format=CHANNELS_LAST)
        if y is not None:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        shape, threads = ctx.shape.array(), torch.get_num_threads()
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            _check(_kernels().convolution_input_gradient(_address(g), _address(weight), shape, _address(dx), threads))
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dw = torch.empty_like(weight)
            db = weight.new_empty(len(weight)) if ctx.bias else None
            results = _address(dw), _address(db)
            _check(_kernels().convolution_weight_gradient(_address(x), _address(g), shape, *results, threads))
        return dx, dw, db, None, None


class _ConvolutionShape(NamedTuple):
    """The struct `Shape` of convolution.c."""

    n: int
    height: int
    width: int
    maps_in: int
    out_height: int
    out_width: int
    maps_out: int
    kernel: int
    pad: int

    @classmethod
    def of(cls, x: Tensor, out: int, kernel: int, pad: int) -> _ConvolutionShape:
        n, maps, height, width = x.shape
        return cls(
            n, height, width, maps, height + 2 * pad - kernel + 1, width + 2 * pad - kernel + 1, out, kernel, pad
        )

    def array(self) -> Array[c_int64]:
        return _int64s(*self)


# ---- batch norm, ReLU and pool ----


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
        results = _address(mean), _address(variance)
        _check(_kernels().batch_norm_statistics(_address(x), count, channels, *results, torch.get_num_threads()))
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
        given = _address(x), _address(g), _address(taken), shape, _address(gain), _address(offset)
        _check(_kernels().batch_norm_sums(*given, _address(mean), _address(sums), threads))
        dbias, dweight = sums[0], sums[1] * inverse
        dx = None
        if ctx.needs_input_grad[0]:
            # dx = gain * (g - mean of g - normed * mean of (g * normed)), normed = (x - mean) * inverse
            dx = torch.empty_like(x)
            share = gain / -(x.numel() // len(gain))
            slope = share * inverse * dweight
            rest = torch.addcmul(share * dbias, slope, mean, value=-1)
            factors = _address(gain), _address(slope), _address(rest)
            _kernels().batch_norm_backward(*given, *factors, _address(dx), threads)
        return dx, dweight, dbias, None, None, None


def _normed(x: Tensor, gain: Tensor, offset: Tensor, window: PoolWindow) -> tuple[Tensor, Tensor | None]:
    """Returns the pool of ReLU of gain * x + offset, and the place of each value in its window (None: no pool)."""
    n, channels, height, width = x.shape
    y = torch.empty((n, channels, window.side(height), window.side(width)), dtype=x.dtype, memory_format=CHANNELS_LAST)
    taken = torch.empty_like(y, dtype=torch.uint8) if window.kernel > 1 else None
    given = _address(x), _pooled(x, window), _address(gain), _address(offset)
    _kernels().batch_norm_forward(*given, _address(y), _address(taken), torch.get_num_threads())
    return y, taken


def _pooled(x: Tensor, window: PoolWindow) -> Array[c_int64]:
    """Returns the struct `Shape` of batch_norm.c."""
    n, channels, height, width = x.shape
    return _int64s(n, height, width, channels, *window[:2], window.side(height), window.side(width))


# ---- ReLU and dropout ----


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """Returns dropout, as in training, of ReLU of x: bfloat16 of any shape, without gaps."""
    dropped: Tensor = _ReLUDropout.apply(x, p)
    return dropped


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        seed = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32)
        y, ctx.scale = torch.empty_like(x), 1 / (1 - p)
        given = _address(x), x.numel(), round(p * 2**32), ctx.scale, _address(seed)
        _kernels().relu_dropout(*given, _address(y), torch.get_num_threads())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        layout = torch.contiguous_format if y.is_contiguous() else CHANNELS_LAST
        g, dx = g.contiguous(memory_format=layout), torch.empty_like(y)
        given = _address(y), _address(g), y.numel(), ctx.scale
        _kernels().relu_dropout_backward(*given, _address(dx), torch.get_num_threads())
        return dx, None


# ---- arguments and results of the kernels ----


def _kernels() -> CDLL:
    kernels = library()
    assert kernels is not None, "called without `has_bfloat16_products`"
    return kernels


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _int64s(*numbers: int) -> Array[c_int64]:
    return (c_int64 * len(numbers))(*numbers)


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("out of memory in a fused kernel; use a smaller data.batch_size")
