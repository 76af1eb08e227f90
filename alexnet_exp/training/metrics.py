"""Provides the metrics of an epoch: exact sums of loss and hits (`Tally`), and the newest `split/metric` values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

# The most batches that wait in a tally, and the most logits of theirs.
BATCHES_AT_ONCE = 50
LOGITS_AT_ONCE = 2**20


class Tally:
    """Sums of loss, top-1 hits, top-5 hits and images since the last `read`, kept on the device.

    Double precision where the device has it, so that 1.2 million images are counted exactly. A state that `state`
    returns in mid-epoch and `restore` loads leads to bit-identical sums: the same batches are summed together.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._losses: list[Tensor] = []  # of waiting batches whose hits have been counted already
        self._hits: Tensor | None = None
        self._logits = 0

    def add(self, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds one batch: the sum of its losses, its logits [N, classes] and its labels [N].

        They are processed later, together with others: a dozen small operations cost as much for many batches as for
        one. None may be changed in place afterwards.
        """
        self._waiting.append((loss_sum.detach(), logits.detach(), labels))
        self._logits += logits.numel()
        if len(self._waiting) + len(self._losses) >= BATCHES_AT_ONCE or self._logits >= LOGITS_AT_ONCE:
            self._sum_up()

    @torch.no_grad()
    def _count(self) -> None:
        """Counts the hits of the waiting batches, [top-1, top-5, images], and frees their logits."""
        if not self._waiting:
            return
        losses, logits, labels = zip(*self._waiting, strict=True)
        ranks = rank_of_truth(torch.cat(logits), torch.cat(labels))
        kind = widest_float(ranks.device)
        images = torch.full((), len(ranks), device=ranks.device, dtype=kind)
        hits = torch.stack([(ranks < 1).sum().to(kind), (ranks < 5).sum().to(kind), images])
        self._hits = hits if self._hits is None else self._hits + hits
        self._waiting = []
        self._losses += losses

    @torch.no_grad()
    def _sum_up(self) -> None:
        self._count()
        if self._hits is None:
            return
        loss = torch.stack(self._losses).to(self._hits.dtype).sum()
        new = torch.cat([loss[None], self._hits])
        self._losses, self._hits, self._logits = [], None, 0
        self.sums = new if self.sums is None else self.sums + new

    def state(self) -> dict[str, Any]:
        """Returns what has been added so far, as plain containers and tensors on the CPU."""
        self._count()
        kept = {"sums": self.sums, "hits": self._hits}
        tensors = {key: value.cpu() for key, value in kept.items() if value is not None}
        return {**tensors, "losses": [loss.cpu() for loss in self._losses], "logits": self._logits}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Loads what `state` returned."""
        self.sums, self._hits = (state[key].to(device) if key in state else None for key in ("sums", "hits"))
        self._losses, self._logits = [loss.to(device) for loss in state["losses"]], state["logits"]
        self._waiting = []

    def read(self, strategy: Any = None) -> dict[str, float]:
        """Returns the means of what was added, over all ranks: loss, top1, top5 (0..1) and images; then resets itself.

        A collective: every rank must call it. Empty where no rank has added anything.
        """
        self._sum_up()
        device = torch.device("cpu") if strategy is None else strategy.root_device
        sums = self.sums if self.sums is not None else torch.zeros(4, device=device, dtype=widest_float(device))
        if strategy is not None:
            sums = strategy.reduce(sums, reduce_op="sum")
        self.sums = None
        loss, top1, top5, images = sums.tolist()
        return {"loss": loss / images, "top1": top1 / images, "top5": top5 / images, "images": images} if images else {}


def restored_tally(states: Sequence[Mapping[str, Any]], device: torch.device) -> Tally:
    """Returns a tally with the contents of `states`, each from a `Tally.state`; the sums of several are added up."""
    parts = []
    for state in states:
        part = Tally()
        part.restore(state, device)
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    whole = Tally()
    for part in parts:
        part._sum_up()
    found = [part.sums for part in parts if part.sums is not None]
    whole.sums = torch.stack(found).sum(0) if found else None
    return whole


def widest_float(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def rank_of_truth(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns how many classes rank before the true one, [N]: 0 is a top-1 hit, below 5 a top-5 hit.

    Among equal logits the earlier class ranks first, so that a network with equal logits is right in one of `classes`
    cases, not always; with a NaN logit the true class ranks last.
    """
    truth = logits.gather(1, labels[:, None])
    index = torch.arange(logits.shape[1], device=logits.device)
    after = (logits < truth) | ((logits == truth) & (index > labels[:, None]))
    return logits.shape[1] - 1 - after.sum(1)


def metrics_of(trainer: pl.Trainer, module: pl.LightningModule, splits: tuple[str, ...]) -> dict[str, float]:
    """Returns the newest `split/metric` values: exact ones of our module, the logged ones of a user's module."""
    return _of_splits({**trainer.callback_metrics, **getattr(module, "metrics", {})}, splits)


def metrics_of_epoch(trainer: pl.Trainer, module: pl.LightningModule, validated: bool) -> dict[str, float]:
    """Returns the `train/metric` and `val/metric` values of the ending epoch, for a callback's `on_train_epoch_end`.

    `trainer.callback_metrics` also has values of earlier epochs, where this one logged none, and rounds all to
    float32. validated: whether this epoch had a validation; without one it has no `val/metric`.
    """
    of_validation = _of_splits(trainer.callback_metrics, ("val",)) if validated else {}
    logged = trainer._logger_connector.metrics["callback"]  # what the training loop has logged in this epoch
    return _of_splits({**of_validation, **logged, **getattr(module, "metrics", {})}, ("train", "val"))


def _of_splits(values: Mapping[str, Any], splits: tuple[str, ...]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if key.partition("/")[0] in splits}
