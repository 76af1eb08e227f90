"""Provides the kernels of images.c and resize.c on tensors.

`crop_squares` and `resized_square` return None where they do not apply; the caller then uses torch's operators.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import library, loaded
from alexnet_exp.kernels.choice import Candidate, Operator, of_run
from alexnet_exp.kernels.tracing import is_plain_cpu_tensor, operators_are_traced


def crop_squares(
    images: Tensor, side: int, pad: int, top: Tensor, left: Tensor, mirrored: Tensor | None
) -> Tensor | None:
    """Returns a square of each image, uint8 [N, C, side, side], of uint8 [N, C, H, W].

    Images get `pad` zeros on all sides first. `top` and `left`, int64 [N] on the CPU, are the corner of each square in
    the padded image, in pixels, and must leave the square inside it. Squares are mirrored left to right where
    `mirrored`, bool [N], is true.
    """
    kernels = library()
    if kernels is None or not _takes(images):
        return None
    images = images.contiguous()
    count, channels, height, width = images.shape
    squares = torch.empty((count, channels, side, side), dtype=torch.uint8)
    kernels.crop_squares(
        *(images.data_ptr(), squares.data_ptr(), count, channels, height, width, pad, side),
        *(top.data_ptr(), left.data_ptr(), None if mirrored is None else mirrored.data_ptr()),
        torch.get_num_threads(),
    )
    return squares


def standardized(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Returns (`images` - `mean`) / `std` of [N, C, H, W], computed in float32 and rounded once to `dtype`.

    `mean` and `std`: float32, [C, 1, 1] or [C, H, W]. The kernel takes uint8 images on the CPU, to float32 or bfloat16.
    """
    applies = dtype in (torch.float32, torch.bfloat16) and _takes(images) and library() is not None
    if applies and _broadcasts(mean, images) and _broadcasts(std, images):
        return native_standardized(images, mean, std, dtype, channels_last)
    return torch_standardized(images, mean, std, dtype, channels_last)


def torch_standardized(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Returns `standardized` by torch's operators, of images of any dtype on any device."""
    scaled = ((images.float() - mean) / std).to(dtype)
    return scaled.contiguous(memory_format=torch.channels_last) if channels_last else scaled


def native_standardized(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Returns `standardized` by the kernel, where it applies."""
    images, mean, std = images.contiguous(), mean.contiguous(), std.contiguous()
    count, channels, height, width = images.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    result = torch.empty(images.shape, dtype=dtype, memory_format=layout)
    loaded().standardize(
        *(images.data_ptr(), result.data_ptr(), count, channels, height * width, mean.data_ptr(), std.data_ptr()),
        *(mean[0].numel(), std[0].numel(), dtype == torch.bfloat16, channels_last, torch.get_num_threads()),
    )
    return result


def resized_square(pixels: Tensor, resized: tuple[int, int], corner: tuple[int, int], side: int) -> Tensor | None:
    """Returns a square, uint8 [C, side, side], of `pixels`, uint8 [C, H, W] with the channels last in memory.

    `pixels` are resized to the height and width `resized` first; `corner` is the square's top and left there, in
    pixels. The bytes are those of `F.interpolate(mode="bilinear", antialias=True)`.
    """
    kernels = library()
    if kernels is None or not _takes(pixels) or not pixels.permute(1, 2, 0).is_contiguous():
        return None
    channels = len(pixels)
    square = torch.empty((channels, side, side), dtype=torch.uint8)
    applies = kernels.resize_square(
        *(pixels.data_ptr(), *pixels.shape[1:], channels, *resized, *corner, side, square.data_ptr())
    )
    return square if applies else None


def _takes(images: Tensor) -> bool:
    return (
        not operators_are_traced()
        and is_plain_cpu_tensor(images, torch.uint8)
        and of_run().candidate(Operator.IMAGES) == Candidate.NATIVE
    )


def _broadcasts(statistic: Tensor, images: Tensor) -> bool:
    shapes = (images.shape[1:], (images.shape[1], 1, 1))
    return statistic.device.type == "cpu" and statistic.dtype == torch.float32 and statistic.shape in shapes
