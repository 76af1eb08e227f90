"""Provides the batches of an epoch on each rank, and the loaders that yield them.

The order of an epoch is a function of seed and epoch. A global batch is a slice of that order; rank r of w takes every
w-th image of it, starting at the r-th. A last batch that is too small to give every rank an image (two, if a batch norm
of the network needs them) is merged into the previous one. Each image of an epoch is therefore used exactly once,
nothing is padded or dropped, and all ranks have the same number of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alexnet_exp.data.decoder import Decoder
from alexnet_exp.data.split import Split, StreamedSplit
from alexnet_exp.data.transfer import to_device
from alexnet_exp.errors import UserError
from alexnet_exp.seeds import derive

Batch = tuple[Tensor, Tensor]


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """Returns the order of the n images of a split in an epoch: int64 [n]."""
    if not shuffle:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))


@dataclass(frozen=True)
class EpochPlan:
    """Splits an epoch of n images into global batches, and each global batch into the shares of `world` ranks.

    min_images: smallest allowed batch of one rank, in images.

    All ranks have the same number of batches, and the shares of a batch differ by at most one image. If n < world,
    some ranks have no batch. Evaluations therefore gather their sums once, at the end, not after each batch.
    """

    n: int
    batch_size: int
    rank: int = 0
    world: int = 1
    min_images: int = 1

    def __post_init__(self) -> None:
        least = self.world * self.min_images
        if self.batch_size < least:
            each = "an image" if self.min_images == 1 else "two images, which a batch norm of the network needs,"
            raise UserError(f"data.batch_size={self.batch_size}: must be at least {least}, {each} for each process")

    def __len__(self) -> int:
        """Returns the number of batches of this rank."""
        if self.rank >= self.n:
            return 0
        whole, left = divmod(self.n, self.batch_size)
        return max(1, whole + (left >= self.world * self.min_images))

    def global_size(self, batch: int) -> int:
        """Returns the number of images of global batch number `batch` over all ranks."""
        start = batch * self.batch_size
        return (self.n if batch == len(self) - 1 else start + self.batch_size) - start

    def share(self, order: Tensor, batch: int) -> Tensor:
        """Returns the part of `order` [n] that this rank uses in batch number `batch`."""
        start = batch * self.batch_size
        return order[start : start + self.global_size(batch)][self.rank :: self.world]


class ResidentLoader:
    """Yields the batches `(images, labels)` of a rank from memory: uint8 [B, C, H, W] and int64 [B].

    order: returns the order of the epoch. start: returns the number of the first batch, above 0 for a run that is
    resumed within an epoch. Both are called at the first batch, not when the iterator is created, because Lightning
    creates two iterators before it knows the resume point. pin_memory: batches that are not on the GPU yet are put in
    pinned memory, from which their transfer does not stop the program.
    """

    def __init__(
        self,
        split: Split,
        plan: EpochPlan,
        order: Callable[[], Tensor],
        start: Callable[[], int] = int,
        *,
        pin_memory: bool = False,
    ):
        self.split, self.plan, self.order, self.start = split, plan, order, start
        self.pin_memory = pin_memory

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        for share in self._shares():
            yield self._pinned(self.split.images(share)), self._labels(share)

    def state_dict(self) -> dict[str, Any]:
        """Returns no state, because `start` gives the position. Lightning warns about loaders without this method."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing, because `state_dict` is empty."""

    def _labels(self, share: Tensor) -> Tensor:
        return self._pinned(self.split.labels[to_device(share, self.split.labels.device)])

    def _pinned(self, values: Tensor) -> Tensor:
        return values.pin_memory() if self.pin_memory and values.device.type == "cpu" else values

    def _shares(self) -> Iterator[Tensor]:
        order = self.order()
        for batch in range(self.start(), len(self.plan)):
            yield self.plan.share(order, batch)


class StreamedLoader(ResidentLoader):
    """Yields the same batches, decoded from files by `workers` persistent processes (0 = by this process)."""

    split: StreamedSplit

    def __init__(
        self,
        split: StreamedSplit,
        plan: EpochPlan,
        order: Callable[[], Tensor],
        start: Callable[[], int] = int,
        *,
        workers: int,
        pin_memory: bool = False,
    ):
        super().__init__(split, plan, order, start, pin_memory=pin_memory)
        self.decoder = Decoder(split, workers, pin_memory)

    def __iter__(self) -> Iterator[Batch]:
        shares = list(self._shares())
        for share, images in zip(shares, self.decoder.decode(shares), strict=True):
            yield images, self._labels(share)

    def close(self) -> None:
        """Ends the workers, also within an epoch."""
        self.decoder.close()
