"""Measures the error on training images without dropout after each epoch, and the epochs until a target error."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from alexnet_exp.config.schema import EPOCHS_TO_TARGET, TRAIN_EVAL
from alexnet_exp.data.stratified import stratified_order
from alexnet_exp.seeds import derive
from alexnet_exp.training.callbacks.base import add_metrics, preserve_modes
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.distributed import replicas
from alexnet_exp.training.metrics import Tally

log = logging.getLogger(__name__)


class TrainError(pl.Callback):
    """Evaluates the same `images` training images of all classes before the first epoch and after each epoch.

    The usual `train/top1` is measured during training: with dropout, with crops and mirrors, and with weights that
    change from the first batch to the last. Figure 1 of the 2012 paper needs the error of one state of the network.
    Training itself is not affected.

    target: count the epochs until this error is first reached; null counts nothing. stop: whether the run ends there.
    """

    def __init__(self, images: int | None, target: float | None, stop: bool):
        self.images, self.target, self.stop = images, target, stop
        self.errors: list[float] = []  # before the first epoch, after the first, ...

    @property
    def metrics(self) -> dict[str, float]:
        """The metric of the whole run: the epochs to the target; empty where it was not reached."""
        epochs = None if self.target is None else epochs_to(self.errors, self.target)
        return {} if epochs is None else {EPOCHS_TO_TARGET: epochs}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.errors and trainer.current_epoch == 0:
            self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure(trainer, pl_module)
        if not self.errors:
            return
        found = {TRAIN_EVAL: 1 - self.errors[-1]}
        add_metrics(pl_module, found)
        if self.stop and self.metrics:
            trainer.should_stop = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or self.target is None or not self.errors:
            return
        epochs = self.metrics.get(EPOCHS_TO_TARGET)
        if epochs is None:
            best = min(self.errors)
            after = self.errors.index(best)
            log.warning(
                f"a training error of {100 * self.target:g}% was not reached in {len(self.errors) - 1} epochs: "
                f"{best:.1%} after epoch {after} was the lowest; {EPOCHS_TO_TARGET} is missing"
            )
        else:
            log.info(f"a training error of {100 * self.target:g}% was reached after {epochs:.2f} epochs")

    def state_dict(self) -> dict[str, Any]:
        return {"errors": list(self.errors)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.errors = list(state_dict["errors"])

    @torch.no_grad()
    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageData):
            return
        train = data.source.train
        order = stratified_order(train.labels.cpu(), derive(data.seed, "train_error"))[: self.images]
        here = data.indices("train")  # this rank's
        tally = Tally()
        with preserve_modes(module), trainer.precision_plugin.forward_context():
            module.eval()
            for indices in torch.split(here[torch.isin(here, order)], data.spec.batch_size):
                images = data.centred(train.images(indices).to(module.device))
                labels = train.labels[indices.to(train.labels.device)].to(module.device)
                logits = module(images).float()
                tally.add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
        means = tally.read(trainer.strategy if replicas(trainer) > 1 else None)
        self.errors.append(1 - means["top1"])


def epochs_to(errors: list[float], target: float) -> float | None:
    """Returns the epochs until the error first is `target` or less, by linear interpolation between two epochs.

    errors: before the first epoch, after the first, ... None where the target is not reached.
    """
    for epoch, error in enumerate(errors):
        if error > target:
            continue
        if epoch == 0:
            return 0.0
        before = errors[epoch - 1]
        return epoch - (target - error) / (before - error)
    return None
