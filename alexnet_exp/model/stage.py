"""Provides a stage of the network, and runs its modules together where a fused kernel applies."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from alexnet_exp.kernels import batch_norm, convolution, dropout
from alexnet_exp.kernels.batch_norm import NO_POOL, PoolWindow, RunningStatistics
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.choice import CONVOLUTION, Candidate, Choice, Operator, Shape, active, dtype_name
from alexnet_exp.kernels.convolution import DIRECTIONS, ConvolutionShape, Ways, applies
from alexnet_exp.kernels.tracing import is_plain_cpu_tensor, operators_are_traced

HOOK_ATTRIBUTES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
DTYPES = (torch.float32, torch.bfloat16)  # in which the kernels compute


class FusedStage(nn.Sequential):
    """A stage's modules one after another; in float32 or under bfloat16 autocast on a CPU some of them in one kernel.

    Settings: `Stage` of model/spec.py (`model.stages` in YAML).

    A module with a hook runs by itself, so that the hook sees its input and output. Which implementation computes an
    operator: `choice.active`.
    """

    def forward(self, input: Tensor) -> Tensor:
        modules = [*self]
        if not _may_fuse(input):
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        while modules:
            input, ran = run_first(modules, input)
            del modules[:ran]
        return input


def run_first(modules: list[nn.Module], x: Tensor) -> tuple[Tensor, int]:
    """Returns the output of the first of `modules`, or of the first few in one kernel, and how many ran."""
    first, second, third = [*modules, None, None][:3]
    relu = is_relu(second)
    if are_maps(x) and _is_plain_module(first):
        if isinstance(first, nn.Conv2d) and (ways := convolution_ways(first, x)) is not None:
            assert isinstance(first.padding[0], int)
            sizes = first.stride[0], first.padding[0]
            return convolution.convolve(x.to(run_dtype(x)), first.weight, first.bias, *sizes, relu, ways), 1 + relu
        if relu and isinstance(first, nn.BatchNorm2d) and takes_norm(first, x):
            window = pool_window(third, x)
            if norm_is_native(x, window or NO_POOL):
                return _batch_norm_relu(first, x, window or NO_POOL), 2 if window is None else 3
    if is_relu(first) and takes_dropout(second, x):
        native = active("bfloat16").candidate(Operator.DROPOUT) == Candidate.NATIVE and library() is not None
        return dropout.relu_dropout(x, second.p, native), 2
    return first(x), 1  # type: ignore[misc]


def _may_fuse(x: Tensor) -> bool:
    """Whether `x` is on the CPU, float32 or under bfloat16 autocast, no operator is traced, and no hook is global."""
    return (
        not operators_are_traced()
        and is_plain_cpu_tensor(x, x.dtype)
        and run_dtype(x) in DTYPES
        and not any(getattr(torch_modules, f"_global{hooks}", None) for hooks in HOOK_ATTRIBUTES)
    )


def run_dtype(x: Tensor) -> torch.dtype:
    """Returns the precision in which torch would multiply `x`."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return x.dtype


def are_maps(x: Tensor) -> bool:
    """Whether the maps are channels_last; not maps of one pixel, nor a single map, which have no layout."""
    return (
        x.dtype in DTYPES
        and x.ndim == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )


