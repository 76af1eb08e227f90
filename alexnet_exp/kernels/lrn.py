"""Provides local response normalization, by the kernels in lrn.c and lrn_triton.py or by torch's operators.

The module that uses it: `LRN` of model/lrn.py.
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.choice import Candidate, Operator, Shape, active, dtype_name, setting
from alexnet_exp.kernels.tracing import graph_is_compiled, is_plain_tensor

log = logging.getLogger(__name__)

CHUNK_VALUES = 1 << 18  # processed at a time by torch's operators on a CPU, so that they stay in its caches
SMALLEST_K = 1e-30  # d^-0.75 and 1 / d of a smaller d are not all finite in float32
TRITON_DEVICE = "cuda"
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LONGEST_REACH = 8  # of the Triton kernels, whose loops over a window are unrolled
OLDEST_GPU = (8, 0)  # compute capability: the first with bfloat16


class Formula(NamedTuple):
    """b_i = a_i * (k + alpha * sum of a_j^2)^-beta, j over the maps up to `reach` away in the same column.

    Section 3.3 of the paper; `columns` equal groups of maps are normalized separately.
    """

    alpha: float
    beta: float
    k: float
    reach: int
    columns: int


def forward(a: Tensor, formula: Formula) -> Tensor:
    """Returns b of the formula, of `a` [N, C, ...]: the same shape, dtype and layout (NCHW where `a` has gaps)."""
    return native_forward(a, formula) if _runs_natively(a, formula) else torch_forward(a, formula)


def backward(a: Tensor, g: Tensor, formula: Formula) -> Tensor:
    """Returns the gradient of `a`, where `g` is that of b; all of one shape."""
    natively = _runs_natively(a, formula) and takes(g, formula)
    return native_backward(a, g, formula) if natively else torch_backward(a, g, formula)


def _runs_natively(a: Tensor, formula: Formula) -> bool:
    if not takes(a, formula):
        return False
    if a.device.type == TRITON_DEVICE:
        return True
    shape = Shape(a.shape[1], a.shape[1], a.shape[-1])
    return active(dtype_name(a.dtype)).candidate(Operator.LRN, shape) == Candidate.NATIVE


def takes(a: Tensor, formula: Formula) -> bool:
    """Whether a kernel exists and applies: a divisor that cannot be 0, and float32 or half precision.

    No float16 on the CPU, and no long windows on a GPU.
    """
    if formula.k < SMALLEST_K or formula.alpha < 0:
        return False
    if is_plain_tensor(a, TRITON_DEVICE, *TRITON_DTYPES):
        return formula.reach <= LONGEST_REACH and triton_kernels(a.device) is not None
    return is_plain_tensor(a, "cpu", torch.float32, torch.bfloat16) and library() is not None


@cache
def triton_kernels(device: torch.device) -> ModuleType | None:
    """Returns lrn_triton.py, tried out on that GPU; None where it does not work or `ALEXNET_EXP_NATIVE` is 0.

    Not every torch has triton, and triton needs a C compiler.
    """
    if setting() == "0" or torch.version.cuda is None or torch.cuda.get_device_capability(device) < OLDEST_GPU:
        return None
    try:
        from alexnet_exp.kernels import lrn_triton

        one = torch.ones(1, 1, device=device)
        lrn_triton.run(one, None, torch.empty_like(one), (1, 1, 1, 0), 0.0, 0.75, 1.0)
    except ImportError:
        return None
    except Exception as error:  # of triton, its compiler or the driver; torch's operators do the same
        log.warning(f"LRN is computed by torch's operators: triton does not work here: {error}")
        return None
    return lrn_triton


_operator: Any = None  # of lrn_triton.py, once `load_operator` has found it


def load_operator(device: torch.device) -> None:
    """Makes `operator_for_graphs` return an operator from now on, where that GPU has Triton kernels.

    Called before a network is traced: what is traced cannot import.
    """
    global _operator
    kernels = triton_kernels(device) if device.type == TRITON_DEVICE else None
    _operator = None if kernels is None else kernels.normalize


def operator_for_graphs(a: Tensor, formula: Formula) -> Any:
    """Returns a torch operator with the arguments (a, *formula) that a compiled graph can call on a GPU, else None.

    An export needs operators that are visible.
    """
    on_gpu = a.device.type == TRITON_DEVICE and a.dtype in TRITON_DTYPES and formula.reach <= LONGEST_REACH
    takes_formula = formula.k >= SMALLEST_K and formula.alpha >= 0 and a.shape[1] % formula.columns == 0
    return _operator if graph_is_compiled() and on_gpu and takes_formula else None


def native_forward(a: Tensor, formula: Formula) -> Tensor:
    """Returns `forward` by the kernel, where it `takes` the tensor."""
    return _run(dense(a), None, formula)


def native_backward(a: Tensor, g: Tensor, formula: Formula) -> Tensor:
    """Returns `backward` by the kernel, where it `takes` the tensors."""
    a = dense(a)
    return _run(a, g.contiguous() if a.is_contiguous() else _channels_last(g), formula)


def _run(a: Tensor, g: Tensor | None, formula: Formula) -> Tensor:
    out = torch.empty_like(a)
    images, channels = a.shape[:2]
    pixels = a[0, 0].numel() if a.numel() else 0
    outer, inner = (images, pixels) if a.is_contiguous() else (images * pixels, 1)
    alpha, beta, k, reach, columns = formula
    shape = (outer * columns, channels // columns, inner, reach)
    if a.device.type == TRITON_DEVICE:
        on_gpu = triton_kernels(a.device)
        assert on_gpu is not None
        on_gpu.run(a, g, out, shape, alpha, beta, k)
        return out
    kernels = library()
    assert kernels is not None
    addresses = (a.data_ptr(), None if g is None else g.data_ptr(), out.data_ptr())
    if kernels.lrn(*addresses, *shape, alpha, beta, k, a.dtype == torch.bfloat16, torch.get_num_threads()):
        raise MemoryError("out of memory in local response normalization; use a smaller data.batch_size")
    return out


def dense(a: Tensor) -> Tensor:
    """Returns `a` itself where it is dense as NCHW or NHWC, else a dense copy."""
    if a.is_contiguous() or a.movedim(1, -1).is_contiguous():
        return a
    return _channels_last(a) if a.stride(1) == 1 else a.contiguous()


def _channels_last(a: Tensor) -> Tensor:
    """Returns `a`, of any number of dimensions, dense with the maps innermost."""
    return a.movedim(1, -1).contiguous().movedim(-1, 1)


# --- by torch's operators


def torch_forward(a: Tensor, formula: Formula) -> Tensor:
    """Returns `forward` by torch's operators, of any floating dtype on any device."""
    b = torch.empty_like(a)
    for values, normalized in zip(_chunks(a), _chunks(b), strict=True):
        wide = at_least_float32(values)
        normalized.copy_(_scale(_divisor(wide, formula), formula.beta).mul_(wide))
    return b


