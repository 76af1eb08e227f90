"""Provides ReLU and dropout in one kernel, for bfloat16 on a CPU: dropout.c on tensors.

The mask is drawn from one number of torch's generator, so the same seed drops other units than torch's dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import address, loaded
from alexnet_exp.kernels.derivatives import first_order


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """Returns dropout, as in training, of ReLU of x: bfloat16 of any shape, without gaps."""
    dropped: Tensor = _ReLUDropout.apply(x, p)
    return dropped


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        seed = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32)
        y, ctx.scale = torch.empty_like(x), 1 / (1 - p)
        given = address(x), x.numel(), round(p * 2**32), ctx.scale, address(seed)
        loaded().relu_dropout(*given, address(y), torch.get_num_threads())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        layout = torch.contiguous_format if y.is_contiguous() else torch.channels_last
        g, dx = g.contiguous(memory_format=layout), torch.empty_like(y)
        given = address(y), address(g), y.numel(), ctx.scale
        loaded().relu_dropout_backward(*given, address(dx), torch.get_num_threads())
        return dx, None
