"""Provides ReLU and dropout in one operator, for bfloat16 on a CPU: dropout.c on tensors, or torch's operators.

The mask is drawn from one number of torch's generator and the index of a unit, so both candidates drop the same units.
The same seed drops other units than torch's dropout, whose generator takes longer than the rest of the operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import address, loaded
from alexnet_exp.kernels.derivatives import differentiable

WORD = 2**32 - 1


def relu_dropout(x: Tensor, p: float, native: bool = True) -> Tensor:
    """Returns dropout, as in training, of ReLU of x: bfloat16 of any shape, without gaps, of fewer than 2**32 values.

    p: the probability of a zero, between 0 and 1. native: by dropout.c, else by torch's operators; the bits are equal.
    """
    dropped: Tensor = _ReLUDropout.apply(x, p, native)
    return dropped


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, native: bool) -> Tensor:
        seed = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32)
        drop, scale = min(round(p * 2**32), WORD), 1 / (1 - p)
        y = torch.empty_like(x)
        if native:
            given = address(x), x.numel(), drop, scale, address(seed)
            loaded().relu_dropout(*given, address(y), torch.get_num_threads())
        else:
            factors = torch.where(_drawn(x.numel(), *seed.tolist()) < drop, 0.0, scale)
            _memory(y).copy_(factors.mul_(_memory(x).float().clamp_(min=0)))
        ctx.save_for_backward(y)
        ctx.scale, ctx.native = scale, native
        return y

    @staticmethod
    @differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not ctx.native:
            return torch.where(y <= 0, 0, g * ctx.scale), None, None
        layout = torch.contiguous_format if y.is_contiguous() else torch.channels_last
        g, dx = g.contiguous(memory_format=layout), torch.empty_like(y)
        given = address(y), address(g), y.numel(), ctx.scale
        loaded().relu_dropout_backward(*given, address(dx), torch.get_num_threads())
        return dx, None, None


def _memory(x: Tensor) -> Tensor:
    """Returns the values of x as they follow each other in memory."""
    return x.view(-1) if x.is_contiguous() else x.permute(0, 2, 3, 1).view(-1)


def _drawn(count: int, low: int, high: int) -> Tensor:
    """Returns the numbers that dropout.c draws for the units 0 to count - 1, from 0 to 2**32 - 1."""
    bits = torch.arange(count).bitwise_xor_(low & WORD)
    return _mixed(_mixed(bits).add_(high & WORD).bitwise_and_(WORD))


def _mixed(bits: Tensor) -> Tensor:
    """Returns `mixed` of dropout.c. The low 32 bits of a product are right also where int64 overflows."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ bits >> shift).mul_(factor).bitwise_and_(WORD)
    return bits ^ bits >> 16
