"""Measures the candidates of each operator on this machine, once, and stores which one is fastest.

A few seconds, for one precision and number of threads. The shapes are those of AlexNet's layers on small and on large
images; other shapes get the candidate of the nearest one (`Choice.candidate`).
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexnet_exp.atomic import atomic_write, best_effort_lock
from alexnet_exp.kernels import batch_norm, choice, convolution, images, lrn
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.choice import CONVOLUTION, Candidate, Choice, Operator, Shape
from alexnet_exp.kernels.convolution import ConvolutionShape

log = logging.getLogger(__name__)

LEAST_GAIN = 1.03  # times faster than torch's operator: below it, torch's is kept
REPETITIONS, MOST_SECONDS = 7, 0.25  # at most so many turns; no further one after so long
CLEAR_AFTER, CLEAR_GAP = 3, 1.25  # rounds after which a candidate that always was so much faster is chosen
DROPPED_AFTER, LARGEST_GAP = 2, 2.5  # rounds after which one that always was so much slower is not repeated
LEAST_SECONDS = 1e-3  # of a measurement: a shorter call is repeated within it
CONVOLUTION_SECONDS = 4e-3  # of a measured convolution at the rate of a product, by its number of images
PRODUCT_SIDE = 768
SIXTEEN = 16  # images: the kernels take as many at a time, so there are fewer only where 4 take longer
LEAST_IMAGES, MOST_IMAGES = 4, 32

Calls = dict[Candidate, Callable[[], object]]


class Anchor(NamedTuple):
    """A measured shape: of a convolution with its padding, of the others with padding 0."""

    shape: Shape
    pad: int = 0


# The tutorial's layers, those of the fast recipes and of the ladder, and the paper's at 224 pixels.
CONVOLUTIONS = (
    Anchor(Shape(3, 96, 32, 5)),
    Anchor(Shape(96, 256, 14, 3)),
    Anchor(Shape(256, 384, 5, 3), 1),
    Anchor(Shape(384, 384, 5, 3), 1),
    Anchor(Shape(48, 64, 8, 3), 1),
    Anchor(Shape(96, 128, 4, 3), 1),
    Anchor(Shape(64, 80, 28, 3), 1),
    Anchor(Shape(160, 256, 14, 3), 1),
    Anchor(Shape(3, 96, 224, 11, 4), 2),
    Anchor(Shape(96, 256, 27, 5), 2),
    Anchor(Shape(384, 384, 13, 3), 1),
)
NORMS = (Anchor(Shape(96, 96, 30, 3, 2)), Anchor(Shape(256, 256, 12, 3, 2)), Anchor(Shape(384, 384, 5)))
LRNS = (Anchor(Shape(96, 96, 27)), Anchor(Shape(256, 256, 13)))
IMAGES = (Anchor(Shape(3, 3, 32)),)
ANCHORS: dict[Operator, tuple[Anchor, ...]] = {
    Operator.FORWARD: CONVOLUTIONS,
    Operator.INPUT_GRADIENT: tuple(each for each in CONVOLUTIONS if each.shape.maps_in > 3),  # first layers have none
    Operator.WEIGHT_GRADIENT: CONVOLUTIONS,
    Operator.NORM: NORMS,
    Operator.LRN: LRNS,
    Operator.IMAGES: IMAGES,
}


def calibrated(dtype: str) -> Choice:
    """Returns this machine's choice for float32 or bfloat16: the stored one, else measured now and stored.

    Other processes wait for the one that measures. Logs what it does; where the cache cannot be written, each run
    measures anew.
    """
    with suppress(RuntimeError):  # no home folder, so no cache
        file = choice.file(dtype)
        with best_effort_lock(file.with_suffix(".lock")):
            if (found := choice.stored(dtype)) is not None:
                return found
            measured = _measured(dtype)
            with suppress(OSError), atomic_write(file) as out:
                out.write(json.dumps(measured, indent=1).encode())
            return Choice.of_json(measured["choice"], "measured")
    return Choice.of_json(_measured(dtype)["choice"], "measured")


def _measured(dtype: str) -> dict[str, Any]:
    """Returns the choice and the milliseconds of every candidate, as the stored file has them."""
    log.info("measuring which kernels are fastest on this machine: once, a few seconds")
    begun = time.perf_counter()
    rows: dict[Operator, dict[Shape, Candidate]] = {}
    took: dict[str, dict[str, dict[str, float]]] = {}
    work = [(operator, anchor) for operator, anchors in ANCHORS.items() for anchor in anchors]
    for done, (operator, anchor) in enumerate(work):
        _show(f"measuring kernels: {done} of {len(work)}")
        found = measure(calls(operator, dtype, anchor.shape, anchor.pad))
        rows.setdefault(operator, {})[anchor.shape] = fastest(found)
        took.setdefault(operator, {})[str(anchor.shape)] = {kind: round(1e3 * each, 4) for kind, each in found.items()}
    _show("")
    native = Candidate.TORCH if library() is None else Candidate.NATIVE
    rows[Operator.DROPOUT] = {choice.ANY: native}  # one pass instead of ten: not worth a measurement
    seconds = round(time.perf_counter() - begun, 2)
    made = Choice(dtype, "measured", rows)
    log.info(f"measured in {seconds:.1f} s: {made}")
    about = {"dtype": dtype, "threads": torch.get_num_threads(), "torch": torch.__version__, "seconds": seconds}
    return {**about, "choice": made.to_json(), "milliseconds": took}


def fastest(seconds: Mapping[Candidate, float]) -> Candidate:
    """Returns the candidate to use: torch's operator unless another one is `LEAST_GAIN` times as fast."""
    best = min(seconds, key=seconds.__getitem__)
    torchs = seconds.get(Candidate.TORCH)
    return best if torchs is None or torchs >= LEAST_GAIN * seconds[best] else Candidate.TORCH


