"""Images with labels, held in memory or read from files, and the splits that make up one data source."""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from alexnet_exp.data.decode import read_image, read_images
from alexnet_exp.data.image_files import FileStamp, read_stamps
from alexnet_exp.data.memmap import MappedImages

# Statistics of images that are read from files come from this many of them, evenly spaced.
STATISTICS_SAMPLE = 4096
# Images in memory are gone through by this many bytes at a time.
CHUNK_BYTES = 1 << 24


class Moments(NamedTuple):
    """float32 on 0..255: mean and standard deviation of each channel [C], mean of each pixel [C, H, W]."""

    channel_mean: Tensor
    channel_std: Tensor
    pixel_mean: Tensor


class Split(ABC):
    """N images of one shape (C, H, W), uint8, with `labels` int64 [N]."""

    labels: Tensor
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, indices: Tensor) -> Tensor:
        """uint8 [B, C, H, W] of the images at `indices` [B]."""

    @abstractmethod
    def select(self, indices: Tensor) -> Split:
        """The images at `indices` as a split of their own; pixels are not copied."""

    @abstractmethod
    def digest(self) -> bytes:
        """A hash that tells these images from others."""

    @abstractmethod
    def _chunks(self) -> Iterator[Tensor]:
        """The images that statistics are taken of, uint8 [B, C, H, W] at a time."""

    def statistics(self) -> Moments:
        """Moments over all images of the split; over 4,096 evenly spaced ones where they are read from files."""
        count, total, squares = (
            0,
            torch.zeros(self.shape, dtype=torch.float64),
            torch.zeros(self.shape[0], dtype=torch.float64),
        )
        for images in self._chunks():
            exact = images.cpu().double()
            count += len(exact)
            total += exact.sum(0)
            squares += exact.square().sum((0, 2, 3))
        pixel_mean = total / count
        channel_mean = pixel_mean.mean((1, 2))
        variance = squares / (count * math.prod(self.shape[1:])) - channel_mean.square()
        return Moments(channel_mean.float(), variance.clamp(min=0).sqrt().float(), pixel_mean.float())

    def covariance(self) -> Tensor:
        """Covariance of the channels [C, C] over all pixels of the same images, float64 on 0..255."""
        count, channels = 0, self.shape[0]
        total = torch.zeros(channels, dtype=torch.float64)
        products = torch.zeros((channels, channels), dtype=torch.float64)
        for images in self._chunks():
            pixels = images.cpu().double().transpose(0, 1).flatten(1)
            count += pixels.shape[1]
            total += pixels.sum(1)
            products += pixels @ pixels.T
        mean = total / count
        return products / count - mean[:, None] * mean


