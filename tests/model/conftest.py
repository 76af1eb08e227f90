"""Provides a variant of conf/model with overrides, as the command line composes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from alexnet_exp.model.completion import Ends, complete
from alexnet_exp.model.spec import Network

CONF = Path(__file__).parents[2] / "conf" / "model"
VARIANTS = sorted(file.stem for file in CONF.glob("*.yaml"))

Variant = Callable[..., Network]


def compose(name: str, *overrides: str) -> Network:
    """The settings of one YAML option as a user gets them; overrides are relative to the node."""
    network = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(Network), *_options(name), OmegaConf.from_dotlist(list(overrides)))
    )
    assert isinstance(network, Network)
    return network


def _options(name: str) -> list[Any]:
    """A YAML option and the options that it builds upon, those first: all that its `defaults` name but the schema."""
    option = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(option, DictConfig)
    *below, last = option.pop("defaults")
    assert last == "_self_"
    return [*(each for base in below if not base.startswith("/") for each in _options(base)), option]


def closed(
    name: str, *overrides: str, size: int = 224, channels: int = 3, classes: int = 1000, width: float = 1
) -> Network:
    """The same, completed with the ends of a data set that agrees with whatever the variant pins."""
    spec = compose(name, *overrides)
    return complete(spec, Ends(size, spec.in_channels or channels, spec.num_classes or classes, width))


@pytest.fixture
def variant() -> Variant:
    return compose


@pytest.fixture
def network_of() -> Variant:
    return closed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "every_variant" in metafunc.fixturenames:
        metafunc.parametrize("every_variant", VARIANTS)
