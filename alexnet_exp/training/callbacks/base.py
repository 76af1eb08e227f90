"""What callbacks that measure a network between epochs have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from torch import nn


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Puts every module back into the mode, training or evaluation, that it was in."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def add_metrics(module: pl.LightningModule, found: dict[str, float]) -> None:
    """Adds to this epoch's metrics, where the recorder and Lightning's callbacks find them; a user's module too."""
    if isinstance(getattr(module, "metrics", None), dict):
        module.metrics.update(found)  # type: ignore[union-attr,operator]
    module.log_dict(found, logger=False)
