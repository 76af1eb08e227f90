"""Provides the LightningDataModule for every source of images: uint8 batches, augmented on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakSet

import pytorch_lightning as pl
import torch
from torch import Tensor

from alexnet_exp.data.augment import (
    center_crop,
    crop_at,
    crop_views,
    draw_mirrors,
    draw_places,
    mirror_where,
    to_network_input,
)
from alexnet_exp.data.colour import IMAGENET_COLOUR, ColourComponents, add_colour_noise, load_colour
from alexnet_exp.data.info import check_crop
from alexnet_exp.data.loader import Batch, EpochPlan, ResidentLoader, StreamedLoader, epoch_order
from alexnet_exp.data.source import open_source
from alexnet_exp.data.spec import Data, Pca, PcaReading
from alexnet_exp.data.split import CachedSplit, Moments, ResidentSplit, Source, Split, StreamedSplit
from alexnet_exp.errors import UserError
from alexnet_exp.model.preprocess import Statistics
from alexnet_exp.paths import cache_folder
from alexnet_exp.processes.cpus import cores
from alexnet_exp.seeds import derive
from alexnet_exp.training.distributed import replica, replicas

MOST_WORKERS = 16
# Images stay on the GPU for the whole run if they take up to this part of its free memory.
MOST_DEVICE_MEMORY_SHARE = 0.25


class ImageData(pl.LightningDataModule):
    """Images of `spec` for a network of `in_channels` and `input_size`; random numbers are drawn from `seed`.

    For another source of images, subclass and override `open` to return a `Source`: everything else (ranks, order,
    augmentation) is as for the shipped sources.
    """

    source: Source

    def __init__(self, spec: Data, input_size: int, in_channels: int, seed: int):
        super().__init__()
        self.spec, self.input_size, self.in_channels, self.seed = spec, input_size, in_channels, seed
        self.test_on = "test"  # the split that Trainer.test goes through: `eval RUN --split val`
        self.test_views = 1  # views of each image in that test: 1, 2, 9 or 10
        self.least = 1  # the fewest images of a training batch, on each rank: a batch norm after a flat layer needs two
        self._opened = False
        self._moments: Moments | None = None
        self._colour: ColourComponents | None = None
        self._mean_crop: Tensor | None = None
        self._mirrors: tuple[int, Tensor] | None = None  # an epoch, and which images of its order are mirrored
        self._streaming: WeakSet[StreamedLoader] = WeakSet()

    def open(self) -> Source:
        """Returns the images, with a validation split if there is one."""
        return open_source(self.spec, self.seed)

    def setup(self, stage: str | None = None) -> None:
        """Opens the source; raises UserError where it does not match the network.

        With a trainer, moves small images to the GPU that trains. `prepare_data` is not used, because Lightning would
        synchronize the ranks for it: a lock ensures that one process downloads or decodes.
        """
        self._open_once()
        self.source = self._placed(self.source)

    def teardown(self, stage: str | None = None) -> None:
        """Ends the loaders' workers, which would live as long as the trainer, because it keeps the loaders."""
        for loader in self._streaming:
            loader.close()

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.source.classes

    @property
    def fingerprint(self) -> str:
        """Equal for equal training and test images; of a folder of large images, by their names and sizes in bytes."""
        return self.source.fingerprint

    @property
    def crop(self) -> int:
        """Side of the square that is cut out of an image before it is resized to the network's input."""
        return self.spec.crop or min(self.input_size, *self.source.train.shape[1:])

    def describe(self) -> str:
        """Returns one line: numbers of images and classes, sizes, and the source of validation."""
        source = self.source
        channels, height, width = source.train.shape
        counts = {"train": source.train, "val": source.val, "test": source.test}
        parts = [f"{len(split):,} {name}" for name, split in counts.items() if split is not None]
        cut = f"{height}x{width}x{channels}, crop {self.crop}" + (
            f" with padding {self.spec.pad}" if self.spec.pad else ""
        )
        resized = f", resized to {self.input_size}" if self.crop != self.input_size else ""
        val_from = f"; validation: {source.val_from}" if source.val_from else ""
        notes = "".join(f"; {note}" for note in [*source.notes, *([source.reading] if source.reading else [])])
        noise = f"; colour noise: {self._describe_colour()}" if self.spec.pca is not Pca.none else ""
        return f"{', '.join(parts)} images of {len(source.classes)} classes; {cut}{resized}{noise}{val_from}{notes}"

    def statistics(self, needs: set[str]) -> Statistics | None:
        """Returns statistics of the training images on 0..255, for `Preprocess.fit`; None where `needs` is empty.

        `pixel_mean` [C, S, S] is that of the central crop at the network's input size, as in the 2012 code.
        """
        if not needs:
            return None
        moments = self._measured()
        pixel_mean = to_network_input(
            center_crop(moments.pixel_mean[None], self.crop), self.in_channels, self.input_size
        )[0]
        return Statistics(
            moments.channel_mean.expand(self.in_channels), moments.channel_std.expand(self.in_channels), pixel_mean
        )

    def global_size(self, split: str, batch_idx: int) -> int:
        """Returns the number of images in one batch of `split` (train, val, test), over all ranks."""
        return self._plan(self.split(split)).global_size(batch_idx)

    def train_dataloader(self) -> ResidentLoader:
        """Returns batches in a random order for each epoch, from the trainer's position in it."""
        train = self.split("train")
        if len(train) < self._world * self.least:
            batch_norm = " and a batch norm after a fully connected layer" if self.least > 1 else ""
            raise UserError(
                f"data: {len(train)} training images are too few for {self._world} processes{batch_norm}; use more"
            )
        return self._loader(train, shuffle=True, start=lambda: self._batch)

    def val_dataloader(self) -> ResidentLoader | list[ResidentLoader]:
        """Returns the validation images in order; an empty list where the data has none."""
        return [] if self.source.val is None else self.loader("val")

    def test_dataloader(self) -> ResidentLoader:
        """Returns the test images (or those of `test_on`) in order. Raises UserError where the data has none."""
        return self.loader(self.test_on)

    def loader(self, split: str, shuffle: bool = False) -> ResidentLoader:
        """Returns the images of `split` (train, val, test), each once, in order or in the epoch's random order.

        Always from the beginning. Raises UserError where the data has none.
        """
        return self._loader(self.split(split), shuffle, start=int)

    def indices(self, split: str) -> Tensor:
        """Returns the indices of the images that `loader(split)` has on this rank, in order: int64 [n]."""
        plan = self._plan(self.split(split))
        order = torch.arange(plan.n)
        return torch.cat([plan.share(order, batch) for batch in range(len(plan))] or [order[:0]])

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch | tuple[list[Tensor], Tensor]:
        """Applies `augment` in training, else the central crop; then channels and size. Runs on the device.

        Returns a list of views in a test of several, each [N, C, H, W].
        """
        images, labels = batch
        if self.trainer is not None and self.trainer.training:
            return self._fitted(self.augment(images, self._epoch, self._batch)), labels
        if self.trainer is not None and self.trainer.testing and self.test_views > 1:
            return [self._fitted(view) for view in crop_views(images, self.crop, self.test_views)], labels
        return self.centred(images), labels

    def centred(self, images: Tensor) -> Tensor:
        """Returns images as in an evaluation: the central crop, in the network's channels and size."""
        return self._fitted(center_crop(images, self.crop))

    def _fitted(self, images: Tensor) -> Tensor:
        return to_network_input(images, self.in_channels, self.input_size)

    def augment(self, images: Tensor, epoch: int, batch: int) -> Tensor:
        """Returns images with the random crops, mirrors and colours of this rank in a batch of an epoch.

        With colour noise they are float32 on 0..255, not clamped; else, and after `pca_epochs`, uint8.
        """
        generator = torch.Generator().manual_seed(derive(self.seed, "augment", epoch, batch, self._rank))
        places = draw_places(images, self.crop, self.spec.pad, generator) if self.spec.random_crop else None
        mirrored = None
        if self.spec.mirror_alternately:
            mirrored = self._alternating_mirrors(epoch, batch)
        elif self.spec.mirror:
            mirrored = draw_mirrors(images, generator)
        if places is not None:
            images = crop_at(images, self.crop, self.spec.pad, *places, mirrored)
        else:
            images = center_crop(images, self.crop)
            images = images if mirrored is None else mirror_where(images, mirrored)
        return self._coloured(images, generator) if self._has_noise(epoch) else images

    def _alternating_mirrors(self, epoch: int, batch: int) -> Tensor:
        """Returns which images of a training batch are mirrored: bool [N], of each image the opposite of last epoch."""
        plan = self._plan(self.source.train)
        if self._mirrors is None or self._mirrors[0] != epoch:
            first = torch.randint(2, (plan.n,), generator=torch.Generator().manual_seed(derive(self.seed, "mirror")))
            order = epoch_order(plan.n, self.seed, self._order_epoch(epoch), shuffle=True)
            self._mirrors = epoch, (first[order] + epoch) % 2 == 1
        return plan.share(self._mirrors[1], batch)

    def _order_epoch(self, epoch: int) -> int:
        """Returns the epoch whose order of the training images is used in `epoch`."""
        # Trainer(overfit_batches=n) must get the same n batches in every epoch.
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return 0 if overfit else epoch

    def _has_noise(self, epoch: int) -> bool:
        last = self.spec.pca_epochs
        return self.spec.pca is not Pca.none and (last is None or epoch < last)

    def _coloured(self, images: Tensor, generator: torch.Generator) -> Tensor:
        mean = self._mean_on(images.device) if self.spec.pca_reading is PcaReading.code else None
        return add_colour_noise(images, self.colour, self.spec.pca_std, mean, generator)

    def _mean_on(self, device: torch.device) -> Tensor:
        """Returns the mean training image at the central crop, as a network with per-pixel mean subtracts it."""
        if self._mean_crop is None or self._mean_crop.device != device:
            self._mean_crop = center_crop(self._measured().pixel_mean, self.crop).to(device)
        return self._mean_crop

    @property
    def colour(self) -> ColourComponents:
        """The principal components of the colour noise; those of the training images are computed once and cached."""
        if self._colour is None:
            spec, folder = self.spec, cache_folder(getattr(self.spec, "cache", None))
            # identifies the images, and which of them are training images
            key = (self.fingerprint, spec.val.name, spec.val_fraction, spec.subset, self.seed)
            fitted = spec.pca is Pca.fit
            self._colour = load_colour(self.source.train, folder, *key) if fitted else IMAGENET_COLOUR
        return self._colour

    def _describe_colour(self) -> str:
        spec, std = self.spec, " ".join(f"{value:.1f}" for value in self.colour.std)
        whose = "fitted to the training images" if spec.pca is Pca.fit else "of ImageNet"
        until = "" if spec.pca_epochs is None else f", in the first {spec.pca_epochs} epochs"
        return (
            f"components {whose}, std {std}, by the {spec.pca_reading}'s reading, times N(0, {spec.pca_std:g}){until}"
        )

    def _measured(self) -> Moments:
        if self._moments is None:
            self._moments = self.source.train.statistics()
        return self._moments

    def _loader(self, split: Split, shuffle: bool, start: Callable[[], int]) -> ResidentLoader:
        plan = self._plan(split)

        def order() -> Tensor:
            return epoch_order(plan.n, self.seed, self._order_epoch(self._epoch), shuffle)

        pin = self._device.type == "cuda"
        if isinstance(split, StreamedSplit) and not isinstance(split, CachedSplit):
            loader = StreamedLoader(split, plan, order, start, workers=self._workers(), pin_memory=pin)
            self._streaming.add(loader)
            return loader
        return ResidentLoader(split, plan, order, start, pin_memory=pin)

    def split(self, name: str) -> Split:
        """Returns the images of train, val or test; raises UserError where the data has none."""
        splits = {"train": self.source.train, "val": self.source.val, "test": self.source.test}
        split = splits[name]
        if split is None:
            raise UserError(f"data={self.spec.name}: has no {name} images; {self.describe()}")
        return split

    def _plan(self, split: Split) -> EpochPlan:
        least = self.least if split is self.source.train else 1
        return EpochPlan(len(split), self.spec.batch_size, self._rank, self._world, least)

    def _workers(self) -> int:
        if self.spec.workers is not None:
            return self.spec.workers
        return max(1, min(MOST_WORKERS, cores() // (1 if self.trainer is None else self.trainer.world_size)))

    def _open_once(self) -> None:
        if self._opened:
            return
        source = self.open()
        channels, height, width = source.train.shape
        if self.in_channels not in (channels, 3) or channels > self.in_channels:
            raise UserError(
                f"model.in_channels={self.in_channels}: the images have {channels} channels; write {channels}"
            )
        check_crop(self.spec, min(height, width))
        if self.spec.pca is not Pca.none and channels != 3:
            raise UserError(f"data.pca={self.spec.pca}: needs images of 3 channels, these have {channels}; write none")
        self.source, self._opened = source, True

    def _placed(self, source: Source) -> Source:
        """Returns the source with its arrays on the GPU that trains, where they are small enough."""
        splits = {"train": source.train, "val": source.val, "test": source.test}
        resident = {name: split for name, split in splits.items() if isinstance(split, ResidentSplit | CachedSplit)}
        arrays = {id(split.array): split.array for split in resident.values()}
        if self._device.type != "cuda":
            return source
        if sum(a.nbytes for a in arrays.values()) > MOST_DEVICE_MEMORY_SHARE * torch.cuda.mem_get_info(self._device)[0]:
            return source
        for split in resident.values():
            if isinstance(split, CachedSplit):
                split.check()
        moved = {key: array.to(self._device) for key, array in arrays.items()}
        return replace(source, **{name: split.with_array(moved[id(split.array)]) for name, split in resident.items()})  # type: ignore[arg-type]

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else replica(self.trainer)

    @property
    def _world(self) -> int:
        return 1 if self.trainer is None else replicas(self.trainer)

    @property
    def _epoch(self) -> int:
        return 0 if self.trainer is None else self.trainer.current_epoch

    @property
    def _batch(self) -> int:
        """The number of the next training batch: Lightning counts it as ready after its transfer."""
        return 0 if self.trainer is None else self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
