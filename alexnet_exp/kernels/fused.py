"""The step in bfloat16 on a CPU by kernels of our own: convolution, batch norm with ReLU and pool, ReLU with dropout.

Each function here takes maps or units in bfloat16, as autocast makes them, and parameters in float32; sums are float32
or better, and every result is rounded once. `stage.py` chooses when they run.

What differs from torch's operators, beyond rounding: the gradient of a convolution's weights is float32 (torch rounds
it to bfloat16), the batch norm's output goes through ReLU and pool unrounded (so that two values that rounding would
make equal stay two), and dropout draws its mask from one number of torch's generator, so that other units are dropped
than by torch's operator from the same seed.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexnet_exp.kernels.derivatives import first_order
from alexnet_exp.kernels.native import native

LAST = torch.channels_last


class Window(NamedTuple):
    """A max pool without padding; kernel 1, stride 1: none."""

    kernel: int = 1
    stride: int = 1
    ceil: bool = False

    def side(self, side: int) -> int:
        """Of the pooled maps, as torch counts it without padding: a last window must begin within the maps."""
        return (side - self.kernel + (self.stride - 1 if self.ceil else 0)) // self.stride + 1


NO_POOL = Window()


class Running(NamedTuple):
    """A batch norm's running statistics, and how much of the new is taken into them."""

    mean: Tensor
    variance: Tensor
    momentum: float


@cache
def products() -> bool:
    """Whether this processor multiplies bfloat16, and the kernels are there."""
    library = native().library
    return library is not None and bool(library.convolution_takes(_long(64), _long(64)))


def takes_maps(maps_in: int, maps_out: int) -> bool:
    """Whether the convolution's kernels can take so many maps: multiples of a vector's width."""
    return bool(_library().convolution_takes(_long(maps_in), _long(maps_out)))


# ---- convolution ----


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, pad: int, relu: bool = False) -> Tensor:
    """A convolution of stride 1 by a square window; with `relu` what is below 0 in it becomes 0.

    x bfloat16 [N, in, H, W] channels_last, weight float32 [out, in, k, k], bias float32 [out]; to bfloat16
    [N, out, H + 2 pad - k + 1, W + 2 pad - k + 1], channels_last.
    """
    convolved: Tensor = _Convolution.apply(x, weight, bias, pad, relu)
    return convolved


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pad: int, relu: bool) -> Tensor:
        weight = weight.contiguous(memory_format=LAST)
        bias = None if bias is None else bias.contiguous()
        out, _, kernel, _ = weight.shape
        ctx.shape = _Shape.of(x, out, kernel, pad)
        y = torch.empty((len(x), out, *ctx.shape[4:6]), dtype=x.dtype, memory_format=LAST)
        arguments = _address(x), _address(weight), _address(bias), ctx.shape.longs(), int(relu), _address(y)
        _check(_library().convolution_forward(*arguments, torch.get_num_threads()))
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.bias = bias is not None
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        g = g.contiguous(memory_format=LAST)
        if y is not None:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        shape, threads = ctx.shape.longs(), torch.get_num_threads()
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            _check(_library().convolution_input_gradient(_address(g), _address(weight), shape, _address(dx), threads))
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dw = torch.empty_like(weight)
            db = weight.new_empty(len(weight)) if ctx.bias else None
            found = _address(dw), _address(db)
            _check(_library().convolution_weight_gradient(_address(x), _address(g), shape, *found, threads))
        return dx, dw, db, None, None


class _Shape(NamedTuple):
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
    def of(cls, x: Tensor, out: int, kernel: int, pad: int) -> _Shape:
        n, maps, height, width = x.shape
        return cls(
            n, height, width, maps, height + 2 * pad - kernel + 1, width + 2 * pad - kernel + 1, out, kernel, pad
        )

    def longs(self) -> ctypes.Array[ctypes.c_int64]:
        return _longs(*self)


# ---- batch norm, ReLU and pool ----


