"""Evaluates a split with the network of a run: exact metrics, and the predictions for every image.

The test at the end of a run and `eval RUN` both use it, so that they report the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alexnet_exp.data.split import Split
from alexnet_exp.errors import UserError, nfc
from alexnet_exp.runs.predictions import write_predictions
from alexnet_exp.runs.status import own_interrupts
from alexnet_exp.training.build import Experiment
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.devices import Placement
from alexnet_exp.training.distributed import replica, replicas
from alexnet_exp.training.metrics import Tally, metrics_of
from alexnet_exp.training.trainer import build_trainer


@dataclass
class Predictions:
    """For the images of a split, in order: `labels` [N], and `logs` [N, classes], the log-probabilities."""

    labels: NDArray[np.int64]
    logs: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes them in the format of a run's `predictions/`."""
        write_predictions(path, self.labels, np.exp(self.logs).astype(np.float16))


@dataclass
class Evaluation:
    """metrics: `split/loss`, `split/top1`, `split/top5`. centre: those of the central crop, where views were several.

    predictions: on rank 0, where they were asked for and the split has images.
    """

    metrics: dict[str, float]
    centre: dict[str, float]
    predictions: Predictions | None


class Ensemble:
    """Averages the probabilities of several networks for the same images, with equal weights."""

    def __init__(self) -> None:
        self.runs = 0
        self._sum: Predictions | None = None
        self._first: tuple[Path, list[str], bytes | None] | None = None

    def check_images(self, run: Path, classes: list[str], split: Split | None) -> None:
        """Raises `UserError` where `run` has other classes or images than the runs before it.

        split: its images; None where a user's data module does not provide them.
        """
        images = split.digest() if split is not None else None
        if self._first is None:
            self._first = run, classes, images
            return
        first, their_classes, theirs = self._first
        if list(map(nfc, classes)) != list(map(nfc, their_classes)):
            raise UserError(f"eval: {run} and {first} have different classes; they cannot be ensembled")
        if images != theirs:
            raise UserError(f"eval: {run} and {first} have different images; they cannot be ensembled")

    def add(self, predictions: Predictions) -> None:
        """Adds a run's predictions; raises `UserError` where its labels differ from those of the runs before it."""
        if self._sum is None:
            self._sum = predictions
        elif not np.array_equal(self._sum.labels, predictions.labels):
            raise UserError("eval: the runs have different labels; they cannot be ensembled")
        else:
            self._sum = Predictions(predictions.labels, np.logaddexp(self._sum.logs, predictions.logs))
        self.runs += 1

    @property
    def predictions(self) -> Predictions:
        """The averaged predictions."""
        assert self._sum is not None
        return Predictions(self._sum.labels, self._sum.logs - np.float32(math.log(self.runs)))

    def metrics(self, split: str) -> dict[str, float]:
        """Returns `split/loss` (the negative log of the averaged probability of the true class) and top1, top5."""
        logs, labels = torch.from_numpy(self.predictions.logs), torch.from_numpy(self.predictions.labels)
        tally = Tally()
        tally.add(F.nll_loss(logs.double(), labels, reduction="sum"), logs, labels)
        return {f"{split}/{key}": value for key, value in tally.read().items() if key != "images"}


class _PredictionCollector(pl.Callback):
    """Collects the labels and log-probabilities of each test batch."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []
        self.logs: list[Tensor] = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, Tensor):
            self.labels.append(batch[1].cpu())
            self.logs.append(outputs.float().log_softmax(1).cpu())


def evaluate(experiment: Experiment, placement: Placement, split: str, views: int = 1, keep: bool = True) -> Evaluation:
    """Evaluates the network on every image of a split, once; `keep`: with the predictions.

    The probabilities of several views of an image are averaged: the loss is the negative log of the true class's
    average, and the predictions are the averages. `refuse_views` says which views are possible. A user's
    LightningModule gives predictions where its `test_step` returns logits.
    """
    collect = _PredictionCollector()
    trainer = build_trainer(experiment.config.trainer, placement, [collect] if keep else [], [])
    if isinstance(experiment.data, ImageData):
        experiment.data.test_on, experiment.data.test_views = split, views
    with own_interrupts(trainer):
        trainer.test(experiment.module, datamodule=experiment.data, verbose=False)
    metrics, centre = (
        {f"{split}/{key.partition('/')[2]}": value for key, value in metrics_of(trainer, experiment.module, of).items()}
        for of in (("test",), ("centre",) if views > 1 else ())
    )
    return Evaluation(metrics, centre, _gathered(collect, trainer, experiment, split) if keep else None)


def _gathered(
    collect: _PredictionCollector, trainer: pl.Trainer, experiment: Experiment, split: str
) -> Predictions | None:
    """Returns all ranks' predictions in the order of the images. A collective, also for a rank without images."""
    mine = None
    if collect.labels:
        labels, logs = torch.cat(collect.labels).numpy(), torch.cat(collect.logs).numpy()
        mine = labels, logs, _indices(trainer, experiment, split, len(labels))
    everyone: list[Any] = [mine]
    if replicas(trainer) > 1:
        everyone *= trainer.world_size
        dist.all_gather_object(everyone, mine)
    seen = [part for part in everyone if part is not None]
    if not seen or not trainer.is_global_zero:
        return None
    labels, logs, indices = (np.concatenate(column) for column in zip(*seen, strict=True))
    order = np.argsort(indices, kind="stable")
    return Predictions(labels[order], logs[order])


def _indices(trainer: pl.Trainer, experiment: Experiment, split: str, count: int) -> NDArray[np.int64]:
    """Returns the indices of the images that this rank has evaluated, in its order."""
    if isinstance(experiment.data, ImageData):
        return np.asarray(experiment.data.indices(split)[:count])
    return np.arange(count) * replicas(trainer) + replica(trainer)
