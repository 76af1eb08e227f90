"""Provides local response normalization by the kernel in lrn.c. The module that uses it: `LRN` of model/lrn.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.tracing import is_plain_cpu_tensor

SMALLEST_K = 1e-30  # d^-0.75 and 1 / d of a smaller d are not all finite in float32


class Formula(NamedTuple):
    """b_i = a_i * (k + alpha * sum of a_j^2)^-beta, j over the maps up to `reach` away in the same column.

    Section 3.3 of the paper; `columns` equal groups of maps are normalized separately.
    """

    alpha: float
    beta: float
    k: float
    reach: int
    columns: int


def takes(a: Tensor, formula: Formula) -> bool:
    """Whether the kernel exists and applies: float32 or bfloat16 on the CPU, and a divisor that cannot be 0."""
    return (
        is_plain_cpu_tensor(a, torch.float32, torch.bfloat16)
        and formula.k >= SMALLEST_K
        and formula.alpha >= 0
        and library() is not None
    )


def forward(a: Tensor, formula: Formula) -> Tensor:
    """Returns b of the formula, of `a` [N, C, ...]: the same shape, dtype and layout (NCHW where `a` has gaps)."""
    return _run(_dense(a), None, formula)


def backward(a: Tensor, g: Tensor, formula: Formula) -> Tensor:
    """Returns the gradient of `a`, where `g` is that of b; all of one shape."""
    a = _dense(a)
    return _run(a, g.contiguous() if a.is_contiguous() else _channels_last(g), formula)


def _run(a: Tensor, g: Tensor | None, formula: Formula) -> Tensor:
    kernels = library()
    assert kernels is not None
    out = torch.empty_like(a)
    images, channels = a.shape[:2]
    pixels = a[0, 0].numel() if a.numel() else 0
    outer, inner = (images, pixels) if a.is_contiguous() else (images * pixels, 1)
    alpha, beta, k, reach, columns = formula
    shape = (outer * columns, channels // columns, inner, reach)
    addresses = (a.data_ptr(), None if g is None else g.data_ptr(), out.data_ptr())
    if kernels.lrn(*addresses, *shape, alpha, beta, k, a.dtype == torch.bfloat16, torch.get_num_threads()):
        raise MemoryError("out of memory in local response normalization; use a smaller data.batch_size")
    return out


def _dense(a: Tensor) -> Tensor:
    """Returns `a` itself where it is dense as NCHW or NHWC, else a dense copy."""
    if a.is_contiguous() or a.movedim(1, -1).is_contiguous():
        return a
    return _channels_last(a) if a.stride(1) == 1 else a.contiguous()


def _channels_last(a: Tensor) -> Tensor:
    """Returns `a`, of any number of dimensions, dense with the maps innermost."""
    return a.movedim(1, -1).contiguous().movedim(-1, 1)
