"""One split through the network of a run: its metrics to the last digit, and what it answered to every image.

The test at the end of a run and `eval RUN` both come here, so that the number is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from alexnet_exp.build import Experiment
from alexnet_exp.datamodule import ImageData
from alexnet_exp.devices import Placement
from alexnet_exp.endings import own_interrupts
from alexnet_exp.module import metrics_of
from alexnet_exp.runs.atomic import replacing
from alexnet_exp.trainer import build_trainer

ALL_CLASSES = 20  # above this many classes only the most probable ones are kept


@dataclass
class Predictions:
    """Of each image of a split, in its order: `labels` [N], and probabilities [N, classes] in float16."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float16]


class _Collect(pl.Callback):
    """Keeps each test batch's probabilities, and which images of the split they are of."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []
        self.probabilities: list[Tensor] = []

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
            self.probabilities.append(outputs.float().softmax(1).to(torch.float16).cpu())


def evaluate(experiment: Experiment, placement: Placement, split: str) -> tuple[dict[str, float], Predictions | None]:
    """Metrics `split/loss`, `split/top1`, `split/top5` over every image once, and the predictions (rank 0; else None).

    A LightningModule of the user's gives predictions where its `test_step` returns logits.
    """
    collect = _Collect()
    trainer = build_trainer(experiment.config.trainer, placement, [collect], [])
    if isinstance(experiment.data, ImageData):
        experiment.data.test_on = split
    with own_interrupts(trainer):
        trainer.test(experiment.module, datamodule=experiment.data, verbose=False)
    found = metrics_of(trainer, experiment.module, ("test",))
    metrics = {f"{split}/{key.partition('/')[2]}": value for key, value in found.items()}
    return metrics, _gathered(collect, trainer, experiment, split)


def _gathered(collect: _Collect, trainer: pl.Trainer, experiment: Experiment, split: str) -> Predictions | None:
    """All ranks' predictions in the images' own order. A collective: also a rank that saw no image takes part."""
    mine = None
    if collect.labels:
        labels, probabilities = torch.cat(collect.labels).numpy(), torch.cat(collect.probabilities).numpy()
        mine = labels, probabilities, _indices(trainer, experiment, split, len(labels))
    everyone: list[Any] = [mine]
    if trainer.world_size > 1:
        everyone *= trainer.world_size
        dist.all_gather_object(everyone, mine)
    seen = [part for part in everyone if part is not None]
    if not seen or not trainer.is_global_zero:
        return None
    labels, probabilities, indices = (np.concatenate(column) for column in zip(*seen, strict=True))
    order = np.argsort(indices, kind="stable")
    return Predictions(labels[order], probabilities[order])


def _indices(trainer: pl.Trainer, experiment: Experiment, split: str, count: int) -> NDArray[np.int64]:
    """Which images of the split this rank has seen, in its order."""
    if isinstance(experiment.data, ImageData):
        return np.asarray(experiment.data.indices(split)[:count])
    return np.arange(count) * trainer.world_size + trainer.global_rank


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Writes `labels` and `probabilities`; of many classes the 20 most probable, with their `classes`."""
    probabilities = predictions.probabilities
    arrays: dict[str, Any] = {"labels": predictions.labels}
    if probabilities.shape[1] > ALL_CLASSES:
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :ALL_CLASSES].astype(np.int32)
        arrays |= {"classes": top, "probabilities": np.take_along_axis(probabilities, top, axis=1)}
    else:
        arrays["probabilities"] = probabilities
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)