def batch_norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, running: Running | None, window: Window = NO_POOL
) -> Tensor:
    """Batch norm with the batch's own statistics, ReLU and max pool; updates `running` as torch's batch norm does.

    x bfloat16 [N, C, H, W] channels_last, parameters and statistics float32 [C]; to bfloat16, channels_last.
    """
    normed: Tensor = _BatchNormReLU.apply(x, weight, bias, eps, running, window)
    return normed


def frozen_norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, running: Running, window: Window = NO_POOL
) -> Tensor:
    """The same with the running statistics, as in evaluation; no gradient."""
    gain = weight * (running.variance + eps).rsqrt()
    return _normed(x, gain, bias - running.mean * gain, window)[0]


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, running: Running | None, window: Window
    ) -> Tensor:
        n, channels, height, width = x.shape
        count = n * height * width
        mean, variance = weight.new_empty(channels), weight.new_empty(channels)
        sizes = _long(count), _long(channels)
        found = _address(mean), _address(variance)
        _check(_library().batch_norm_statistics(_address(x), *sizes, *found, torch.get_num_threads()))
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
        g = g.contiguous(memory_format=LAST)
        shape, threads = _pooled(x, ctx.window), torch.get_num_threads()
        sums = gain.new_empty(2, len(gain))
        given = _address(x), _address(g), _address(taken), shape, _address(gain), _address(offset)
        _check(_library().batch_norm_sums(*given, _address(mean), _address(sums), threads))
        dbias, dweight = sums[0], sums[1] * inverse
        dx = None
        if ctx.needs_input_grad[0]:
            # dx = gain * (g - mean of g - normed * mean of (g * normed)), normed = (x - mean) * inverse
            dx = torch.empty_like(x)
            share = gain / -(x.numel() // len(gain))
            slope = share * inverse * dweight
            rest = torch.addcmul(share * dbias, slope, mean, value=-1)
            factors = _address(gain), _address(slope), _address(rest)
            _library().batch_norm_backward(*given, *factors, _address(dx), threads)
        return dx, dweight, dbias, None, None, None


def _normed(x: Tensor, gain: Tensor, offset: Tensor, window: Window) -> tuple[Tensor, Tensor | None]:
    """Pool of ReLU of gain * x + offset, and where in its window each value was taken (None without a pool)."""
    n, channels, height, width = x.shape
    y = torch.empty((n, channels, window.side(height), window.side(width)), dtype=x.dtype, memory_format=LAST)
    taken = torch.empty_like(y, dtype=torch.uint8) if window.kernel > 1 else None
    given = _address(x), _pooled(x, window), _address(gain), _address(offset)
    _library().batch_norm_forward(*given, _address(y), _address(taken), torch.get_num_threads())
    return y, taken


def _pooled(x: Tensor, window: Window) -> ctypes.Array[ctypes.c_int64]:
    n, channels, height, width = x.shape
    return _longs(n, height, width, channels, *window[:2], window.side(height), window.side(width))


# ---- ReLU and dropout ----


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """Dropout of ReLU of x, in training: bfloat16 of any shape, without gaps, to the same."""
    dropped: Tensor = _ReLUDropout.apply(x, p)
    return dropped


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        seed = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32)
        y, ctx.scale = torch.empty_like(x), ctypes.c_float(1 / (1 - p))
        drop = ctypes.c_uint32(round(p * 2**32))
        given = _address(x), _long(x.numel()), drop, ctx.scale, _address(seed)
        _library().relu_dropout(*given, _address(y), torch.get_num_threads())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        layout = torch.contiguous_format if y.is_contiguous() else LAST
        g, dx = g.contiguous(memory_format=layout), torch.empty_like(y)
        given = _address(y), _address(g), _long(y.numel()), ctx.scale
        _library().relu_dropout_backward(*given, _address(dx), torch.get_num_threads())
        return dx, None


# ---- what the kernels are given ----


def _library() -> ctypes.CDLL:
    library = native().library
    assert library is not None, "asked for without `products`"
    return library


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _long(number: int) -> ctypes.c_int64:
    return ctypes.c_int64(number)


def _longs(*numbers: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for a convolution's or a batch norm's own copies of its maps")
