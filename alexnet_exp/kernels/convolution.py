"""Provides a convolution and its gradients on a CPU, each computed by one of up to three candidates.

torch: torch's operator. native: convolution.c. packed: the windows are copied into a matrix by windows.c, which torch
multiplies; the sums of several matrices are added in a fixed order. Maps are float32 or bfloat16 and channels_last,
windows square; groups follow from the shapes. Sums are float32. native rounds every result once; torch's products
round the gradient of the weights to the precision of the maps, and packed the terms of the gradient of the input too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import Array, c_int64
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.kernels.bindings import address, check_memory, int64s, library, loaded
from alexnet_exp.kernels.derivatives import differentiable

CHANNELS_LAST = torch.channels_last
CANDIDATES = ("torch", "packed", "native")
DIRECTIONS = ("forward", "input_gradient", "weight_gradient")
WINDOWS_BYTES = 8 * 2**20
"""The greatest size of a matrix of windows: it should stay in the last cache."""


class Ways(NamedTuple):
    """The candidate of each direction."""

    forward: str = "torch"
    input_gradient: str = "torch"
    weight_gradient: str = "torch"


class ConvolutionShape(NamedTuple):
    """The sizes of a convolution: the struct `Shape` of convolution.h."""

    n: int
    height: int
    width: int
    maps_in: int
    out_height: int
    out_width: int
    maps_out: int
    kernel: int
    pad: int
    stride: int
    groups: int

    @classmethod
    def of(cls, x: Sequence[int], weight: Sequence[int], stride: int, pad: int) -> ConvolutionShape:
        """Returns it of x [N, in, H, W] and weights [out, in / groups, k, k]."""
        n, maps_in, height, width = x
        maps_out, maps, kernel, _ = weight
        out_height, out_width = ((side + 2 * pad - kernel) // stride + 1 for side in (height, width))
        return cls(n, height, width, maps_in, out_height, out_width, maps_out, kernel, pad, stride, maps_in // maps)

    @property
    def window(self) -> int:
        """The number of values in a window: kernel * kernel * maps of a group."""
        return self.kernel**2 * (self.maps_in // self.groups)

    def array(self) -> Array[c_int64]:
        """Returns the argument of the kernels."""
        return int64s(*self)


@cache
def has_bfloat16_products() -> bool:
    """Whether the kernels are loaded and this processor multiplies bfloat16 (AVX512_BF16)."""
    kernels = library()
    return kernels is not None and bool(kernels.convolution_takes(64, 64))


def takes_maps(maps_in: int, maps_out: int) -> bool:
    """Whether the bfloat16 kernels apply to these numbers of maps: multiples of 48 or 64, with AMX of 32 too."""
    return bool(loaded().convolution_takes(maps_in, maps_out))


def applies(direction: str, candidate: str, shape: ConvolutionShape, dtype: torch.dtype) -> bool:
    """Whether a candidate computes this direction of this convolution. torch always does, or raises its error."""
    assert direction in DIRECTIONS
    if candidate == "torch":
        return True
    if library() is None or min(shape[:8]) < 1:
        return False
    if candidate == "packed":
        return dtype in (torch.float32, torch.bfloat16)
    return (
        dtype == torch.bfloat16
        and has_bfloat16_products()
        and (shape.stride, shape.groups) == (1, 1)
        and shape.pad < shape.kernel
        and takes_maps(shape.maps_in, shape.maps_out)
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: int, relu: bool, ways: Ways) -> Tensor:
    """Returns a convolution by a square window, followed by ReLU if `relu`.

    x [N, in, H, W] float32 or bfloat16, in which the result is computed; weight float32 [out, in / groups, k, k], bias
    float32 [out]. Returns [N, out, (H + 2 pad - k) // stride + 1, likewise], channels_last. Where a candidate of `ways`
    does not apply, torch's operator runs. The gradients of weight and bias are float32.
    """
    convolved: Tensor = _Convolution.apply(x, weight, bias, stride, pad, relu, ways)
    return convolved


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: int, relu: bool, ways: Ways
    ) -> Tensor:
        given = x, weight, bias
        x, weight = x.contiguous(memory_format=CHANNELS_LAST), weight.contiguous(memory_format=CHANNELS_LAST)
        shape = ConvolutionShape.of(x.shape, weight.shape, stride, pad)
        found = [
            way if applies(direction, way, shape, x.dtype) else "torch"
            for direction, way in zip(DIRECTIONS, ways, strict=True)
        ]
        # Rounded once for both directions; the native kernels round float32 themselves.
        rounded = weight if set(found) == {"native"} else weight.to(x.dtype)
        y = forward(found[0], x, weight if found[0] == "native" else rounded, bias, shape, relu)
        ctx.save_for_backward(*given, weight if found[1] == "native" else rounded, y if relu else None)
        ctx.shape, ctx.found = shape, found
        ctx.by_torch, ctx.operands = partial(_by_torch, stride=stride, pad=pad, relu=relu), 3
        return y

    @staticmethod
    @differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, _, _, weight, y = ctx.saved_tensors
        x, g = x.contiguous(memory_format=CHANNELS_LAST), g.contiguous(memory_format=CHANNELS_LAST)
        if y is not None:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
        dx = dw = db = None
        if need_input:
            dx = input_gradient(ctx.found[1], g, x, weight, ctx.shape)
        if need_weight:
            dw, db = weight_gradient(ctx.found[2], g, x, ctx.shape, bias=need_bias)
        elif need_bias:
            db = _bias_gradient(g)
        return dx, dw, db, None, None, None, None


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: int, relu: bool) -> Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv2d(x, weight.to(x.dtype), bias, stride, pad, groups=x.shape[1] // weight.shape[1])
    return y.relu() if relu else y


@torch.no_grad()
def forward(
    candidate: str, x: Tensor, weight: Tensor, bias: Tensor | None, shape: ConvolutionShape, relu: bool = False
) -> Tensor:
    """Returns the convolution by a candidate that applies. The maps are channels_last, and so are the weights."""
    if candidate == "native":
        y, bias = _maps_out(x, shape), None if bias is None else bias.contiguous()
        arguments = address(x), address(weight), address(bias), shape.array(), relu, address(y)
        check_memory(loaded().convolution_forward(*arguments, torch.get_num_threads()))
        return y
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if candidate == "packed":
        return _packed_forward(x, weight, bias, shape, relu)
    y = F.conv2d(x, weight, bias, shape.stride, shape.pad, groups=shape.groups)
    return (y.relu_() if relu else y).contiguous(memory_format=CHANNELS_LAST)


@torch.no_grad()
def input_gradient(candidate: str, g: Tensor, x: Tensor, weight: Tensor, shape: ConvolutionShape) -> Tensor:
    """Returns the gradient of x, like x, from that of the result; by a candidate that applies."""
    if candidate == "native":
        dx = torch.empty_like(x)
        arguments = address(g), address(weight), shape.array(), address(dx)
        check_memory(loaded().convolution_input_gradient(*arguments, torch.get_num_threads()))
        return dx
    if candidate == "packed":
        return _packed_input_gradient(g, x, weight.to(x.dtype), shape)
    by_torch: Tensor = _torch_gradients(g, x, weight.to(x.dtype), shape, 0)[0]
    return by_torch.contiguous(memory_format=CHANNELS_LAST)


@torch.no_grad()
def weight_gradient(
    candidate: str, g: Tensor, x: Tensor, shape: ConvolutionShape, bias: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Returns the gradients of the weights, channels_last, and of the bias if `bias`; float32."""
    sizes = shape.maps_out, shape.maps_in // shape.groups, shape.kernel, shape.kernel
    dw = torch.empty(sizes, memory_format=CHANNELS_LAST)
    if candidate == "native":
        db = torch.empty(shape.maps_out) if bias else None
        arguments = address(x), address(g), shape.array(), address(dw), address(db)
        check_memory(loaded().convolution_weight_gradient(*arguments, torch.get_num_threads()))
        return dw, db
    if candidate == "packed":
        _packed_weight_gradient(g, x, shape, dw)
        return dw, _bias_gradient(g) if bias else None
    # The values of the weights do not matter.
    _, dw, db = _torch_gradients(g, x, dw.to(x.dtype), shape, *((1, 2) if bias else (1,)))
    return dw.float(), None if db is None else db.float()


def _torch_gradients(g: Tensor, x: Tensor, weight: Tensor, shape: ConvolutionShape, *which: int) -> Sequence[Any]:
    """Returns the gradients of x (0), weight (1) and bias (2), those of `which`, by torch's operator."""
    both = [[value] * 2 for value in (shape.stride, shape.pad, 1, 0)]
    needed = [each in which for each in range(3)]
    found: Sequence[Any] = torch.ops.aten.convolution_backward(
        g, x, weight, [shape.maps_out], *both[:3], False, both[3], shape.groups, needed
    )
    return found


def _bias_gradient(g: Tensor) -> Tensor:
    return _pixels(g).sum(0, dtype=torch.float32)


# --- windows packed into a matrix


def _packed_forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: ConvolutionShape, relu: bool) -> Tensor:
    y = _maps_out(x, shape)
    results, weights = _pixels(y), _pixels(weight).view(shape.maps_out, -1).t()
    for rows, group, windows in _windows(x, shape):
        maps = _maps(shape.maps_out, shape, group)
        if bias is None:
            torch.mm(windows, weights[:, maps], out=results[rows, maps])
        else:
            torch.addmm(bias[maps], windows, weights[:, maps], out=results[rows, maps])
        if relu:
            results[rows, maps].relu_()
    return y


