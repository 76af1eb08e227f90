"""Checks the first batches of a user's LightningDataModule before training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from alexnet_exp.errors import UserError

log = logging.getLogger(__name__)

BATCH_FORM = "a batch must be (images [N, C, H, W], labels int64 [N])"


@dataclass(frozen=True)
class ExpectedBatch:
    """What a network expects: channels, the side of its images (None: any) and the number of classes.

    own: whether the network is the user's, which may be trained on other sizes than it is tested on.
    """

    channels: int
    size: int | None
    classes: int
    own: bool


@dataclass(frozen=True)
class BatchSummary:
    """The first batches of a data module.

    counts: the number of images of each loader, None where it is unknown. dtype, shape [C, H, W], low and high: of the
    images of the first batch, which is a training batch where training was checked.
    """

    counts: dict[str, int | None]
    dtype: torch.dtype
    shape: tuple[int, int, int]
    low: float
    high: float

    @property
    def floats(self) -> bool:
        """Whether the data module scales its images itself."""
        return self.dtype.is_floating_point

    def describe(self, classes: int) -> str:
        """Returns one line, in the form of the shipped data sources."""
        counted = ", ".join(f"{'uncounted' if n is None else f'{n:,}'} {split}" for split, n in self.counts.items())
        channels, height, width = self.shape
        line = f"{counted} images of {classes} classes; {height}x{width}x{channels}"
        if not self.floats:
            return line
        scale = f"{_name(self.dtype)}, {self.low:.3g} to {self.high:.3g} in the first batch"
        return f"{line}; {scale}: used unchanged, the network's `input` (scale, mean, std) is not applied"


def first_images(data: pl.LightningDataModule) -> Tensor | None:
    """Returns the first tensor of three or more dimensions in the first training batch, whatever its form, or None."""
    with isolate_rng():
        batch = next(iter(data.train_dataloader()), None)
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    return next((part for part in parts if isinstance(part, Tensor) and part.ndim >= 3), None)


def first_batches(data: pl.LightningDataModule, expected: ExpectedBatch, splits: Sequence[str]) -> BatchSummary:
    """Checks the first batch of the loaders of `splits` (train, val, test); `data` is set up for training.

    Raises `UserError`, one line that names the loader, for a batch that the network cannot process. Does not change
    the state of the random number generators.
    """
    counts: dict[str, int | None] = {}
    first: Tensor | None = None
    with isolate_rng():
        if "test" in splits:
            data.setup("test")
        for split in splits:
            name = f"{split}_dataloader"
            if not is_overridden(name, data):
                continue
            where = f"{type(data).__name__}.{name}"
            loader = _only(getattr(data, name)(), where)
            if loader is None:
                continue
            counts[split] = _count(loader)
            batch = next(iter(loader), None)
            if batch is None and split == "train":
                raise UserError(f"{where}: has no batch; at least one is needed")
            if batch is None:
                continue
            images = _images(batch, where, expected)
            if not (expected.own and split == "train"):
                _check_size(images, where, expected.size)
            if first is not None and images.is_floating_point() != first.is_floating_point():
                other = f"its images are {_name(images.dtype)}, those of train_dataloader {_name(first.dtype)}"
                raise UserError(f"{where}: {other}; use either uint8 or floats for all")
            first = images if first is None else first
    if first is None:
        raise UserError(f"{type(data).__name__}: {splits[0]}_dataloader has no batch; it needs at least one")
    channels, height, width = first.shape[1:]
    return BatchSummary(counts, first.dtype, (channels, height, width), float(first.min()), float(first.max()))


def _check_size(images: Tensor, where: str, size: int | None) -> None:
    if size is not None and images.shape[2:] != (size, size):
        given = "x".join(map(str, images.shape[2:]))
        instead = "correct data.facts.size or model.input_size, or resize the images"
        raise UserError(f"{where}: its images are {given}, not {size}x{size} as in the settings; {instead}")


def _only(loaders: Any, where: str) -> Any:
    """Returns the one loader that a `*_dataloader` returned; None for an empty list."""
    if isinstance(loaders, Mapping) or (isinstance(loaders, Sequence) and len(loaders) > 1):
        raise UserError(f"{where}: returns {len(loaders)} loaders; return one")
    if isinstance(loaders, Sequence):
        return loaders[0] if loaders else None
    return loaders


def _count(loader: Any) -> int | None:
    for counted in (getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
        try:
            return len(counted)  # type: ignore[arg-type]
        except TypeError:  # a stream
            continue
    return None


def _images(batch: Any, where: str, expected: ExpectedBatch) -> Tensor:
    """Returns the images of a valid batch; raises `UserError` for another."""
    pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
    if not pair:
        raise UserError(f"{where}: {BATCH_FORM}; this is {_described(batch)}")
    images, labels = batch
    for problem in (*_image_problems(images, expected), *_label_problems(labels, len(images), expected.classes)):
        raise UserError(f"{where}: {BATCH_FORM}; {problem}")
    assert isinstance(images, Tensor)
    return images


def _image_problems(images: Tensor, expected: ExpectedBatch) -> Iterator[str]:
    shape = list(images.shape)
    if images.ndim == 3:
        yield f"its images are {shape}, without channels; write images[:, None]"
    elif images.ndim != 4:
        yield f"its images are {shape}"
    elif shape[1] != expected.channels and shape[3] == expected.channels:
        yield f"its images are {shape}, channels last; write images.permute(0, 3, 1, 2)"
    elif shape[1] != expected.channels:
        plural = "" if expected.channels == 1 else "s"
        yield f"its images are {shape}, not of {expected.channels} channel{plural} as in the settings"
    elif images.dtype != torch.uint8 and not images.is_floating_point():
        yield f"its images are {_name(images.dtype)}; use uint8 (0 to 255) or scaled floats"


def _label_problems(labels: Tensor, count: int, classes: int) -> Iterator[str]:
    shape = list(labels.shape)
    if labels.ndim == 2 and shape[1] == classes:
        yield f"its labels are {_name(labels.dtype)} {shape}, one-hot; write labels.argmax(1)"
    elif labels.ndim == 2 and shape[1] == 1:
        yield f"its labels are {_name(labels.dtype)} {shape}; write labels[:, 0]"
    elif shape != [count]:
        yield f"its labels are {_name(labels.dtype)} {shape}, of {count} images"
    elif labels.dtype != torch.int64:
        yield f"its labels are {_name(labels.dtype)}; write labels.long()"
    elif count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.min()) if labels.min() < 0 else int(labels.max())
        yield f"a label is {wrong}, outside 0 to {classes - 1} ({classes} classes in the settings)"


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with {', '.join(map(str, batch))}"
    if isinstance(batch, tuple | list):
        kind = "tuple" if isinstance(batch, tuple) else "list"
        return f"a {kind} of {len(batch)}: {', '.join(map(_part, batch[:4]))}{', ...' if len(batch) > 4 else ''}"
    return _part(batch)


def _part(value: Any) -> str:
    return f"{_name(value.dtype)} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
