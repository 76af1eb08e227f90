"""Validates a second time with batch norm statistics that are measured anew ("precise BN")."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import Strategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from alexnet_exp.data.loader import Batch
from alexnet_exp.training.callbacks.base import add_metrics, preserve_modes
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.distributed import replicas
from alexnet_exp.training.metrics import Tally


class PreciseBn(pl.Callback):
    """Measures mean and variance of every batch norm over `images` training images with the current weights.

    The running averages mix the statistics of many past weights (torch's momentum 0.01 remembers some 100 steps). The
    difference between the two validations is what that mixing costs. The statistics are the means, over the batches,
    of a batch's mean and unbiased variance (Wu and Johnson, 2021, "Rethinking 'Batch' in BatchNorm"). Afterwards the
    state is restored: training is not affected.
    """

    def __init__(self, images: int):
        self.images = images

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageData) or data.source.val is None:
            return
        strategy = trainer.strategy if replicas(trainer) > 1 else None
        with (
            preserve_modes(pl_module),
            reset_statistics(pl_module) as norms,
            trainer.precision_plugin.forward_context(),
        ):
            pl_module.eval()
            for norm in norms:
                norm.train()
            self._measure(data, pl_module, replicas(trainer))
            if strategy is not None:
                for norm in norms:
                    _average(norm, strategy)
            pl_module.eval()
            tally = Tally()
            for images, labels in self._batches(data.loader("val"), data, pl_module.device):
                logits = pl_module(images).float()
                tally.add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
        means = tally.read(strategy)
        found = {f"val/{key}_precise_bn": means[key] for key in ("loss", "top1")}
        add_metrics(pl_module, found)

    def _measure(self, data: ImageData, module: pl.LightningModule, ranks: int) -> None:
        # shuffled: in a folder's own order a batch would have images of one class only
        seen = 0
        for images, _ in self._batches(data.loader("train", shuffle=True), data, module.device):
            module(images)
            seen += len(images) * ranks
            if seen >= self.images:
                return

    @staticmethod
    def _batches(loader: Iterable[Batch], data: ImageData, device: torch.device) -> Iterator[Batch]:
        for images, labels in loader:
            yield data.centred(images.to(device)), labels.to(device)


def _average(norm: _BatchNorm, strategy: Strategy) -> None:
    """Replaces the statistics of each rank by their mean over all ranks."""
    for statistic in (norm.running_mean, norm.running_var):
        if statistic is not None:
            statistic.copy_(strategy.reduce(statistic.clone(), reduce_op="mean"))


@contextmanager
def reset_statistics(network: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Yields the batch norms of `network` with empty statistics and a cumulative average; restores them afterwards."""
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
