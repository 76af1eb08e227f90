"""The paper's Figure 3 as an array, against a loop that places one filter at a time."""

import numpy as np
import pytest
from PIL import Image

from alexnet_exp.plots import filters
from alexnet_exp.plots.filters import mosaic_of
from alexnet_exp.settings import UserError

RNG = np.random.default_rng(0)


def tile(mosaic, line, place, size, below=0):
    """The pixels of one filter; `below` is how far its column is set off from the one above."""
    top, left = 4 + line * (size + 4) + below, 4 + place * (size + 4)
    return mosaic[top : top + size, left : left + size]


def test_each_filter_lies_in_its_place_over_its_own_range():
    weight = RNG.normal(size=(40, 3, 5, 5)) * RNG.uniform(1e-3, 10, size=(40, 1, 1, 1))
    mosaic = mosaic_of(weight)
    assert mosaic.shape == (3 * 64 + 4, 16 * 64 + 4, 3)
    for index, kernel in enumerate(weight):
        expected = np.kron(((kernel - kernel.min()) / np.ptp(kernel)).transpose(1, 2, 0), np.ones((12, 12, 1)))
        np.testing.assert_allclose(tile(mosaic, index // 16, index % 16, 60), expected, atol=1e-12)


def test_what_is_no_filter_is_white():
    mosaic = mosaic_of(RNG.normal(size=(20, 3, 5, 5)))
    for index in range(20):
        tile(mosaic, index // 16, index % 16, 60)[:] = 1.0
    assert (mosaic == 1.0).all()


def test_the_columns_are_apart_the_first_on_top():
    weight = RNG.normal(size=(96, 3, 11, 11))
    together, apart = mosaic_of(weight), mosaic_of(weight, columns=2)
    assert apart.shape[0] - together.shape[0] == 16
    first, second = tile(apart, 0, 0, 66), tile(apart, 3, 0, 66, below=16)
    np.testing.assert_array_equal(first, tile(together, 0, 0, 66))
    np.testing.assert_array_equal(second, tile(together, 3, 0, 66))


def test_one_channel_is_grey_and_a_flat_filter_mid_grey():
    weight = RNG.normal(size=(3, 1, 3, 3))
    weight[1] = 7.0
    mosaic = mosaic_of(weight)
    assert (mosaic == mosaic[:, :, :1]).all()
    assert (tile(mosaic, 0, 1, 60) == 0.5).all()


def test_other_channels_cannot_be_shown():
    with pytest.raises(UserError, match="4 input channels"):
        mosaic_of(np.zeros((8, 4, 3, 3)))


def test_the_png_has_the_mosaics_proportions_and_its_colours(tmp_path):
    weight = np.zeros((16, 3, 3, 3), dtype=np.float32)
    weight[:, 0] = 1.0  # red
    filters(weight, tmp_path / "filters.png")
    with Image.open(tmp_path / "filters.png") as image:
        height, width = mosaic_of(weight).shape[:2]
        assert image.format == "PNG"
        assert image.width == 1200
        assert image.height == pytest.approx(1200 * height / width, abs=1)
        pixel = image.convert("RGB").getpixel((40, 40))
    assert pixel == (255, 0, 0)
