"""The kernels of images.c and resize.c on tensors. Each gives None where it does not apply: then torch is asked."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from alexnet_exp.kernels.native import native

ADDRESS, NUMBER, FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


def squares(images: Tensor, side: int, pad: int, top: Tensor, left: Tensor, mirrored: Tensor | None) -> Tensor | None:
    """Of each of the uint8 `images` [N, C, H, W], with `pad` zeros on all sides, the square of `side` pixels at `top`,
    `left` (int64 [N], on the CPU, inside the padded image), turned left to right where `mirrored` (bool [N]).
    """
    library = _library()
    if library is None or not _plain(images):
        return None
    images = images.contiguous()
    count, channels, height, width = images.shape
    cut = torch.empty((count, channels, side, side), dtype=torch.uint8)
    turned = None if mirrored is None else mirrored.data_ptr()
    library.alexnet_squares(
        *(images.data_ptr(), cut.data_ptr(), count, channels, height, width, pad, side),
        *(top.data_ptr(), left.data_ptr(), turned, torch.get_num_threads()),
    )
    return cut


def standardized(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, last: bool) -> Tensor | None:
    """(`images` - `mean`) / `std` of uint8 [N, C, H, W], computed in float32 and rounded once to `dtype`.

    `mean` and `std`: float32, [C, 1, 1] or [C, H, W]. `last`: the result is in torch.channels_last.
    """
    library = _library()
    if library is None or dtype not in (torch.float32, torch.bfloat16) or not _plain(images):
        return None
    if any(not _fits(values, images) for values in (mean, std)):
        return None
    images, mean, std = images.contiguous(), mean.contiguous(), std.contiguous()
    count, channels, height, width = images.shape
    layout = torch.channels_last if last else torch.contiguous_format
    result = torch.empty(images.shape, dtype=dtype, memory_format=layout)
    library.alexnet_scale(
        *(images.data_ptr(), result.data_ptr(), count, channels, height * width, mean.data_ptr(), std.data_ptr()),
        *(mean[0].numel(), std[0].numel(), dtype == torch.bfloat16, last, torch.get_num_threads()),
    )
    return result


def resized_square(pixels: Tensor, resized: tuple[int, int], place: tuple[int, int], size: int) -> Tensor | None:
    """Of `pixels` (uint8 [C, H, W]) `resized` to that height and width, the square of `size` whose top and left are
    `place`: uint8 [C, size, size].

    The same bytes as of `F.interpolate(mode="bilinear", antialias=True)`.
    """
    library = _library()
    if library is None or not _plain(pixels) or not pixels.permute(1, 2, 0).is_contiguous():
        return None
    channels = len(pixels)
    square = torch.empty((channels, size, size), dtype=torch.uint8)
    made = library.alexnet_square(
        *(pixels.data_ptr(), *pixels.shape[1:], channels, *resized, *place, size, square.data_ptr())
    )
    return square if made else None


def _plain(images: Tensor) -> bool:
    """Whether these are bytes in this process's memory, and not a step of a graph that is being recorded."""
    recorded = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    recorded = recorded or torch._C._functorch.peek_interpreter_stack() is not None
    # a subclass, such as the fake tensors of an export, has no memory of its own
    return not recorded and type(images) is Tensor and images.device.type == "cpu" and images.dtype == torch.uint8


def _fits(values: Tensor, images: Tensor) -> bool:
    shapes = (images.shape[1:], (images.shape[1], 1, 1))
    return values.device.type == "cpu" and values.dtype == torch.float32 and values.shape in shapes


@cache
def _library() -> ctypes.CDLL | None:
    library = native().library
    if library is not None:
        library.alexnet_squares.argtypes = [*[ADDRESS] * 2, *[NUMBER] * 6, *[ADDRESS] * 3, FLAG]
        library.alexnet_squares.restype = None
        library.alexnet_scale.argtypes = [*[ADDRESS] * 2, *[NUMBER] * 3, *[ADDRESS] * 2, *[NUMBER] * 2, *[FLAG] * 3]
        library.alexnet_scale.restype = None
        library.alexnet_square.argtypes = [ADDRESS, *[NUMBER] * 8, ADDRESS]
        library.alexnet_square.restype = FLAG
    return library
