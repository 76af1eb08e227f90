"""Provides the handwritten digits of scikit-learn: 8x8 pixels with values 0..16."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

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
    found = _read_file()
    if found is not None:
        return found
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    return pixels, targets


def _read_file() -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Returns the content of scikit-learn's file, without the import of the package, which takes longer than a run of
    an epoch starts; None where this version has no such file."""
    spec = find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with suppress(ValueError, OSError):
                rows = np.loadtxt(file, delimiter=",")
                if rows.shape == (1797, 65):
                    return rows[:, :-1], rows[:, -1].astype(np.int64)
    return None


def open_digits(spec: Digits) -> Source:
    """Returns the source of 1,437 training and 360 test images, uint8 [1, size, size]."""
    pixels, targets = load_pixels_and_labels()
    small = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    everything = ResidentSplit(resize(small, spec.size), torch.from_numpy(targets).long())
    order = stratified_order(everything.labels, TEST_SEED)
    test = everything.select(order[:TEST_IMAGES].sort().values)
    train = everything.select(order[TEST_IMAGES:].sort().values)
    return Source(train, None, test, data_info(spec).classes, fingerprint(train, test))
