"""The callbacks that a configuration asks for: Lightning's, under our settings, and the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from alexnet_exp import schema
from alexnet_exp.callbacks.batch_norm import PreciseBn
from alexnet_exp.callbacks.ema import Ema
from alexnet_exp.callbacks.train_error import TrainError
from alexnet_exp.extend import UserClass


def build_callbacks(settings: Mapping[str, Any]) -> list[pl.Callback]:
    """The callbacks of the node `callbacks`, in its order; early stopping last, as it reads what the others log."""
    return sorted(map(_build, settings.values()), key=lambda callback: isinstance(callback, EarlyStopping))


def _build(node: Any) -> pl.Callback:
    if isinstance(node, UserClass):
        callback = node.build()
        assert isinstance(callback, pl.Callback)
        return callback
    arguments = {key: value for key, value in vars(node).items() if key != "name"}
    if isinstance(node, schema.Ema):
        return Ema(**arguments)
    if isinstance(node, schema.PreciseBn):
        return PreciseBn(**arguments)
    if isinstance(node, schema.TrainError):
        return TrainError(**arguments)
    assert isinstance(node, schema.EarlyStopping)
    # null is Lightning's own choice: after the epoch, or after each validation where these come at other times
    after_epoch = None if node.monitor.startswith("val/") else True
    return EarlyStopping(**arguments, check_on_train_epoch_end=after_epoch)