def _is_plain_module(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Whether it is torch's module unchanged: no subclass, no hook, float32 parameters on the CPU.

    `kinds`: the classes to accept; none: convolution and batch norm.
    """
    if module is None or type(module) not in (kinds or (nn.Conv2d, nn.BatchNorm2d)):
        return False
    parameters = [each for each in module._parameters.values() if each is not None]
    return (
        not any(vars(module)[hooks] for hooks in HOOK_ATTRIBUTES)
        and "forward" not in vars(module)
        and all(type(each) is nn.Parameter and is_plain_cpu_tensor(each, torch.float32) for each in parameters)
    )


def is_relu(module: nn.Module | None) -> bool:
    """Whether it is torch's ReLU, unchanged."""
    return _is_plain_module(module, nn.ReLU)


def convolution_ways(conv: nn.Conv2d, x: Tensor) -> Ways | None:
    """Returns the candidates for a convolution of `x`; None where torch's module computes it as well."""
    kernel, stride, pad = conv.kernel_size, conv.stride, conv.padding
    plain = (
        conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(pad, str)
        and kernel[0] == kernel[1]
        and stride[0] == stride[1]
        and pad[0] == pad[1]
        and x.shape[1] == conv.in_channels
        and min(x.shape[2:]) + 2 * pad[0] >= kernel[0]
    )
    weight = conv._parameters.get("weight")  # None: a pruned weight is a plain tensor that a hook makes
    if not plain or weight is None:
        return None
    return _applying_ways(active(dtype_name(run_dtype(x))), x.shape, weight.shape, stride[0], pad[0], run_dtype(x))


@lru_cache(maxsize=256)
def _applying_ways(
    choice: Choice, x: torch.Size, weight: torch.Size, stride: int, pad: int | str, dtype: torch.dtype
) -> Ways | None:
    """Returns the chosen candidates that apply to a convolution; None where all are torch's."""
    assert isinstance(pad, int)
    shape = ConvolutionShape.of(x, weight, stride, pad)
    near = Shape(x[1], weight[0], math.isqrt(x[2] * x[3]), weight[2], stride)
    chosen = [choice.candidate(operator, near) for operator in CONVOLUTION]
    found = Ways(
        *(
            candidate if applies(direction, candidate, shape, dtype) else Candidate.TORCH
            for direction, candidate in zip(DIRECTIONS, chosen, strict=True)
        )
    )
    return None if {*found} == {Candidate.TORCH} else found


def norm_is_native(x: Tensor, window: PoolWindow) -> bool:
    """Whether the kernel is chosen for batch norm, ReLU and this pool of `x`."""
    shape = Shape(x.shape[1], x.shape[1], math.isqrt(x.shape[2] * x.shape[3]), window.kernel, window.stride)
    chosen = active(dtype_name(x.dtype)).candidate(Operator.NORM, shape)
    return chosen == Candidate.NATIVE and library() is not None


def takes_norm(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether the kernel computes what this batch norm does with `x`."""
    statistics = norm.running_mean, norm.running_var
    return (
        norm.affine
        and norm.track_running_stats
        and all(each is not None and is_plain_cpu_tensor(each, torch.float32) for each in statistics)
        and x.shape[1] == norm.num_features
        # torch rejects a single value per channel, and a cumulative average (momentum null) needs the count of batches
        and (norm.momentum is not None and x.numel() > x.shape[1] if norm.training else not torch.is_grad_enabled())
    )


def pool_window(pool: nn.Module | None, x: Tensor) -> PoolWindow | None:
    """Returns the window of a max pool to which the kernel applies, else None."""
    if not isinstance(pool, nn.MaxPool2d) or not _is_plain_module(pool, nn.MaxPool2d):
        return None
    kernel, stride = pool.kernel_size, pool.stride
    plain = (pool.padding, pool.dilation, pool.return_indices) == (0, 1, False)
    if not plain or not isinstance(kernel, int) or not isinstance(stride, int) or not 1 < kernel <= 15:
        return None
    if kernel > min(x.shape[2:]) or (pool.ceil_mode and stride > kernel):
        return None
    return PoolWindow(kernel, stride, pool.ceil_mode)


def _batch_norm_relu(norm: nn.BatchNorm2d, x: Tensor, window: PoolWindow) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    running = RunningStatistics(norm.running_mean, norm.running_var, norm.momentum or 0.0)
    if not norm.training:
        return batch_norm.frozen_norm_relu(x, norm.weight, norm.bias, norm.eps, running, window)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return batch_norm.batch_norm_relu(x, norm.weight, norm.bias, norm.eps, running, window)


def takes_dropout(module: nn.Module | None, x: Tensor) -> TypeGuard[nn.Dropout]:
    """Whether it is a dropout in training that `relu_dropout` computes, of an `x` in bfloat16."""
    return (
        isinstance(module, nn.Dropout)
        and _is_plain_module(module, nn.Dropout)
        and module.training
        and 0 < module.p < 1
        and x.dtype == torch.bfloat16  # in float32 a run draws torch's own mask
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and 0 < x.numel() < 2**32
    )
