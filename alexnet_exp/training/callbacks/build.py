"""Builds the callbacks of a configuration: Lightning's, ours and the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from alexnet_exp.config import schema
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.training.callbacks.ema import Ema
from alexnet_exp.training.callbacks.precise_bn import PreciseBn
from alexnet_exp.training.callbacks.train_error import TrainError
from alexnet_exp.training.module import AlexNetModule


def build_callbacks(settings: Mapping[str, Any]) -> list[pl.Callback]:
    """Returns the callbacks of the node `callbacks`, in its order; early stopping last: it reads what others log."""
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
    # None is Lightning's own choice: after the epoch, or after each validation where they differ.
    of_validation = node.monitor.startswith("val/") and node.monitor not in schema.PRECISE_METRICS
    return MeasuredEarlyStopping(**arguments, check_on_train_epoch_end=None if of_validation else True)


class MeasuredEarlyStopping(EarlyStopping):
    """Lightning's EarlyStopping, which ignores an epoch without a new value of the metric.

    Lightning would count the value of an earlier epoch again; a resumed run, which does not have that value, would
    fail.
    """

    @property
    def state_key(self) -> str:
        """The key of Lightning's EarlyStopping, because checkpoints of the first version have it."""
        return f"{EarlyStopping.__qualname__}{ {'monitor': self.monitor, 'mode': self.mode}!r}"

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states, key = checkpoint["callbacks"], super().state_key
        if key in states:  # a checkpoint of a development version, which had the name of this class
            states.setdefault(self.state_key, states[key])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ours = isinstance(pl_module, AlexNetModule) and self.monitor in schema.METRICS
        if not ours or self.monitor in pl_module.metrics:  # type: ignore[operator]
            super().on_train_epoch_end(trainer, pl_module)
