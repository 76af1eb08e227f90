"""A stage of the network, and when its modules run together in the kernels of `fused.py`."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from alexnet_exp.kernels import fused
from alexnet_exp.kernels.fused import NO_POOL, Running, Window
from alexnet_exp.kernels.native import native

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FusedStage(nn.Sequential):
    """A stage's modules one after another; in bfloat16 on a CPU some of them in one kernel, see `fused_path`.

    A module of which somebody wants to see input or output (a hook) runs by itself.
    """

    def forward(self, input: Tensor) -> Tensor:
        modules = [*self]
        if not _possible(input):
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        while modules:
            input, ran = _next(modules, input)
            del modules[:ran]
        return input


def fused_path(device: str, precision: str, channels_last: bool, compiled: bool = False) -> tuple[bool, str]:
    """Whether a network of these stages trains in the kernels of `fused.py`, and in a few words why not.

    In bfloat16 only: in float32 a seed's results stay those of torch's operators.
    """
    if device != "cpu":
        return False, "the step's are for the CPU"
    if precision != "bf16-mixed":
        return False, f"the step's are for bf16-mixed, not {precision}"
    if not channels_last:
        return False, "the step's are for channels_last"
    if compiled:
        return False, "the step is torch.compile's"
    if native().library is None:
        return False, native().why
    if not fused.products():
        return False, "the step's need a processor that multiplies bfloat16"
    return True, "native kernels"


def kernels_of(device: str, precision: str, channels_last: bool, compiled: bool = False) -> str:
    """Which native kernels a run uses: `step, LRN, images`, `LRN, images`, on a GPU `images`; or `none: ` and why."""
    if native().library is None:
        return f"none: {native().why}"
    if device != "cpu":
        return "images"
    return "step, LRN, images" if fused_path(device, precision, channels_last, compiled)[0] else "LRN, images"


def _next(modules: list[nn.Module], x: Tensor) -> tuple[Tensor, int]:
    """The output of the first of `modules`, or of the first few together, and how many they were."""
    first, second, third = [*modules, None, None][:3]
    relu = _is_relu(second)
    if _maps(x) and _is_own(first):
        if isinstance(first, nn.Conv2d) and _takes_convolution(first, x):
            assert isinstance(first.padding[0], int)
            return fused.convolution(x, first.weight, first.bias, first.padding[0], relu), 1 + relu
        if relu and isinstance(first, nn.BatchNorm2d) and _takes_norm(first, x):
            window = _window(third, x)
            return _normed(first, x, window or NO_POOL), 2 if window is None else 3
    if _is_relu(first) and _takes_dropout(second, x):
        return fused.relu_dropout(x, second.p), 2
    return first(x), 1  # type: ignore[misc]


def _possible(x: Tensor) -> bool:
    """Whether `x` is a plain tensor on the CPU under bfloat16 autocast, and nobody is recording what is done to it."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and not any(getattr(torch_modules, f"_global{hooks}", None) for hooks in HOOKS)
        and fused.products()
    )


def _maps(x: Tensor) -> bool:
    return (
        x.dtype == torch.bfloat16
        and x.ndim == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _is_own(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Whether it is torch's module unchanged: no subclass, nobody watching, its parameters in float32."""
    if module is None or type(module) not in (kinds or (nn.Conv2d, nn.BatchNorm2d)):
        return False
    parameters = [each for each in module._parameters.values() if each is not None]
    return (
        not any(vars(module)[hooks] for hooks in HOOKS)
        and "forward" not in vars(module)
        and all(type(each) is nn.Parameter and _is_float32_here(each) for each in parameters)
    )


def _is_float32_here(values: Tensor) -> bool:
    return values.dtype == torch.float32 and values.device.type == "cpu"


def _is_relu(module: nn.Module | None) -> bool:
    return _is_own(module, nn.ReLU)


def _takes_convolution(conv: nn.Conv2d, x: Tensor) -> bool:
    kernel, pad = conv.kernel_size, conv.padding
    return (
        conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not isinstance(pad, str)
        and pad[0] == pad[1] < kernel[0] == kernel[1]
        and x.shape[1] == conv.in_channels
        and min(x.shape[2:]) + 2 * pad[0] >= kernel[0]
        and conv._parameters.get("weight") is not None  # pruned: a plain tensor, made by a hook
        and fused.takes_maps(conv.in_channels, conv.out_channels)
    )


def _takes_norm(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    statistics = norm.running_mean, norm.running_var
    return (
        norm.affine
        and norm.track_running_stats
        and all(each is not None and _is_float32_here(each) for each in statistics)
        and x.shape[1] == norm.num_features
        # torch refuses one value a channel, and a cumulative average needs its count
        and (norm.momentum is not None and x.numel() > x.shape[1] if norm.training else not torch.is_grad_enabled())
    )


def _window(pool: nn.Module | None, x: Tensor) -> Window | None:
    """The window of a max pool that the kernel takes, else None."""
    if not isinstance(pool, nn.MaxPool2d) or not _is_own(pool, nn.MaxPool2d):
        return None
    kernel, stride = pool.kernel_size, pool.stride
    plain = (pool.padding, pool.dilation, pool.return_indices) == (0, 1, False)
    if not plain or not isinstance(kernel, int) or not isinstance(stride, int) or not 1 < kernel <= 15:
        return None
    if kernel > min(x.shape[2:]) or (pool.ceil_mode and stride > kernel):
        return None
    return Window(kernel, stride, pool.ceil_mode)


def _normed(norm: nn.BatchNorm2d, x: Tensor, window: Window) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    running = Running(norm.running_mean, norm.running_var, norm.momentum or 0.0)
    if not norm.training:
        return fused.frozen_norm_relu(x, norm.weight, norm.bias, norm.eps, running, window)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return fused.batch_norm_relu(x, norm.weight, norm.bias, norm.eps, running, window)


def _takes_dropout(module: nn.Module | None, x: Tensor) -> TypeGuard[nn.Dropout]:
    return (
        isinstance(module, nn.Dropout)
        and _is_own(module, nn.Dropout)
        and module.training
        and 0 < module.p < 1
        and x.dtype == torch.bfloat16
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and 0 < x.numel() < 2**32
    )
