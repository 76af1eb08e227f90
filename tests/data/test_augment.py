"""Augmentation of batches against loops over single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from alexnet_exp.data.augment import (
    center_crop,
    center_view,
    crop_at,
    crop_views,
    draw_mirrors,
    draw_places,
    mirror,
    random_crop,
    random_crop_mirror,
    resize,
    to_network_input,
    view_places,
)

IMAGES = torch.randint(0, 256, (64, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(image: Tensor, crop: Tensor, pad: int) -> list[tuple[int, int]]:
    """Returns all (top, left) at which `crop` matches `image` with `pad` zeros around it, by exhaustive search."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * pad, width + 2 * pad), dtype=np.uint8)
    padded[:, pad : pad + height, pad : pad + width] = image
    side = crop.shape[-1]
    return [
        (top, left)
        for top in range(padded.shape[1] - side + 1)
        for left in range(padded.shape[2] - side + 1)
        if np.array_equal(padded[:, top : top + side, left : left + side], crop)
    ]


@pytest.mark.parametrize(("side", "pad"), [(8, 0), (10, 2), (10, 0), (1, 0), (12, 1)])
def test_random_crop_is_a_square_of_its_image(side: int, pad: int) -> None:
    crops = random_crop(IMAGES, side, pad, seeded())
    assert (crops.shape, crops.dtype) == ((64, 3, side, side), torch.uint8)
    assert all(places(image, crop, pad) for image, crop in zip(IMAGES, crops, strict=True))


def test_random_crops_are_uniform_over_all_places() -> None:
    image = IMAGES[:1].expand(3000, -1, -1, -1)
    found = [places(image[0], crop, 1)[0] for crop in random_crop(image, 10, 1, seeded())]
    counts = {place: found.count(place) for place in set(found)}
    # 5 x 3 places, 200 each: 4 standard deviations are 55
    assert len(counts) == 15
    assert all(145 <= count <= 255 for count in counts.values())


def test_crop_of_full_size_returns_the_image() -> None:
    square = IMAGES[..., :10, :]
    assert torch.equal(random_crop(square, 10, 0, seeded()), square)


def test_random_numbers_come_from_the_generator() -> None:
    for draw in (lambda g: random_crop(IMAGES, 6, 2, g), lambda g: mirror(IMAGES, g)):
        assert torch.equal(draw(seeded(1)), draw(seeded(1)))
        assert not torch.equal(draw(seeded(1)), draw(seeded(2)))


def test_mirror_has_probability_one_half() -> None:
    images = torch.arange(4, dtype=torch.uint8).expand(4000, 2, 3, 4)
    mirrored = mirror(images, seeded())
    rows = mirrored[:, 1, 2].tolist()
    assert set(map(tuple, rows)) == {(0, 1, 2, 3), (3, 2, 1, 0)}
    # 4 standard deviations are 126
    assert abs(sum(row == [3, 2, 1, 0] for row in rows) - 2000) < 126


def test_center_crop() -> None:
    expected = torch.stack([torch.from_numpy(image.numpy()[:, 2:10, 1:9]) for image in IMAGES])
    assert torch.equal(center_crop(IMAGES, 8), expected)
    # half an odd margin is rounded to even, as by torchvision
    assert torch.equal(center_crop(IMAGES, 9)[0], IMAGES[0, :, 2:11, 0:9])
    for side in range(1, 11):
        assert torch.equal(center_crop(IMAGES, side), transforms.center_crop(IMAGES, [side, side]))
        for views in (1, 2, 9, 10):
            assert torch.equal(crop_views(IMAGES, side, views)[center_view(views)], center_crop(IMAGES, side))


def test_facts_ten_views_of_256_at_224() -> None:
    assert view_places(256, 256, 224, 10) == [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]


def test_facts_nine_views_of_32_at_24() -> None:
    grid = [(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8), (8, 0), (8, 4), (8, 8)]
    assert view_places(32, 32, 24, 9) == grid


