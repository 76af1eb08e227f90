"""Provides the augmentation of batches on the device: crops, mirrors, channels, size, all on uint8 [N, C, H, W].

Random numbers are drawn on the CPU, from a generator that the caller seeds, and moved to the device, so that a batch is
cropped in the same way on every device. No function loops over images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.data.transfer import to_device
from alexnet_exp.kernels.images import crop_squares


def random_crop(images: Tensor, side: int, pad: int, generator: torch.Generator) -> Tensor:
    """Returns a square of `side` pixels of each image with `pad` zeros on all sides, at a uniformly random place."""
    return crop_at(images, side, pad, *draw_places(images, side, pad, generator))


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors each image left to right with probability 1/2."""
    return mirror_where(images, draw_mirrors(images, generator))


def random_crop_mirror(images: Tensor, side: int, pad: int, generator: torch.Generator) -> Tensor:
    """Returns `mirror` of a `random_crop`, in one pass over the pixels."""
    places = draw_places(images, side, pad, generator)
    return crop_at(images, side, pad, *places, draw_mirrors(images, generator))


def draw_places(images: Tensor, side: int, pad: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns top and left of a random square in each padded image: int64 [N]. Draws nothing for a single place."""
    count, height, width = len(images), images.shape[-2] + 2 * pad, images.shape[-1] + 2 * pad
    if height == side and width == side:
        return torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
    top = torch.randint(height - side + 1, (count,), generator=generator)
    return top, torch.randint(width - side + 1, (count,), generator=generator)


def draw_mirrors(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns which of the images are mirrored: bool [N]."""
    return torch.randint(2, (len(images),), generator=generator, dtype=torch.bool)


def mirror_where(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors the images left to right where `mirrored`, bool [N], is true."""
    return torch.where(to_device(mirrored, images.device)[:, None, None, None], images.flip(3), images)


def crop_at(images: Tensor, side: int, pad: int, top: Tensor, left: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Returns the square of `side` pixels at `top`, `left` [N] of each padded image, mirrored where `mirrored` [N].

    A native kernel does it in one pass on the CPU, torch otherwise, with the same bytes.
    """
    found = crop_squares(images, side, pad, top, left, mirrored)
    if found is None:
        found = _gather_crops(F.pad(images, (pad, pad, pad, pad)) if pad else images, side, top, left)
        found = found if mirrored is None else mirror_where(found, mirrored)
    return found


def center_crop(images: Tensor, side: int) -> Tensor:
    """Returns the central square of `side` pixels, as torchvision's CenterCrop; see `center_margin`."""
    top, left = center_margin(images.shape[-2] - side), center_margin(images.shape[-1] - side)
    return images[..., top : top + side, left : left + side]


def center_margin(margin: int) -> int:
    """Returns the part of `margin` in pixels before a central square; half an odd margin is rounded to even.

    torchvision's CenterCrop rounds the same way. Central crops of 224 from squares of 256 therefore equal those from
    whole images.
    """
    return round(margin / 2)


def view_places(height: int, width: int, side: int, views: int) -> list[tuple[int, int]]:
    """Returns top and left of the squares of a test with `views` views, in images of that height and width.

    1 and 2: the centre. 10 (the paper, section 4.1): corners and centre, each also mirrored. 9 (the CIFAR networks of
    cuda-convnet): a 3x3 grid from corner to corner, not mirrored.
    """
    bottom, right = height - side, width - side
    centre = (center_margin(bottom), center_margin(right))
    if views in (1, 2):
        return [centre]
    if views == 10:
        return [(0, 0), (0, right), centre, (bottom, 0), (bottom, right)]
    if views == 9:
        return [(top, left) for top in (0, centre[0], bottom) for left in (0, centre[1], right)]
    raise ValueError(f"views={views}: must be 1, 2, 9 or 10")


def crop_views(images: Tensor, side: int, views: int) -> list[Tensor]:
    """Returns the views [N, C, side, side]: the squares at `view_places`, for 2 and 10 views then their mirrors."""
    places = view_places(images.shape[-2], images.shape[-1], side, views)
    squares = [images[..., top : top + side, left : left + side] for top, left in places]
    return squares + [square.flip(3) for square in squares] if views in (2, 10) else squares


def center_view(views: int) -> int:
    """Returns the index of the view that is the central square, not mirrored."""
    return {1: 0, 2: 0, 9: 4, 10: 2}[views]


def to_network_input(images: Tensor, channels: int, side: int) -> Tensor:
    """Returns the input of a network: grey repeated to `channels`, resized to `side` pixels. Floats stay floats."""
    if images.shape[1] != channels:
        images = images.expand(-1, channels, -1, -1)
    return resize(images, side)


def resize(images: Tensor, side: int) -> Tensor:
    """Resizes to `side` pixels: bilinear, antialiased; uint8 is rounded."""
    if images.shape[-2:] == (side, side):
        return images
    # in floats, because not every device has an integer kernel
    resized = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return resized if images.is_floating_point() else resized.round().to(images.dtype)


def _gather_crops(images: Tensor, side: int, top: Tensor, left: Tensor) -> Tensor:
    if images.shape[-2:] == (side, side):
        return images
    # a view of all squares of each image [N, C, rows, columns, side, side]; one gather selects one square per image
    places = images.unfold(2, side, 1).unfold(3, side, 1)
    device = images.device
    return places[torch.arange(len(images), device=device), :, to_device(top, device), to_device(left, device)]
