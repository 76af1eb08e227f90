"""Provides the convolution kernel for bfloat16 on a CPU: convolution.c on tensors.

Sums are float32 and every result is rounded once. The gradient of the weights is float32; torch rounds it to bfloat16.
"""

from __future__ import annotations

from ctypes import Array, c_int64
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import address, check_memory, int64s, library, loaded
from alexnet_exp.kernels.derivatives import first_order

CHANNELS_LAST = torch.channels_last


@cache
def has_bfloat16_products() -> bool:
    """Whether the kernels are loaded and this processor multiplies bfloat16 (AVX512_BF16)."""
    kernels = library()
    return kernels is not None and bool(kernels.convolution_takes(64, 64))


def takes_maps(maps_in: int, maps_out: int) -> bool:
    """Whether the convolution's kernels apply to these numbers of maps: multiples of 48 or 64."""
    return bool(loaded().convolution_takes(maps_in, maps_out))


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
        arguments = address(x), address(weight), address(bias), ctx.shape.array(), relu, address(y)
        check_memory(loaded().convolution_forward(*arguments, torch.get_num_threads()))
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
            check_memory(loaded().convolution_input_gradient(address(g), address(weight), shape, address(dx), threads))
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dw = torch.empty_like(weight)
            db = weight.new_empty(len(weight)) if ctx.bias else None
            results = address(dw), address(db)
            check_memory(loaded().convolution_weight_gradient(address(x), address(g), shape, *results, threads))
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
        return int64s(*self)
