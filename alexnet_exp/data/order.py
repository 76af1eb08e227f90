"""Which images make up which batch, on which rank; and the loaders that yield them.

The order of an epoch is a function of seed and epoch. A global batch is a run of that order, and rank r of w takes
every w-th image of it from the r-th on. A last batch too small to give every rank an image joins the batch before it.
So each image of an epoch counts exactly once, nothing is padded or dropped, and all ranks have equally many batches.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from alexnet_exp.data.images import read_image
from alexnet_exp.data.split import Split, Streamed
from alexnet_exp.seeds import derive
from alexnet_exp.settings import UserError

Batch = tuple[Tensor, Tensor]


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """The order in which the n images of a split are used in an epoch: int64 [n]."""
    if not shuffle:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))


@dataclass(frozen=True)
class Plan:
    """How n images are cut into global batches, and those into the shares of `world` ranks.

    Every rank has equally many batches, and shares of a batch differ by one image at most. Only where n < world do some
    ranks get nothing: whoever sums over an evaluation must gather once at its end, not batch by batch.
    """

    n: int
    batch_size: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < self.world:
            raise UserError(
                f"data.batch_size={self.batch_size}: must be at least {self.world}, an image for each process"
            )

    def __len__(self) -> int:
        """Batches of this rank."""
        if self.rank >= self.n:
            return 0
        whole, left = divmod(self.n, self.batch_size)
        return max(1, whole + (left >= self.world))

    def global_size(self, batch: int) -> int:
        """Images of global batch number `batch`, all ranks together."""
        start = batch * self.batch_size
        return (self.n if batch == len(self) - 1 else start + self.batch_size) - start

    def share(self, order: Tensor, batch: int) -> Tensor:
        """The part of `order` [n] that this rank uses in batch number `batch`."""
        start = batch * self.batch_size
        return order[start : start + self.global_size(batch)][self.rank :: self.world]


class ResidentLoader:
    """Batches `(images, labels)` of a rank, taken straight from memory: uint8 [B, C, H, W] and int64 [B].

    `order` and `start` (the number of the first batch, in a run that goes on in mid-epoch) are called when the first
    batch is asked for, not when the iterator is made: Lightning makes two before it knows where the run stands.
    """

    def __init__(self, split: Split, plan: Plan, order: Callable[[], Tensor], start: Callable[[], int] = int):
        self.split, self.plan, self.order, self.start = split, plan, order, start

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        for share in self._shares():
            yield self.split.images(share), self.split.labels[share.to(self.split.labels.device)]

    def _shares(self) -> Iterator[Tensor]:
        order = self.order()
        for batch in range(self.start(), len(self.plan)):
            yield self.plan.share(order, batch)


class StreamedLoader(ResidentLoader):
    """The same batches, decoded from files by `workers` processes that outlive the epoch (0: in this process)."""

    split: Streamed

    def __init__(
        self,
        split: Streamed,
        plan: Plan,
        order: Callable[[], Tensor],
        start: Callable[[], int] = int,
        *,
        workers: int,
        pin_memory: bool = False,
    ):
        super().__init__(split, plan, order, start)
        self.requests = _Requests()
        self.decoder: DataLoader[Tensor | UserError] = DataLoader(
            _Decoder(split.size),
            batch_size=None,
            sampler=self.requests,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            multiprocessing_context=_worker_context() if workers else None,
            # the loader draws a seed for its workers, which use none: not from the run's random numbers
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:
        shares = list(self._shares())
        self.requests.paths = [[self.split.paths[i] for i in share.tolist()] for share in shares]
        for share, images in zip(shares, self.decoder, strict=True):
            if isinstance(images, UserError):
                raise images
            yield images, self.split.labels[share]

    def close(self) -> None:
        """Ends the workers, also in the middle of an epoch: whoever holds an iterator of it would keep them alive."""
        workers = getattr(self.decoder, "_iterator", None)
        if workers is not None:
            workers._shutdown_workers()  # torch has no public name for it
            self.decoder._iterator = None


class _Requests(Sampler[list[str]]):
    """The paths of each batch of the coming epoch, which go to the workers: these hold no list of all files."""

    def __init__(self) -> None:
        self.paths: list[list[str]] = []

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


class _Decoder(Dataset[Tensor | UserError]):
    """Decodes the files of a batch."""

    def __init__(self, size: int):
        self.size = size

    def __getitem__(self, paths: list[str]) -> Tensor | UserError:
        try:
            return torch.stack([read_image(path, self.size) for path in paths])
        except UserError as error:
            # raised here, it would reach the user wrapped in the worker's traceback
            return error


def _worker_context() -> BaseContext:
    """A fork of a process with threads or a CUDA context may hang; a fork server has neither and imports torch once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
