"""Provides what the callbacks that evaluate a network between epochs share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from torch import nn


@contextmanager
def preserve_modes(network: nn.Module) -> Iterator[None]:
    """Restores the mode of every module, training or evaluation, at the end of the block."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def add_metrics(module: pl.LightningModule, found: dict[str, float]) -> None:
    """Adds to this epoch's metrics, which the recorder and Lightning's callbacks read; also with a user's module."""
    if isinstance(getattr(module, "metrics", None), dict):
        module.metrics.update(found)  # type: ignore[union-attr,operator]
    module.log_dict(found, logger=False)
