"""Provides the two conditions under which a kernel may replace torch's operators."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def operators_are_traced() -> bool:
    """Whether torch records, transforms or counts the operators that run now; a kernel is not one of them.

    True under torch.compile and torch.export, torch.jit.trace, the transforms of torch.func, forward-mode
    differentiation, and a TorchDispatchMode such as `FlopCounterMode`.
    """
    return (
        torch.compiler.is_compiling()  # an export too
        or torch._C._is_tracing()  # torch.jit.trace
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_plain_cpu_tensor(values: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether a kernel can read `values` at their address: a strided tensor on the CPU, of one of `dtypes`.

    A subclass, such as the fake tensors of an export, need not have memory. A parameter has.
    """
    return (
        type(values) in (Tensor, nn.Parameter)
        and values.device.type == "cpu"
        and values.dtype in dtypes
        and values.layout == torch.strided
        and not values.is_neg()
    )
