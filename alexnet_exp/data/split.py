"""Provides splits (images with labels, in memory or in files), their statistics, and data sources made of splits."""

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
from alexnet_exp.data.transfer import to_device

# Number of evenly spaced images for the statistics of images that are read from files.
STATISTICS_SAMPLE = 4096
# Statistics of images in memory are computed in chunks of this size.
CHUNK_BYTES = 1 << 24


class Moments(NamedTuple):
    """Moments of images, float32 on 0..255: mean and standard deviation per channel [C], mean per pixel [C, H, W]."""

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
        """Returns the images at `indices` [B]: uint8 [B, C, H, W]."""

    @abstractmethod
    def select(self, indices: Tensor) -> Split:
        """Returns the images at `indices` as a split; pixels are not copied."""

    @abstractmethod
    def digest(self) -> bytes:
        """Returns a hash of the images and labels."""

    @abstractmethod
    def _chunks(self) -> Iterator[Tensor]:
        """Yields the images for the statistics in chunks, uint8 [B, C, H, W]."""

    def statistics(self) -> Moments:
        """Returns the moments of all images; of `STATISTICS_SAMPLE` evenly spaced ones if they are read from files."""
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
        """Returns the covariance of the channels over all pixels of the same images: float64 [C, C], on 0..255."""
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
    """Images at `rows` [N] of an array [M, C, H, W] in memory, which training and validation images share."""

    def __init__(self, array: Tensor, labels: Tensor, rows: Tensor | None = None):
        self.array, self.labels = array, labels
        self.rows = torch.arange(len(labels), device=array.device) if rows is None else rows
        channels, height, width = array.shape[1:]
        self.shape = (channels, height, width)

    def images(self, indices: Tensor) -> Tensor:
        # not array[rows]: indexing copies an image byte by byte
        return self.array.index_select(0, self.rows[to_device(indices, self.array.device)])

    def select(self, indices: Tensor) -> ResidentSplit:
        indices = indices.to(self.array.device)
        return ResidentSplit(self.array, self.labels[indices], self.rows[indices])

    def with_array(self, array: Tensor) -> ResidentSplit:
        """Returns the same split with `array`, a copy of its array on another device."""
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
    """Images decoded from their files at each use, as RGB squares of side `size` pixels.

    stamps: the `FileStamp` of each file when the data was opened: int64 [N, 2]. A file that has changed since is
    rejected, because the run's fingerprint, statistics and earlier epochs belong to its former content.
    """

    def __init__(self, paths: list[str], labels: Tensor, size: int, stamps: Tensor | None = None):
        self.paths, self.labels, self.size = paths, labels, size
        self.stamps = torch.tensor(read_stamps(paths)).view(-1, 2) if stamps is None else stamps
        self.shape = (3, size, size)

    def images(self, indices: Tensor) -> Tensor:
        return torch.stack([read_image(path, self.size, stamp) for path, stamp in self.files(indices)])

    def files(self, indices: Tensor) -> list[tuple[str, FileStamp]]:
        """Returns the paths of the images at `indices`, with their stamps when the data was opened."""
        return [
            (self.paths[i], FileStamp(*stamp))
            for i, stamp in zip(indices.tolist(), self.stamps[indices].tolist(), strict=True)
        ]

    def select(self, indices: Tensor) -> StreamedSplit:
        return StreamedSplit(
            [self.paths[i] for i in indices.tolist()], self.labels[indices], self.size, self.stamps[indices]
        )

    def digest(self) -> bytes:
        """Returns a hash of names, sizes in bytes, labels and the stored side; hashing every pixel would take minutes.

        It does not detect an edited file of the same name and size. Within a run the times of modification do.
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
        """Returns the indices of the images for the statistics."""
        return torch.arange(0, len(self.paths), math.ceil(len(self.paths) / STATISTICS_SAMPLE))


class CachedSplit(StreamedSplit):
    """Images decoded once, at `rows` [N] of a cache file.

    It has the digest and the statistics of the `StreamedSplit` of the same files. An image that is damaged in the cache
    is decoded again, if its file has not changed.

    array: the pixels [M, 3, size, size] on their device, those of `cache` or a copy of them.
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
        return self.array.index_select(0, self.rows[to_device(indices, self.array.device)])

    def select(self, indices: Tensor) -> CachedSplit:
        chosen = indices.to(self.array.device)
        paths = [self.paths[i] for i in indices.tolist()]
        return CachedSplit(
            paths, self.labels[chosen], self.cache, self.stamps[indices.cpu()], self.rows[chosen], self.array
        )

    def with_array(self, array: Tensor) -> CachedSplit:
        """Returns the same split with `array`, a copy of its array on another device; call `check` before copying."""
        return CachedSplit(
            self.paths, self.labels.to(array.device), self.cache, self.stamps, self.rows.to(array.device), array
        )

    def check(self, indices: Tensor | None = None) -> None:
        """Repairs the images at `indices` (None = all) that are damaged in the cache. Each image is checked once.

        Raises UserError if the file of a damaged image cannot be read or has changed.
        """
        if self.array is not self.cache.array:
            return  # a copy of checked images
        chosen = torch.arange(len(self.paths)) if indices is None else indices
        for number in self.cache.damaged(self.rows[chosen]).tolist():
            index = chosen[number]
            (image,) = super().images(index[None])
            self.cache.repair(int(self.rows[index]), image)

    def _chunks(self) -> Iterator[Tensor]:
        for part in torch.split(self._sample(), max(1, CHUNK_BYTES // math.prod(self.shape))):
            yield self.images(part)


@dataclass(frozen=True)
class Source:
    """An open data source.

    classes: names in the order of the labels. fingerprint: hexadecimal hash of the training and test images, before
    validation images are split off. For the log: val_from, the source of the validation images; reading, how images
    are read if there is a choice; notes, further remarks.
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
    """Returns the fingerprint of a source with these images, before validation images are split off."""
    parts = [train.digest(), test.digest() if test else b""]
    return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()
