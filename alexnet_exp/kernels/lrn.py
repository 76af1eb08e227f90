"""Local response normalization by the kernel in lrn.c: which tensors it takes, and in which shape it sees them."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alexnet_exp.kernels.native import native

DTYPES = (torch.float32, torch.bfloat16)
LEAST_K = 1e-30  # d^-0.75 and 1 / d of a smaller d are not all finite in float32


class Formula(NamedTuple):
    """b_i = a_i * (k + alpha * sum of a_j^2)^-beta, j over the maps up to `reach` away in the same of `columns`."""

    alpha: float
    beta: float
    k: float
    reach: int
    columns: int


def takes(a: Tensor, formula: Formula) -> bool:
    """Whether there is a kernel, and one for this tensor: on the CPU, float32 or bfloat16, with memory of its own."""
    return (
        type(a) in (Tensor, nn.Parameter)  # a subclass need not have what data_ptr promises
        and a.device.type == "cpu"
        and a.dtype in DTYPES
        and a.layout == torch.strided
        and not a.is_neg()
        and formula.k >= LEAST_K
        and formula.alpha >= 0
        and _function() is not None
    )


def forward(a: Tensor, formula: Formula) -> Tensor:
    """b of the formula; [N, C, ...] to the same, in a's dtype and layout (a's, or NCHW where a has gaps)."""
    return _run(_dense(a), None, formula)


def backward(a: Tensor, g: Tensor, formula: Formula) -> Tensor:
    """The gradient of a, where g is that of b."""
    a = _dense(a)
    same = g.contiguous() if a.is_contiguous() else _last(g)
    return _run(a, same, formula)


def _run(a: Tensor, g: Tensor | None, formula: Formula) -> Tensor:
    function = _function()
    assert function is not None
    out = torch.empty_like(a)
    images, channels = a.shape[:2]
    pixels = a[0, 0].numel() if a.numel() else 0
    outer, inner = (images, pixels) if a.is_contiguous() else (images * pixels, 1)
    alpha, beta, k, reach, columns = formula
    shape = (outer * columns, channels // columns, inner, reach)
    addresses = (a.data_ptr(), None if g is None else g.data_ptr(), out.data_ptr())
    if function(*addresses, *shape, alpha, beta, k, a.dtype == torch.bfloat16, torch.get_num_threads()):
        raise MemoryError("no memory for a few rows of local response normalization")
    return out


def _dense(a: Tensor) -> Tensor:
    """Itself where it is dense with the maps outermost (NCHW) or innermost (NHWC), else a dense copy."""
    if a.is_contiguous() or a.movedim(1, -1).is_contiguous():
        return a
    return _last(a) if a.stride(1) == 1 else a.contiguous()


def _last(a: Tensor) -> Tensor:
    """Dense with the maps innermost."""
    return a.movedim(1, -1).contiguous().movedim(-1, 1)


@cache
def _function() -> Any:
    """The kernel's entry point; None where there is no kernel."""
    library = native().library
    if library is None:
        return None
    function = library.alexnet_exp_lrn
    pointer, size, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    function.argtypes = [pointer] * 3 + [size] * 4 + [number] * 3 + [flag] * 2
    function.restype = ctypes.c_int
    return function
