"""Every composition trains one batch or is rejected with one clear line per problem."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from PIL import Image

from alexnet_exp.cli.check import one_batch
from alexnet_exp.config.composition import validate_new_run
from alexnet_exp.errors import UserError
from tests.fuzz.budget import affordable
from tests.fuzz.clear import check
from tests.fuzz.configurations import experiments
from tests.fuzz.hunting import hunt

Experiment = tuple[dict[str, Any], dict[str, Any]]
FOLDER = "images"  # below the working folder of the test


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / FOLDER / name).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / FOLDER / name / f"{number}.png")


@settings(settings.get_profile("fuzz"), max_examples=20)
@given(experiments(FOLDER))
def test_experiment_trains_a_batch_or_is_rejected_clearly(drawn: Experiment) -> None:
    refused_or_trained(drawn)


@pytest.mark.slow
@hunt(100)
@given(experiments(FOLDER))
def test_many_experiments_train_a_batch_or_are_rejected_clearly(drawn: Experiment) -> None:
    refused_or_trained(drawn)


def refused_or_trained(drawn: Experiment) -> None:
    container, said = drawn
    try:
        config = validate_new_run(container).config
        assume(affordable(config))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert one_batch(config).startswith("ok: ")
    except UserError as refused:
        check(refused, given=repr(said))
