"""Provides the conditions under which a kernel may replace torch's operators."""

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


def graph_is_compiled() -> bool:
    """Whether the operators that run now are traced for torch.compile, whose graphs may call operators of our own."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def is_plain_cpu_tensor(values: Tensor, *dtypes: torch.dtype) -> bool:
    """Returns `is_plain_tensor` for the CPU."""
    return is_plain_tensor(values, "cpu", *dtypes)


def is_plain_tensor(values: Tensor, device: str, *dtypes: torch.dtype) -> bool:
    """Whether a kernel can read `values` at their address: a strided tensor on that kind of device, of one of `dtypes`.

    A subclass, such as the fake tensors of an export, need not have memory. A parameter has.
    """
    return (
        type(values) in (Tensor, nn.Parameter)
        and values.device.type == device
        and values.dtype in dtypes
        and values.layout == torch.strided
        and not values.is_neg()
    )
