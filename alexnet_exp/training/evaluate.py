"""One split through the network of a run: its metrics to the last digit, and what it answered to every image.

The test at the end of a run and `eval RUN` both come here, so that the number is the same.
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
    """Of each image of a split, in its order: `labels` [N], and `logs` [N, classes] of its classes' probabilities."""

    labels: NDArray[np.int64]
    logs: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes them as a run keeps them."""
        write_predictions(path, self.labels, np.exp(self.logs).astype(np.float16))


@dataclass
class Evaluation:
    """`metrics`: `split/loss`, `split/top1`, `split/top5`. `centre`: the same of the central crop, after several views.

    `predictions`: on rank 0, where they were asked for, and there were images.
    """

    metrics: dict[str, float]
    centre: dict[str, float]
    predictions: Predictions | None


class Together:
    """Several networks on the same images: the average of their probabilities, each with equal weight."""

    def __init__(self) -> None:
        self.runs = 0
        self._sum: Predictions | None = None
        self._first: tuple[Path, list[str], bytes | None] | None = None

    def same_images(self, run: Path, classes: list[str], split: Split | None) -> None:
        """Raises `UserError` where `run` answers for other classes, or images, than the runs before it.

        `split`: its images; None where a data module of the user's does not tell them.
        """
        images = split.digest() if split is not None else None
        if self._first is None:
            self._first = run, classes, images
            return
        first, their_classes, theirs = self._first
        if list(map(nfc, classes)) != list(map(nfc, their_classes)):
            raise UserError(f"eval: {run} has other classes than {first}; together they have no answer")
        if images != theirs:
            raise UserError(f"eval: {run} was to be tested on other images than {first}; together they have no answer")

    def add(self, predictions: Predictions) -> None:
        """Adds a run's predictions; raises `UserError` where its labels are not those of the runs before it."""
        if self._sum is None:
            self._sum = predictions
        elif not np.array_equal(self._sum.labels, predictions.labels):
            raise UserError("eval: the runs' images have different labels; together they have no answer")
        else:
            self._sum = Predictions(predictions.labels, np.logaddexp(self._sum.logs, predictions.logs))
        self.runs += 1

    @property
    def predictions(self) -> Predictions:
        """The averages."""
        assert self._sum is not None
        return Predictions(self._sum.labels, self._sum.logs - np.float32(math.log(self.runs)))

    def metrics(self, split: str) -> dict[str, float]:
        """`split/loss` (minus the logarithm of the truth's average), `split/top1`, `split/top5` of the averages."""
        logs, labels = torch.from_numpy(self.predictions.logs), torch.from_numpy(self.predictions.labels)
        tally = Tally()
        tally.add(F.nll_loss(logs.double(), labels, reduction="sum"), logs, labels)
        return {f"{split}/{key}": value for key, value in tally.read().items() if key != "images"}


class _Collect(pl.Callback):
    """Keeps each test batch's labels and log-probabilities."""

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
    """A split through the network, every image once; `keep`: with the predictions.

    With several views of each image their probabilities are averaged, the loss is minus the logarithm of the truth's
    average, and the predictions are the averages. Raises `UserError` where such views cannot be had: `refuse_views`.
    A LightningModule of the user's gives predictions where its `test_step` returns logits.
    """
    collect = _Collect()
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


def _gathered(collect: _Collect, trainer: pl.Trainer, experiment: Experiment, split: str) -> Predictions | None:
    """All ranks' predictions in the images' own order. A collective: also a rank that saw no image takes part."""
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
    """Which images of the split this rank has seen, in its order."""
    if isinstance(experiment.data, ImageData):
        return np.asarray(experiment.data.indices(split)[:count])
    return np.arange(count) * replicas(trainer) + replica(trainer)