def torch_backward(a: Tensor, g: Tensor, formula: Formula) -> Tensor:
    """Returns `backward` by torch's operators."""
    gradient = torch.empty_like(a)
    for values, above, below in zip(_chunks(a), _chunks(g), _chunks(gradient), strict=True):
        wide = at_least_float32(values)
        d = _divisor(wide, formula)
        scaled = _scale(d, formula.beta).mul_(above)
        around = _sum_around((scaled * wide).div_(d), formula)
        below.copy_(scaled.addcmul_(wide, around, value=-2 * formula.alpha * formula.beta))
    return gradient


def _chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Returns the images in chunks on a CPU, whole on a GPU, where few large operations are faster."""
    if x.device.type != "cpu" or x.numel() <= CHUNK_VALUES:
        return (x,)
    return torch.split(x, max(1, CHUNK_VALUES // x[0].numel()))


def _divisor(a: Tensor, formula: Formula) -> Tensor:
    """Returns d = k + alpha * (sum of a^2 over the maps up to `reach` away)."""
    return _sum_around(a.square(), formula).mul_(formula.alpha).add_(formula.k)


def _scale(d: Tensor, beta: float) -> Tensor:
    """Returns d^-beta; for the usual 0.75 by square roots, which take a fraction of the time of a power."""
    if beta != 0.75:
        return d.pow(-beta)
    root = d.sqrt()
    return root.sqrt().mul_(root).reciprocal_()


def _sum_around(x: Tensor, formula: Formula) -> Tensor:
    """Returns the sum of each map and its neighbors up to `reach` away in its column; [N, C, ...], as `x`."""
    total = x.clone()
    for values, sums in zip(x.chunk(formula.columns, 1), total.chunk(formula.columns, 1), strict=True):
        for distance in range(1, min(formula.reach, values.shape[1] - 1) + 1):
            sums[:, distance:] += values[:, :-distance]
            sums[:, :-distance] += values[:, distance:]
    return total


def at_least_float32(maps: Tensor) -> Tensor:
    """Returns half precisions as float32, since squares overflow them; other dtypes unchanged."""
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