class ResidentSplit(Split):
    """Images in one array [M, C, H, W], of which `rows` [N] are this split's: train and validation share the array."""

    def __init__(self, array: Tensor, labels: Tensor, rows: Tensor | None = None):
        self.array, self.labels = array, labels
        self.rows = torch.arange(len(labels), device=array.device) if rows is None else rows
        channels, height, width = array.shape[1:]
        self.shape = (channels, height, width)

    def images(self, indices: Tensor) -> Tensor:
        # not array[rows]: that takes an image's bytes one by one
        return self.array.index_select(0, self.rows[indices.to(self.array.device)])

    def select(self, indices: Tensor) -> ResidentSplit:
        indices = indices.to(self.array.device)
        return ResidentSplit(self.array, self.labels[indices], self.rows[indices])

    def with_array(self, array: Tensor) -> ResidentSplit:
        """The same split on a copy of its array that lies on another device."""
        return ResidentSplit(array, self.labels.to(array.device), self.rows.to(array.device))

    def digest(self) -> bytes:
        digest = hashlib.blake2b(str(self.shape).encode(), digest_size=16)
        for images in self._chunks():
            digest.update(images.cpu().numpy().data)
        digest.update(self.labels.cpu().numpy().data)
        return digest.digest()

    def _chunks(self) -> Iterator[Tensor]:
        for rows in torch.split(self.rows, max(1, CHUNK_BYTES // math.prod(self.shape))):
            yield self.array.index_select(0, rows)


class StreamedSplit(Split):
    """Images decoded from their files whenever they are asked for, as RGB squares of side `size`.

    `noted` [N, 2], int64: each file's `Stamp` when the data were opened. A file that is another one by the time it is
    read is refused: the run's fingerprint, its statistics and its earlier epochs were of what it was.
    """

    def __init__(self, paths: list[str], labels: Tensor, size: int, stamps: Tensor | None = None):
        self.paths, self.labels, self.size = paths, labels, size
        self.stamps = torch.tensor(read_stamps(paths)).view(-1, 2) if stamps is None else stamps
        self.shape = (3, size, size)

    def images(self, indices: Tensor) -> Tensor:
        return torch.stack([read_image(path, self.size, stamp) for path, stamp in self.files(indices)])

    def files(self, indices: Tensor) -> list[tuple[str, FileStamp]]:
        """The files of the images at `indices`, and what each was when the data were opened."""
        return [
            (self.paths[i], FileStamp(*stamp))
            for i, stamp in zip(indices.tolist(), self.stamps[indices].tolist(), strict=True)
        ]

    def select(self, indices: Tensor) -> StreamedSplit:
        return StreamedSplit(
            [self.paths[i] for i in indices.tolist()], self.labels[indices], self.size, self.stamps[indices]
        )

    def digest(self) -> bytes:
        """Of names, sizes in bytes, labels and the stored side: reading every pixel would take minutes.

        So it does not tell a file from another one of the same name and size, such as one with a pixel painted over.
        Within a run the files' times of change do that.
        """
        digest = hashlib.blake2b(str(self.shape).encode(), digest_size=16)
        for path, size in zip(self.paths, self.stamps[:, 0].tolist(), strict=True):
            name = "/".join(path.replace(os.sep, "/").split("/")[-2:])
            digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
        digest.update(self.labels.cpu().numpy().data)
        return digest.digest()

    def _chunks(self) -> Iterator[Tensor]:
        for image in read_images(self.files(self._sample()), self.size, "Measuring the mean"):
            yield image[None]

    def _sample(self) -> Tensor:
        """Of which images the statistics are."""
        return torch.arange(0, len(self.paths), math.ceil(len(self.paths) / STATISTICS_SAMPLE))


class CachedSplit(StreamedSplit):
    """Images of files that were decoded once, into `kept`, of which `rows` [N] are this split's.

    To all who ask it is what it would be if the files were decoded anew: its hash is of the files, its statistics are
    of the same ones of them. `array` [M, 3, size, size]: the same pixels, on the device where they lie. An image that
    is damaged in the cache is decoded anew, as long as its file is what it was.
    """

    def __init__(
        self,
        paths: list[str],
        labels: Tensor,
        cache: MappedImages,
        stamps: Tensor | None = None,
        rows: Tensor | None = None,
        array: Tensor | None = None,
    ):
        super().__init__(paths, labels, cache.array.shape[-1], stamps)
        self.cache = cache
        self.array = cache.array if array is None else array
        self.rows = torch.arange(len(labels), device=self.array.device) if rows is None else rows

    def images(self, indices: Tensor) -> Tensor:
        self.check(indices)
        return self.array.index_select(0, self.rows[indices.to(self.array.device)])

    def select(self, indices: Tensor) -> CachedSplit:
        chosen = indices.to(self.array.device)
        paths = [self.paths[i] for i in indices.tolist()]
        return CachedSplit(
            paths, self.labels[chosen], self.cache, self.stamps[indices.cpu()], self.rows[chosen], self.array
        )

    def with_array(self, array: Tensor) -> CachedSplit:
        """The same split on a copy of its array that lies on another device; `check` comes before the copying."""
        return CachedSplit(
            self.paths, self.labels.to(array.device), self.cache, self.stamps, self.rows.to(array.device), array
        )

    def check(self, indices: Tensor | None = None) -> None:
        """Mends those of the images at `indices` (None: of all) that are damaged in the cache. Once for each of them.

        Raises UserError where the file of one cannot be read, or has changed.
        """
        if self.array is not self.cache.array:
            return  # a copy, of what was checked
        chosen = torch.arange(len(self.paths)) if indices is None else indices
        for number in self.cache.damaged(self.rows[chosen]).tolist():
            index = chosen[number]
            (image,) = super().images(index[None])
            self.cache.mend(int(self.rows[index]), image)

    def _chunks(self) -> Iterator[Tensor]:
        for part in torch.split(self._sample(), max(1, CHUNK_BYTES // math.prod(self.shape))):
            yield self.images(part)


@dataclass(frozen=True)
class Source:
    """One data source, open: its splits, its classes in the order of the labels, and what should be said of it.

    `fingerprint` (hexadecimal) is equal for equal training and test images, whatever the seed split off for validation.
    `val_from` says in words where validation comes from, `reading` how the images are read where there is a choice.
    """

    train: Split
    val: Split | None
    test: Split | None
    classes: list[str]
    fingerprint: str
    val_from: str = ""
    notes: list[str] = field(default_factory=list)
    reading: str = ""


def fingerprint(train: Split, test: Split | None) -> str:
    """The fingerprint of a source with these images, before any are split off."""
    parts = [train.digest(), test.digest() if test else b""]
    return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()
