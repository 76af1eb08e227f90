"""What happens to batches of images on the device: crops, mirrors, channels, size. Everything is uint8 [N, C, H, W].

Random numbers are drawn on the CPU, from a generator that the caller seeds, and moved: a batch is cut alike on every
device. No loop goes over images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.kernels.images import crop_squares


def random_crop(images: Tensor, side: int, pad: int, generator: torch.Generator) -> Tensor:
    """A square of `side` pixels from each image, at a uniformly random place of it and of `pad` zeros on all sides."""
    return crop_at(images, side, pad, *draw_places(images, side, pad, generator))


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image is mirrored left to right with probability 1/2."""
    return _mirror_where(images, draw_mirrors(images, generator))


def random_crop_mirror(images: Tensor, side: int, pad: int, generator: torch.Generator) -> Tensor:
    """`mirror` of a `random_crop`, in one pass over the pixels."""
    places = draw_places(images, side, pad, generator)
    return crop_at(images, side, pad, *places, draw_mirrors(images, generator))


def draw_places(images: Tensor, side: int, pad: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Top and left of a random square in each image with `pad` around it: int64 [N]. Nothing is drawn for one place."""
    count, height, width = len(images), images.shape[-2] + 2 * pad, images.shape[-1] + 2 * pad
    if height == side and width == side:
        return torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
    top = torch.randint(height - side + 1, (count,), generator=generator)
    return top, torch.randint(width - side + 1, (count,), generator=generator)


def draw_mirrors(images: Tensor, generator: torch.Generator) -> Tensor:
    """Which of the images are mirrored: bool [N]."""
    return torch.randint(2, (len(images),), generator=generator, dtype=torch.bool)


def crop_at(images: Tensor, side: int, pad: int, top: Tensor, left: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """The square of `side` pixels at `top`, `left` [N] of each image with `pad` zeros around it, then its mirror image.

    One pass of a native kernel on the CPU, else by torch: the same bytes.
    """
    found = crop_squares(images, side, pad, top, left, mirrored)
    if found is None:
        found = _gather_crops(F.pad(images, (pad, pad, pad, pad)) if pad else images, side, top, left)
        found = found if mirrored is None else _mirror_where(found, mirrored)
    return found


def center_crop(images: Tensor, side: int) -> Tensor:
    """The central square of `side` pixels, as torchvision's CenterCrop cuts it, see `central`."""
    top, left = center_margin(images.shape[-2] - side), center_margin(images.shape[-1] - side)
    return images[..., top : top + side, left : left + side]


def center_margin(margin: int) -> int:
    """The part of an image's `margin` that is before a central square; of an odd one the even half.

    Torchvision's CenterCrop rounds so. Crops of 224 from squares of 256 then are those of 224 from whole images.
    """
    return round(margin / 2)


def view_places(height: int, width: int, side: int, views: int) -> list[tuple[int, int]]:
    """Top and left of the squares that a test looks at, in images of that height and width.

    1: the centre. 10 (the paper's): the corners and the centre, each also mirrored. 9 (cuda-convnet's CIFAR nets): the
    grid of no, half and all of the margin, not mirrored.
    """
    bottom, right = height - side, width - side
    centre = (center_margin(bottom), center_margin(right))
    if views == 1:
        return [centre]
    if views == 10:
        return [(0, 0), (0, right), centre, (bottom, 0), (bottom, right)]
    if views == 9:
        return [(top, left) for top in (0, centre[0], bottom) for left in (0, centre[1], right)]
    raise ValueError(f"{views} views: 1, 9 or 10")


def crop_views(images: Tensor, side: int, views: int) -> list[Tensor]:
    """The views of each image [N, C, side, side]: the squares at `view_places`, for 10 then their mirrors."""
    places = view_places(images.shape[-2], images.shape[-1], side, views)
    squares = [images[..., top : top + side, left : left + side] for top, left in places]
    return squares + [square.flip(3) for square in squares] if views == 10 else squares


def center_view(views: int) -> int:
    """Which of the views is the central square, not mirrored."""
    return {1: 0, 9: 4, 10: 2}[views]


def to_network_input(images: Tensor, channels: int, side: int) -> Tensor:
    """The images as a network takes them: grey repeated to `channels`, and resized to `side`. Floats stay floats."""
    if images.shape[1] != channels:
        images = images.expand(-1, channels, -1, -1)
    return resize(images, side)


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, antialiased where it shrinks; uint8 is rounded."""
    if images.shape[-2:] == (side, side):
        return images
    # in floats: not every device has an integer kernel for it
    resized = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return resized if images.is_floating_point() else resized.round().to(images.dtype)


def _gather_crops(images: Tensor, side: int, top: Tensor, left: Tensor) -> Tensor:
    if images.shape[-2:] == (side, side):
        return images
    # all squares of each image as a view [N, C, rows, columns, side, side]: one gather then takes one of each
    places = images.unfold(2, side, 1).unfold(3, side, 1)
    device = images.device
    return places[torch.arange(len(images), device=device), :, top.to(device), left.to(device)]


def _mirror_where(images: Tensor, mirrored: Tensor) -> Tensor:
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