def _packed_input_gradient(g: Tensor, x: Tensor, weight: Tensor, shape: ConvolutionShape) -> Tensor:
    dx = torch.empty_like(x)
    gradients, weights = _pixels(g), _pixels(weight).view(shape.maps_out, -1)
    pixels = shape.out_height * shape.out_width
    for images in _parts(shape.n, pixels * shape.window * x.element_size()):
        part = shape._replace(n=images.stop - images.start).array()
        for group in range(shape.groups):
            maps = _maps(shape.maps_out, shape, group)
            windows = gradients[images.start * pixels : images.stop * pixels, maps] @ weights[maps]
            results = dx[images, _maps(shape.maps_in, shape, group)]
            arguments = address(windows), part, x.element_size(), address(results)
            loaded().convolution_windows_sum(*arguments, torch.get_num_threads())
    return dx


def _packed_weight_gradient(g: Tensor, x: Tensor, shape: ConvolutionShape, dw: Tensor) -> None:
    gradients, results = _pixels(g), _pixels(dw).view(shape.maps_out, -1)
    for rows, group, windows in _windows(x, shape):
        maps = _maps(shape.maps_out, shape, group)
        left, result = gradients[rows, maps].t(), results[maps]
        if windows.dtype != result.dtype:
            product = left @ windows
            result.copy_(product) if rows.start == 0 else result.add_(product)
        elif rows.start == 0:
            torch.mm(left, windows, out=result)
        else:
            result.addmm_(left, windows)


