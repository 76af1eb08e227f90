"""The paper's Figure 3 as an array, against a loop that places one filter at a time."""

import numpy as np
import pytest
from PIL import Image

from alexnet_exp.errors import UserError
from alexnet_exp.plots import filters
from alexnet_exp.plots.filters import BETWEEN_COLUMNS, COLUMN_NAME_HEIGHT, MARGIN, mosaic_of

RNG = np.random.default_rng(0)


def tile(mosaic, line, place, size, below=0):
    """The pixels of one filter; `below` is how far its column is set off from the one above."""
    top, left = 4 + line * (size + 4) + below, 4 + place * (size + 4)
    return mosaic[top : top + size, left : left + size]


def test_each_filter_is_drawn_in_its_place_on_its_own_scale():
    weight = RNG.normal(size=(40, 3, 5, 5)) * RNG.uniform(1e-3, 10, size=(40, 1, 1, 1))
    mosaic = mosaic_of(weight)
    assert mosaic.shape == (3 * 64 + 4, 16 * 64 + 4, 3)
    for index, kernel in enumerate(weight):
        scaled = 0.5 + kernel / abs(kernel).max() / 2
        expected = np.kron(scaled.transpose(1, 2, 0), np.ones((12, 12, 1)))
        np.testing.assert_allclose(tile(mosaic, index // 16, index % 16, 60), expected, atol=1e-12)


def test_zero_is_the_same_grey_in_every_filter():
    weight = np.zeros((2, 1, 3, 3))
    weight[0, 0, 0, 0], weight[1, 0, 0, 0] = 5.0, -0.1
    mosaic = mosaic_of(weight)
    for place, strongest in enumerate((1.0, 0.0)):
        shown = tile(mosaic, 0, place, 60)
        assert (shown[:20, :20] == strongest).all()
        assert (shown[20:] == 0.5).all()


def test_the_gaps_are_white():
    mosaic = mosaic_of(RNG.normal(size=(20, 3, 5, 5)))
    for index in range(20):
        tile(mosaic, index // 16, index % 16, 60)[:] = 1.0
    assert (mosaic == 1.0).all()


def test_columns_are_drawn_separately_the_first_on_top():
    weight = RNG.normal(size=(96, 3, 11, 11))
    together, apart = mosaic_of(weight), mosaic_of(weight, columns=2)
    more = apart.shape[0] - together.shape[0]
    assert more == BETWEEN_COLUMNS - 4
    first, second = tile(apart, 0, 0, 66), tile(apart, 3, 0, 66, below=more)
    np.testing.assert_array_equal(first, tile(together, 0, 0, 66))
    np.testing.assert_array_equal(second, tile(together, 3, 0, 66))
    assert (apart[4 + 3 * 70 - 4 : 4 + 3 * 70 + more] == 1.0).all()


def test_one_channel_is_grey_and_a_filter_of_zeros_mid_grey():
    weight = RNG.normal(size=(3, 1, 3, 3))
    weight[1] = 0.0
    mosaic = mosaic_of(weight)
    assert (mosaic == mosaic[:, :, :1]).all()
    assert (tile(mosaic, 0, 1, 60) == 0.5).all()


def test_other_channels_cannot_be_shown():
    with pytest.raises(UserError, match="4 input channels"):
        mosaic_of(np.zeros((8, 4, 3, 3)))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("shape", [(96, 3, 11, 11), (32, 3, 5, 5), (6, 1, 5, 5)])
def test_the_png_holds_the_mosaic_pixel_by_pixel(tmp_path, shape, columns):
    weight = RNG.normal(size=shape).astype(np.float32)
    filters(weight, tmp_path / "filters.png", columns, layer="conv1")
    mosaic = mosaic_of(weight, columns)
    height, width = mosaic.shape[:2]
    with Image.open(tmp_path / "filters.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"), dtype=float) / 255
    top = MARGIN + (COLUMN_NAME_HEIGHT if columns > 1 else 0)
    shown = pixels[top : top + height, MARGIN : MARGIN + width]
    # the names of the columns stand between them
    inked = (mosaic < 1).any(axis=2)
    np.testing.assert_allclose(shown[inked], mosaic[inked], atol=0.5 / 255 + 1e-6)


def test_the_caption_is_saved_in_the_picture(tmp_path):
    filters(RNG.normal(size=(96, 3, 11, 11)), tmp_path / "filters.png", 2, layer="conv1")
    with Image.open(tmp_path / "filters.png") as image:
        said = image.info["Description"]
    assert said.startswith("96 filters of conv1, 11x11, in colour, in 2 columns.")
    assert "mid-grey is a weight of 0" in said