def measure(
    candidates: Mapping[Candidate, Callable[[], object]], repetitions: int = REPETITIONS
) -> dict[Candidate, float]:
    """Returns the seconds of each call: of the fastest one the least, of another one so many times more as it took.

    The calls take turns, and two are compared within a turn, by the median: a processor whose clock or cores others
    share can be several times slower for a while. A call that is clearly slower is not repeated; none is once one is
    clearly the fastest. The caller's random numbers are not used.
    """
    number = {candidate: _number(call) for candidate, call in candidates.items()}
    turns: list[dict[Candidate, float]] = []
    left = list(candidates)
    end = time.perf_counter() + MOST_SECONDS
    while len(turns) < repetitions and not _is_clear(turns):
        if len(turns) >= CLEAR_AFTER and time.perf_counter() >= end:
            break
        if len(turns) == DROPPED_AFTER:
            left = [each for each in left if any(turn[each] <= LARGEST_GAP * min(turn.values()) for turn in turns)]
        order = left if len(turns) % 2 else left[::-1]
        turns.append({each: _seconds(candidates[each], number[each]) / number[each] for each in order})
    best = min(left, key=lambda each: statistics.median(turn[each] for turn in turns))
    least = min(turn[best] for turn in turns)
    return {
        each: least * statistics.median(turn[each] / turn[best] for turn in turns if each in turn)
        for each in candidates
    }


def _is_clear(turns: Sequence[Mapping[Candidate, float]]) -> bool:
    """Whether the same candidate was clearly the fastest in each turn, or is the only one."""
    ranked = [sorted(turn, key=turn.__getitem__) for turn in turns]
    if len(turns) < CLEAR_AFTER or len({order[0] for order in ranked}) > 1:
        return False
    return all(
        len(order) == 1 or turn[order[1]] >= CLEAR_GAP * turn[order[0]]
        for order, turn in zip(ranked, turns, strict=True)
    )


def _number(call: Callable[[], object]) -> int:
    """Returns how often a call is repeated in one measurement. Calls it twice: the first call prepares."""
    call()
    return max(1, min(50, int(LEAST_SECONDS / max(_seconds(call, 1), 1e-9))))


def _seconds(call: Callable[[], object], number: int) -> float:
    begun = time.perf_counter()
    for _ in range(number):
        call()
    return time.perf_counter() - begun


