"""Selects experiments that are cheap enough for a test; large networks are valid but slow."""

from __future__ import annotations

from alexnet_exp.config.resolve import data_info_of, resolve_network
from alexnet_exp.config.schema import Config
from alexnet_exp.data.spec import Digits, Random
from alexnet_exp.model.cost import layers, totals
from alexnet_exp.model.spec import Network

MULTIPLY_ADDS = 100_000_000
PARAMETERS = 5_000_000
PIXELS = 20_000_000


def affordable(config: Config) -> bool:
    """Returns whether one batch trains fast and in little memory."""
    spec, _, _ = resolve_network(config)
    known = data_info_of(config)
    assert isinstance(spec, Network)
    assert known is not None
    total = totals(layers(spec))
    images = {Digits: 1797, Random: getattr(config.data, "n", 0) * 2}.get(type(config.data), 16)
    side = max(known.size, int(spec.input_size or 0)) + 2 * config.data.pad
    return (
        total.multiply_adds * min(config.data.batch_size, images) < 100 * MULTIPLY_ADDS
        and total.multiply_adds < MULTIPLY_ADDS
        and total.parameters < PARAMETERS
        and images * known.size**2 < PIXELS
        and side**2 * min(config.data.batch_size, images) < PIXELS
        and not config.data.workers  # each worker process imports torch
        and not config.trainer.compile
    )
