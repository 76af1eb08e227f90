"""Validation with batch norm statistics measured anew, beside the one with the running averages that training left."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from alexnet_exp.datamodule import ImageData
from alexnet_exp.module import Tally


class PreciseBn(pl.Callback):
    """Measures mean and variance of every batch norm over `images` training images with the weights as they are.

    The running averages mix the statistics of many past weights (torch's momentum 0.01 remembers some 100 steps). The
    difference between the two validations is what that mixing costs. Afterwards everything is put back: no random
    number is drawn and no state is changed, so the training goes on as it would have.
    """

    def __init__(self, images: int):
        self.images = images

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageData) or data.source.val is None:
            return
        modes = {module: module.training for module in pl_module.modules()}
        with measured_anew(pl_module) as norms:
            pl_module.eval()
            for norm in norms:
                norm.train()
            seen = 0
            for images, _ in self._batches(data, "train", pl_module.device):
                pl_module(images)
                seen += len(images) * trainer.world_size
                if seen >= self.images:
                    break
            pl_module.eval()
            tally = Tally()
            for images, labels in self._batches(data, "val", pl_module.device):
                logits = pl_module(images).float()
                tally.add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
        for module, mode in modes.items():
            module.training = mode
        means = tally.read(trainer.strategy if trainer.world_size > 1 else None)
        found = {f"val/{key}_precise_bn": means[key] for key in ("loss", "top1")}
        if isinstance(getattr(pl_module, "metrics", None), dict):
            pl_module.metrics.update(found)  # type: ignore[union-attr,operator]
        pl_module.log_dict(found, logger=False)

    @staticmethod
    def _batches(data: ImageData, split: str, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in data.loader(split):
            yield data.centred(images.to(device)), labels.to(device)


@contextmanager
def measured_anew(network: nn.Module) -> Iterator[list[_BatchNorm]]:
    """The batch norms of `network`, emptied, averaging all that they see alike; put back as they were afterwards."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    before = [(copy.deepcopy(norm.state_dict()), norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    try:
        yield norms
    finally:
        for norm, (state, momentum) in zip(norms, before, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum
