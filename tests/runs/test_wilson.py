"""How well so many images tell an accuracy."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from alexnet_exp.runs.wilson import half_width, margin, summary_line


@pytest.mark.parametrize(("right", "images"), [(0, 360), (36, 360), (351, 360), (360, 360), (3, 4), (7_500, 10_000)])
def test_half_width_is_that_of_scipys_interval(right: int, images: int) -> None:
    interval = binomtest(right, images).proportion_ci(method="wilson")
    assert half_width(right / images, images) == pytest.approx((interval.high - interval.low) / 2, rel=1e-4)


def test_margin_of_360_and_50000_images() -> None:
    assert margin(0.975, 360) == "+-1.7 points (95% CI, 360 images)"
    assert margin(0.6, 50_000) == "+-0.4 points (95% CI, 50,000 images)"


def test_the_last_line_of_a_run() -> None:
    metrics = {"test/top1": 0.975, "test/loss": 0.1}
    told = "test: top-1 0.9750 +-1.7 points (95% CI, 360 images), best checkpoint, epoch 8"
    assert summary_line(metrics, 360, "best", 8) == told
    assert summary_line({"test/mae": 0.5}, None, "last", 3) == "test: mae 0.5000, last checkpoint, epoch 3"
    assert summary_line({}, None, "last", 3) == "test: no test metric was logged, last checkpoint, epoch 3"