def _show(text: str) -> None:
    """Replaces the last line of a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


# --- the calls of each operator


def calls(
    operator: Operator, dtype: str, shape: Shape, pad: int = 0, batch: int | None = None, groups: int = 1
) -> Calls:
    """Returns a call of each candidate that applies, on random tensors of that shape.

    dtype: float32 or bfloat16. batch: None: as many images as a measurement needs. Batch norm and LRN: forward and
    backward. Not of dropout.
    """
    kind = getattr(torch, dtype)
    if operator in CONVOLUTION:
        return _convolution_calls(operator, kind, shape, pad, batch, groups)
    made = {Operator.NORM: _norm_calls, Operator.LRN: _lrn_calls, Operator.IMAGES: _image_calls}
    return made[operator](kind, shape, batch or MOST_IMAGES)


def _convolution_calls(
    operator: Operator, dtype: torch.dtype, shape: Shape, pad: int, batch: int | None, groups: int
) -> Calls:
    window, side = shape.kernel**2 * shape.maps_in // groups, (shape.side + 2 * pad - shape.kernel) // shape.stride + 1
    gflop = 2e-9 * side**2 * window * shape.maps_out
    images = batch or _images(CONVOLUTION_SECONDS * _product_rate(dtype) / gflop)
    x = _random(images, shape.maps_in, shape.side, shape.side, dtype=dtype)
    weight = _random(shape.maps_out, shape.maps_in // groups, shape.kernel, shape.kernel)
    bias, g = torch.zeros(shape.maps_out), _random(images, shape.maps_out, side, side, dtype=dtype)
    sizes = ConvolutionShape.of(x.shape, weight.shape, shape.stride, pad)

    def call(candidate: Candidate) -> Callable[[], object]:
        if operator == Operator.FORWARD:
            return lambda: convolution.forward(candidate, x, weight, bias, sizes)
        if operator == Operator.INPUT_GRADIENT:
            return lambda: convolution.input_gradient(candidate, g, x, weight, sizes)
        return lambda: convolution.weight_gradient(candidate, g, x, sizes)

    direction = operator.removeprefix("convolution_")
    return {each: call(each) for each in Candidate if convolution.applies(direction, each, sizes, dtype)}


def _images(fitting: float) -> int:
    """Returns a number of images near `fitting`."""
    if fitting <= LEAST_IMAGES:
        return LEAST_IMAGES
    return min(MOST_IMAGES, SIXTEEN * math.ceil(fitting / SIXTEEN))


@cache
def _product_rate(dtype: torch.dtype) -> float:
    """Returns the GFLOP/s of a matrix product."""
    matrix = _random(PRODUCT_SIDE, PRODUCT_SIDE, dtype=dtype)
    seconds = measure({Candidate.TORCH: lambda: torch.mm(matrix, matrix)})[Candidate.TORCH]
    return 2e-9 * PRODUCT_SIDE**3 / seconds


def _random(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if len(size) == 4 else values


def _norm_calls(dtype: torch.dtype, shape: Shape, batch: int) -> Calls:
    """Forward and backward, with the pool of the shape."""
    x = _random(batch, shape.maps_in, shape.side, shape.side, dtype=dtype).requires_grad_()
    norm = torch.nn.BatchNorm2d(shape.maps_in)
    window = batch_norm.PoolWindow(shape.kernel, shape.stride)
    side = window.side(shape.side)
    g = _random(batch, shape.maps_in, side, side, dtype=dtype)

    def by_torch() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = torch.relu(norm(x))
            if shape.kernel > 1:
                y = torch.nn.functional.max_pool2d(y, shape.kernel, shape.stride)
        torch.autograd.backward(y, g)

    def natively() -> None:
        running = batch_norm.RunningStatistics(norm.running_mean, norm.running_var, 0.1)  # type: ignore[arg-type]
        y = batch_norm.batch_norm_relu(x, norm.weight, norm.bias, norm.eps, running, window)
        torch.autograd.backward(y, g)

    return _with_native(by_torch, natively)


def _lrn_calls(dtype: torch.dtype, shape: Shape, batch: int) -> Calls:
    """Forward and backward, by the formula of the paper."""
    a = _random(batch, shape.maps_in, shape.side, shape.side, dtype=dtype)
    formula = lrn.Formula(1e-4, 0.75, 2.0, 2, 1)
    return _with_native(
        lambda: (lrn.torch_forward(a, formula), lrn.torch_backward(a, a, formula)),
        lambda: (lrn.native_forward(a, formula), lrn.native_backward(a, a, formula)),
    )


def _image_calls(dtype: torch.dtype, shape: Shape, batch: int) -> Calls:
    pixels = torch.zeros((batch, shape.maps_in, shape.side, shape.side), dtype=torch.uint8)
    mean = torch.full((shape.maps_in, 1, 1), 128.0)
    given = pixels, mean, mean, dtype, True
    return _with_native(lambda: images.torch_standardized(*given), lambda: images.native_standardized(*given))


def _with_native(by_torch: Callable[[], object], natively: Callable[[], object]) -> Calls:
    made = {Candidate.TORCH: by_torch}
    return made if library() is None else {**made, Candidate.NATIVE: natively}
