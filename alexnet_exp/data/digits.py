"""Provides the handwritten digits of scikit-learn: 8x8 pixels with values 0..16."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_exp.data.augment import resize
from alexnet_exp.data.info import data_info
from alexnet_exp.data.spec import Digits
from alexnet_exp.data.split import ResidentSplit, Source, fingerprint
from alexnet_exp.data.stratified import stratified_order

TEST_IMAGES = 360
# The test images do not depend on the run's seed.
TEST_SEED = 2012


@cache
def load_pixels_and_labels() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns images [1797, 64] with values 0..16, and their digits [1797]; callers must not modify them.

    They are read once per process; a fork server has them for all jobs of a sweep.
    """
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    return pixels, targets


def open_digits(spec: Digits) -> Source:
    """Returns the source of 1,437 training and 360 test images, uint8 [1, size, size]."""
    pixels, targets = load_pixels_and_labels()
    small = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    everything = ResidentSplit(resize(small, spec.size), torch.from_numpy(targets).long())
    order = stratified_order(everything.labels, TEST_SEED)
    test = everything.select(order[:TEST_IMAGES].sort().values)
    train = everything.select(order[TEST_IMAGES:].sort().values)
    return Source(train, None, test, data_info(spec).classes, fingerprint(train, test))
