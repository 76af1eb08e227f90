"""The roofline's floor of a step, by a network small enough to count by hand."""

import pytest

from alexnet_exp.model.cost import Layer
from benchmarks.roofline import floor

# 3x8x8 images; a 3x3 convolution to 4 maps, pooled, then 10 classes
TABLE = [
    Layer("conv", "conv", (4, 8, 8), parameters=112, multiply_adds=4 * 64 * 27),
    Layer("pool", "pool", (4, 4, 4)),
    Layer("fc", "fc", (10,), parameters=650, multiply_adds=640),
]
IMAGE = (3, 8, 8)


def test_bound_by_flop() -> None:
    # the first layer needs no gradient of the images
    flop = 2 * 5 * (2 * 6912 + 3 * 640)
    assert floor(TABLE, IMAGE, 5, flop_per_s=1.0, bytes_per_s=1e30) == pytest.approx(flop)


def test_bound_by_bytes() -> None:
    conv = 2 * 5 * (2 * 192 + 2 * 256) + 26 * 112
    fc = 2 * 5 * (3 * 64 + 2 * 10) + 26 * 650
    assert floor(TABLE, IMAGE, 5, flop_per_s=1e30, bytes_per_s=1.0) == pytest.approx(conv + fc)


def test_each_layer_by_what_bounds_it() -> None:
    conv_flop, fc_bytes = 2 * 5 * 2 * 6912, 2 * 5 * (3 * 64 + 2 * 10) + 26 * 650
    assert floor(TABLE, IMAGE, 5, flop_per_s=1.0, bytes_per_s=0.5) == pytest.approx(conv_flop + 2 * fc_bytes)