@pytest.mark.parametrize("views", [1, 2, 9, 10])
def test_views_are_squares_and_ten_views_include_mirrors(views: int) -> None:
    found = crop_views(IMAGES, 6, views)
    assert len(found) == views
    for i, image in enumerate(IMAGES[:8]):
        expected = [image.numpy()[:, top : top + 6, left : left + 6] for top, left in view_places(12, 10, 6, views)]
        expected += [square[:, :, ::-1] for square in expected] if views in (2, 10) else []
        for view, square in zip(found, expected, strict=True):
            assert np.array_equal(view[i].numpy(), square)
    assert torch.equal(found[center_view(views)], center_crop(IMAGES, 6))


def test_other_numbers_of_views_are_rejected() -> None:
    with pytest.raises(ValueError, match="views=5: must be 1, 2, 9 or 10"):
        crop_views(IMAGES, 6, 5)


@pytest.mark.parametrize("side", [5, 8, 24])
def test_resize_equals_pillow_bilinear(side: int) -> None:
    square = IMAGES[:4, :, :10, :]
    expected = [np.array(Image.fromarray(i.numpy()[0]).resize((side, side), Image.Resampling.BILINEAR)) for i in square]
    difference = resize(square, side)[:, 0].int() - torch.from_numpy(np.stack(expected)).int()
    assert difference.abs().max() <= 1


def test_network_input_repeats_grey_and_keeps_floats() -> None:
    grey = IMAGES[:, :1, :10, :]
    fitted = to_network_input(grey, 3, 10)
    assert torch.equal(fitted, torch.cat([grey, grey, grey], 1))
    assert to_network_input(grey.double(), 1, 20).is_floating_point()
    assert to_network_input(grey, 3, 20).dtype == torch.uint8


def by_hand(images: Tensor, side: int, pad: int, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    """Crops by a loop over every pixel."""
    count, channels, height, width = images.shape
    out = torch.zeros((count, channels, side, side), dtype=torch.uint8)
    for i in range(count):
        for row in range(side):
            for column in range(side):
                y, x = int(top[i]) + row - pad, int(left[i]) + column - pad
                to = side - 1 - column if mirrored[i] else column
                if 0 <= y < height and 0 <= x < width:
                    out[i, :, row, to] = images[i, :, y, x]
    return out


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("side", "pad"), [(8, 0), (10, 2), (1, 0), (12, 1), (14, 3), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_equal_a_loop_over_pixels(side: int, pad: int, channels: int) -> None:
    images = IMAGES[:9, :channels]
    top, left = draw_places(images, side, pad, seeded())
    mirrored = draw_mirrors(images, seeded())
    expected = by_hand(images, side, pad, top, left, mirrored)
    assert torch.equal(crop_at(images, side, pad, top, left, mirrored), expected)
    # one pass draws the same numbers in the same order as two passes
    generator = seeded()
    two = mirror(random_crop(images, side, pad, generator), generator)
    assert torch.equal(random_crop_mirror(images, side, pad, seeded()), two)


@pytest.mark.usefixtures("way")
def test_crops_at_the_edges_of_large_noncontiguous_batches() -> None:
    images = torch.randint(0, 256, (150, 3, 20, 36), dtype=torch.uint8, generator=seeded())[..., 2:34]  # not contiguous
    top, left = torch.arange(150) % 9, torch.arange(150) % 21
    mirrored = torch.arange(150) % 2 == 1
    expected = by_hand(images[::10], 20, 4, top[::10], left[::10], mirrored[::10])
    assert torch.equal(crop_at(images, 20, 4, top, left, mirrored)[::10], expected)


def test_crop_of_float_images() -> None:
    places = draw_places(IMAGES, 10, 2, seeded())
    assert torch.equal(crop_at(IMAGES.float(), 10, 2, *places), crop_at(IMAGES, 10, 2, *places).float())


def test_random_stream_of_augmentation_is_fixed() -> None:
    """A run's images are a function of its seed: the expected draws and their order, written by hand."""
    crops = random_crop_mirror(IMAGES, 10, 2, seeded(5))
    generator = seeded(5)
    top = torch.randint(7, (64,), generator=generator)
    left = torch.randint(5, (64,), generator=generator)
    mirrored = torch.randint(2, (64,), generator=generator, dtype=torch.bool)
    assert torch.equal(crops, by_hand(IMAGES, 10, 2, top, left, mirrored))