def _windows(x: Tensor, shape: ConvolutionShape) -> Iterator[tuple[slice, int, Tensor]]:
    """Yields the matrices of windows: the output pixels of the rows, the group, and [pixels, k * k * maps of a group].

    The next one may overwrite it.
    """
    if (shape.kernel, shape.stride, shape.pad) == (1, 1, 0):  # a pixel is its own window
        for group in range(shape.groups):
            yield (
                slice(0, shape.n * shape.height * shape.width),
                group,
                _pixels(x)[:, _maps(shape.maps_in, shape, group)],
            )
        return
    sizes, item, width = shape.array(), x.element_size(), shape.out_width
    parts = list(_parts(shape.n * shape.out_height, width * shape.window * item))
    matrix = x.new_empty((parts[0].stop * width, shape.window))
    for part in parts:
        pixels = slice(part.start * width, part.stop * width)
        windows = matrix[: pixels.stop - pixels.start]
        for group in range(shape.groups):
            first = x[:, _maps(shape.maps_in, shape, group)]
            arguments = address(first), sizes, part.start, part.stop - part.start, item, address(windows)
            loaded().convolution_windows(*arguments, torch.get_num_threads())
            yield pixels, group, windows


def _parts(count: int, size: int) -> Iterator[slice]:
    """Yields `count` things of `size` bytes in parts of at most WINDOWS_BYTES, but of one thing at least."""
    step = max(1, WINDOWS_BYTES // size)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _maps(count: int, shape: ConvolutionShape, group: int) -> slice:
    """Returns those of `count` maps that are of a group."""
    size = count // shape.groups
    return slice(group * size, (group + 1) * size)


def _maps_out(x: Tensor, shape: ConvolutionShape) -> Tensor:
    sizes = shape.n, shape.maps_out, shape.out_height, shape.out_width
    return torch.empty(sizes, dtype=x.dtype, memory_format=CHANNELS_LAST)


def _pixels(maps: Tensor) -> Tensor:
    """Returns maps [N, C, H, W], channels_last, as [N * H * W, C] of the same memory."""
    return maps.permute(0, 2, 3, 1).view(-1, maps.shape[1])
