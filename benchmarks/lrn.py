"""Local response normalization against torch's own op, and what it adds to a training step.

    python -m benchmarks lrn

Forward and backward at the shapes of the 2012 network's conv1 and conv2, in float32 and bfloat16, as NCHW and as NHWC
(torch.channels_last), both sides with as many threads as torch takes. torch's op has no bfloat16 on a CPU: there it
runs as a user would have it run, under autocast, and gives float32. Then whole steps of `model=lrn` against
`model=none`, the same network without the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from alexnet_exp.config.compose import compose
from alexnet_exp.config.validate import validate
from alexnet_exp.kernels import lrn as kernel
from alexnet_exp.kernels.native import native
from alexnet_exp.model.lrn import LRN
from alexnet_exp.processes.memory import keep_freed_memory
from benchmarks.overhead import Bare
from benchmarks.rows import Goal, Row, in_turn

TIMES = 15  # as fast as torch's op
TIMES_COPY = 2
LRN_TENSORS, COPY_TENSORS = 5, 2  # that are read or written
MOST_OF_A_STEP = 1.25
SHAPES = ((32, 96, 55, 55), (32, 256, 27, 27))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
IMAGES = ("data=random", "data.val=none", "schedule=constant", "trainer=cpu", "test.run=false")
STEPS: Mapping[str, tuple[str, ...]] = {
    "224 px, batch 32": ("data.n=64", "data.batch_size=32"),
    "32 px, batch 128": ("data.n=256", "data.batch_size=128", "data.size=32", "data.classes=10"),
}


def rows(turns: int = 9) -> list[Row]:
    """The eight cases, against a copy too; torch's operators in the kernel's place; what is kept; whole steps."""
    keep_freed_memory()
    cases = [(shape, dtype, layout) for shape in SHAPES for dtype in DTYPES for layout in LAYOUTS]
    found = [_against_torch(*case, turns) for case in cases]
    found += [_against_copy(*case, turns) for case in cases]
    with patch.object(kernel, "takes", lambda a, formula: False):
        found += [_against_torch(shape, "float32", "NCHW", turns, by_kernel=False) for shape in SHAPES]
    found += [_kept(dtype, layout) for dtype in DTYPES for layout in LAYOUTS]
    return found + [_step(size, precision, turns) for size in STEPS for precision in PRECISIONS]


def _against_torch(shape: tuple[int, ...], dtype: str, layout: str, turns: int, by_kernel: bool = True) -> Row:
    maps = torch.randn(shape).relu().to(DTYPES[dtype], memory_format=LAYOUTS[layout]).requires_grad_()
    above = torch.randn_like(maps)
    layer = LRN()
    autocast = torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else nullcontext()

    def torchs(maps: Tensor) -> Tensor:
        with autocast:
            return F.local_response_norm(maps, layer.size, layer.alpha, layer.beta, layer.k)

    ours, theirs = _both_ways(layer, maps, above), _both_ways(torchs, maps, above)
    for found, expected in zip(ours(), theirs(), strict=True):
        tolerance = 1e-2 if dtype == "bfloat16" else 1e-4
        torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)
    times = [(1e3 * first, 1e3 * second) for first, second in in_turn(ours, theirs, turns, warmup=2)]
    name = f"{'x'.join(map(str, shape))} {dtype} {layout}"
    way = native().why if by_kernel else "torch's operators in the kernel's place"
    note = f"forward + backward, {torch.get_num_threads()} threads; {way}"
    target = TIMES if by_kernel else None
    label, what = (name, name) if by_kernel else (f"{name}, operators", f"{name}, torch's operators")
    return Row(label, what, "F.local_response_norm", "ms", times, target=target, note=note)


def _against_copy(shape: tuple[int, ...], dtype: str, layout: str, turns: int) -> Row:
    """Forward reads one tensor and writes one, backward reads two and writes one; a copy reads one and writes one."""
    maps = torch.randn(shape).relu().to(DTYPES[dtype], memory_format=LAYOUTS[layout]).requires_grad_()
    source, target = maps.detach(), torch.empty_like(maps)
    ours = _both_ways(LRN(), maps, torch.randn_like(maps))
    times = in_turn(ours, lambda: target.copy_(source), turns, warmup=2)
    times = [(1e3 * first, 1e3 * second * LRN_TENSORS / COPY_TENSORS) for first, second in times]
    name = f"{'x'.join(map(str, shape))} {dtype} {layout}, copy"
    most = Goal.at_most_ratio
    return Row(name, name.removesuffix(", copy"), "copying as many bytes", "ms", times, target=TIMES_COPY, goal=most)


def _both_ways(layer: Callable[[Tensor], Tensor], maps: Tensor, above: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Forward and backward; the gradient comes in the output's dtype, so that nothing is cast for either side."""
    wide = above.float()

    def run() -> tuple[Tensor, Tensor]:
        normalized = layer(maps)
        (gradient,) = torch.autograd.grad(normalized, maps, above if normalized.dtype == above.dtype else wide)
        return normalized.detach(), gradient

    return run


def _kept(dtype: str, layout: str) -> Row:
    maps = torch.randn(SHAPES[0]).to(DTYPES[dtype], memory_format=LAYOUTS[layout]).requires_grad_()
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with saved_tensors_hooks(keep, lambda saved: saved):
        LRN()(maps)
    sizes = [(sum(kept.values()) / 2**20, maps.nbytes / 2**20)]
    name = f"kept for the gradient, {dtype} {layout}"
    return Row(name, name, "its input", "MiB", sizes, target=1, goal=Goal.at_most_ratio)


def _step(size: str, dtype: str, turns: int) -> Row:
    sides = []
    for model in ("lrn", "none"):
        overrides = (f"model={model}", *IMAGES, *STEPS[size], f"trainer.precision={PRECISIONS[dtype]}")
        config = validate(compose([*overrides, "trainer.max_epochs=null", "trainer.max_steps=1"]))
        sides.append(Bare(config).step)
    times = [(1e3 * first, 1e3 * second) for first, second in in_turn(sides[0], sides[1], turns, warmup=2, repeats=3)]
    name = f"step of model=lrn, {size}, {dtype}"
    note = "forward, loss, backward, optimizer, input"
    most = Goal.at_most_ratio
    return Row(name, name, "model=none", "ms", times, target=MOST_OF_A_STEP, goal=most, note=note)
