"""Provides local response normalization on a CUDA GPU, as Triton kernels. Imports triton: lrn.py imports it on demand.

The formulas, and what overflows, are those of lrn.c. Both kernels read memory in one pass and compute in float32, the
gradient from its input and the incoming gradient alone. Windows are read from memory at each use: after the first time
from the caches. Sums are added up from i - reach to i + reach in both layouts, so that the layout changes no bit.
"""

# ruff: noqa: N803 (Triton's constants are in capitals)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, import-not-found"

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_exp.kernels import lrn
from alexnet_exp.kernels.lrn import Formula

BLOCK = 1024  # values of one program
PIXELS = 64  # of a map, side by side in a block of NCHW; the rest of the block are further maps
WARPS = 4
WIDE_FROM = 2**30  # values from which addresses are computed in 64 bits


@triton.jit
def _places(total, MAPS: tl.constexpr, INNER: tl.constexpr, BLOCK: tl.constexpr, PIXELS: tl.constexpr, WIDE):
    """Returns the addresses of a block's values, the map of each, and which of them exist.

    Of NHWC (INNER = 1) a block is contiguous; of NCHW it is a tile of maps and pixels, whose windows overlap.
    """
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    lane = tl.arange(0, BLOCK)
    if INNER == 1:
        at = block * BLOCK + lane
        maps = at % MAPS
        exists = at < total
    else:
        high: tl.constexpr = BLOCK // PIXELS
        wide: tl.constexpr = (INNER + PIXELS - 1) // PIXELS
        tall: tl.constexpr = (MAPS + high - 1) // high
        pixels = block % wide * PIXELS + lane % PIXELS
        maps = block // wide % tall * high + lane // PIXELS
        at = (block // (wide * tall) * MAPS + maps) * INNER + pixels
        exists = (pixels < INNER) & (maps < MAPS)
    return at, maps, exists


@triton.jit
def _load(values, at, maps, exists, shift: tl.constexpr, MAPS: tl.constexpr, INNER: tl.constexpr):
    """Returns the values `shift` maps further on, in float32; 0 outside of the first and last map."""
    near = exists & (maps + shift >= 0) & (maps + shift < MAPS)
    return tl.load(values + at + shift * INNER, mask=near, other=0.0).to(tl.float32)


@triton.jit
def _powers(
    a, at, maps, exists, shift: tl.constexpr, alpha, k,
    REACH: tl.constexpr, BETA: tl.constexpr, MAPS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Returns d^-beta and 1 / d of the maps `shift` further on. Of an infinite d both are 0, of NaN both are NaN."""
    total = _load(a, at, maps, exists, shift - REACH, MAPS, INNER)
    total *= total
    for offset in tl.static_range(1 - REACH, REACH + 1):
        value = _load(a, at, maps, exists, shift + offset, MAPS, INNER)
        total += value * value
    d = k + alpha * total
    if BETA == 0.75:
        root = tl.rsqrt(d)
        scale, inverse = root * tl.sqrt(root), root * root
    else:  # in float32 an error of the logarithm is multiplied by it
        scale, inverse = tl.exp2(-BETA * tl.log2(d.to(tl.float64))).to(tl.float32), 1.0 / d
    return scale, inverse


@triton.jit
def _normalize(
    a, out, total, alpha, k,
    REACH: tl.constexpr, BETA: tl.constexpr, MAPS: tl.constexpr, INNER: tl.constexpr,
    BLOCK: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out = a * d^-beta."""
    at, maps, exists = _places(total, MAPS, INNER, BLOCK, PIXELS, WIDE)
    scale, _ = _powers(a, at, maps, exists, 0, alpha, k, REACH, BETA, MAPS, INNER)
    b = _load(a, at, maps, exists, 0, MAPS, INNER) * scale
    tl.store(out + at, b.to(out.dtype.element_ty), mask=exists)


@triton.jit
def _gradient(
    a, g, out, total, alpha, k,
    REACH: tl.constexpr, BETA: tl.constexpr, MAPS: tl.constexpr, INNER: tl.constexpr,
    BLOCK: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out = g * d^-beta - 2 * alpha * beta * a * (sum of g * b / d over the window)."""
    at, maps, exists = _places(total, MAPS, INNER, BLOCK, PIXELS, WIDE)
    around = tl.zeros([BLOCK], tl.float32)
    direct = around
    for shift in tl.static_range(-REACH, REACH + 1):
        # Maps outside add 0: where their d is NaN, so is the d of the map that they are a neighbor of.
        scale, inverse = _powers(a, at, maps, exists, shift, alpha, k, REACH, BETA, MAPS, INNER)
        scaled = _load(g, at, maps, exists, shift, MAPS, INNER) * scale
        around += scaled * _load(a, at, maps, exists, shift, MAPS, INNER) * inverse
        if shift == 0:
            direct = scaled
    slope = direct + -2 * BETA * alpha * _load(a, at, maps, exists, 0, MAPS, INNER) * around
    tl.store(out + at, slope.to(out.dtype.element_ty), mask=exists)


def run(
    a: Tensor, g: Tensor | None, out: Tensor, shape: tuple[int, int, int, int], alpha: float, beta: float, k: float
) -> None:
    """Writes b to `out`, or the gradient of `a` where `g`, that of b, is given; all dense in the same layout.

    shape: outer, maps, inner and reach, as in lrn.c.
    """
    outer, maps, inner, reach = shape
    total = outer * maps * inner
    if total == 0:
        return
    pixels = min(PIXELS, triton.next_power_of_2(inner))
    blocks = triton.cdiv(total, BLOCK)
    if inner > 1:
        blocks = outer * triton.cdiv(maps, BLOCK // pixels) * triton.cdiv(inner, pixels)
    fixed: dict[str, Any] = {"REACH": min(reach, maps - 1), "BETA": beta, "MAPS": maps, "INNER": inner}
    fixed |= {"BLOCK": BLOCK, "PIXELS": pixels, "WIDE": total >= WIDE_FROM, "num_warps": WARPS}
    with torch.cuda.device(a.device) if a.is_cuda else nullcontext():
        if g is None:
            _normalize[(blocks,)](a, out, total, alpha, k, **fixed)
        else:
            _gradient[(blocks,)](a, g, out, total, alpha, k, **fixed)


# --- for compiled graphs: `normalize` of `a`, and `gradient`, its derivative. Their other arguments are a `Formula`.

ARGUMENTS = "float alpha, float beta, float k, int reach, int columns"


@torch.library.custom_op("alexnet_exp::lrn", mutates_args=(), schema=f"(Tensor a, {ARGUMENTS}) -> Tensor")
def normalize(a: Tensor, *formula: Any) -> Tensor:
    """Returns b of the formula, as `native_forward` of lrn.py."""
    return lrn.native_forward(a, Formula(*formula))


@torch.library.custom_op(
    "alexnet_exp::lrn_gradient", mutates_args=(), schema=f"(Tensor a, Tensor g, {ARGUMENTS}) -> Tensor"
)
def gradient(a: Tensor, g: Tensor, *formula: Any) -> Tensor:
    """Returns the gradient of `a` from `g`, as `native_backward` of lrn.py."""
    return lrn.native_backward(a, g, Formula(*formula))


@normalize.register_fake
def _like_a(a: Tensor, *formula: Any) -> Tensor:
    return torch.empty_like(lrn.dense(a))


@gradient.register_fake
def _like_a_again(a: Tensor, g: Tensor, *formula: Any) -> Tensor:
    return torch.empty_like(lrn.dense(a))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, *ctx.formula = inputs
    ctx.save_for_backward(a)


def _derive(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return gradient(ctx.saved_tensors[0], g, *ctx.formula), *[None] * len(ctx.formula)


normalize.register_autograd(_derive, setup_context=_save)
