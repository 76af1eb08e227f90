"""Images to the network's input, on one core: CIFAR's size from memory; photographs decoded, and as kept of them.

Ours is what a run does, without its trainer: the data module's loader, its augmentation, the network's preprocessing.
The peer is torchvision's: PIL images, one transform after another on each, a DataLoader (in this process, or with one
worker, whichever is faster here). Photographs come from ALEXNET_EXP_SHARED/imagenet-samples.tar; without it the rows of
photographs are left out. Cost: a minute.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from alexnet_exp.data.spec import Data, Decode, Folder, Random, Val
from alexnet_exp.model.preprocess import Preprocess
from alexnet_exp.model.spec import Input
from alexnet_exp.processes.memory import keep_freed_memory
from alexnet_exp.training.datamodule import ImageData
from benchmarks.rows import Row, alternate

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIDE, CLASSES, BATCH = 32, 10, 128
OURS, PEERS = 40_000, 8_192  # images a turn: some tenths of a second of each
EPOCHS_KEPT = 5  # of the photographs, a turn
PEER = "torchvision, one core"


def rows(turns: int = 9) -> list[Row]:
    """The three rows. The process and its workers are put on one core, which they keep."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    keep_freed_memory()
    found = [_cifar(turns)]
    archive = Path(os.environ.get("ALEXNET_EXP_SHARED", "")) / "imagenet-samples.tar"
    if archive.is_file():
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
            found += _photographs(turns, Path(folder) / "imagenet-samples", Path(folder) / "cache")
    return found


def _cifar(turns: int) -> Row:
    spec = Random(size=SIDE, classes=CLASSES, n=OURS, val=Val.none, batch_size=BATCH, pad=4, mirror=True)
    pixels = torch.randint(0, 256, (PEERS, SIDE, SIDE, 3), dtype=torch.uint8).numpy()
    crop = [transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip()]
    peer, which = _faster([_rate_of(_loader(_Pixels(pixels, _transform(crop)), workers)) for workers in (0, 1)])
    return Row(
        "input cifar",
        "32x32 images, one core",
        PEER,
        "images/s",
        alternate(_rate_ours(spec, SIDE), peer, turns),
        higher_is_better=True,
        target=20,
        note=which,
    )


def _photographs(turns: int, photographs: Path, cache: Path) -> list[Row]:
    crop = [transforms.Resize(256), transforms.RandomCrop(224), transforms.RandomHorizontalFlip()]
    folder = ImageFolder(str(photographs), _transform(crop))
    peer, which = _faster([_rate_of(_loader(folder, workers)) for workers in (0, 1)])

    def row(name: str, what: str, decode: Decode, target: float, epochs: int) -> Row:
        spec = Folder(
            root=str(photographs), size=256, decode=decode, cache=str(cache), val=Val.none, batch_size=50, workers=0
        )
        ours = _rate_ours(spec, 224, epochs)
        measured = alternate(ours, peer, turns)
        return Row(name, what, PEER, "images/s", measured, higher_is_better=True, target=target, note=which)

    return [
        row("input decoding", "photographs decoded, one core", Decode.always, 1.8, 1),
        row("input kept", "photographs from the cache, one core", Decode.once, 20, EPOCHS_KEPT),
    ]


def _rate_ours(spec: Data, input_size: int, epochs: int = 1) -> Callable[[], float]:
    """Images a second of our pipeline: whole epochs, in a new order each time."""
    data = ImageData(spec, input_size, 3, seed=1)
    data.setup()
    scale = Preprocess(Input(mean=MEAN, std=STD), 3, input_size)

    def measure() -> float:
        images, start = 0, time.perf_counter()
        for epoch in range(epochs):
            for number, (batch, _) in enumerate(data.loader("train", shuffle=True)):
                images += len(scale(data.augment(batch, epoch, number)))
        return images / (time.perf_counter() - start)

    return measure


def _rate_of(loader: DataLoader) -> Callable[[], float]:
    def measure() -> float:
        images, start = 0, time.perf_counter()
        for batch, _ in loader:
            images += len(batch)
        return images / (time.perf_counter() - start)

    return measure


def _faster(rates: list[Callable[[], float]]) -> tuple[Callable[[], float], str]:
    """The peer without a worker and with one: the faster of them, in words as well."""
    without, one = (max(rate(), rate()) for rate in rates)
    return (rates[0], "in the same process") if without >= one else (rates[1], "with one worker")


def _loader(dataset: Dataset, workers: int) -> DataLoader:
    return DataLoader(dataset, BATCH if isinstance(dataset, _Pixels) else 50, shuffle=True, num_workers=workers)


def _transform(first: list[torch.nn.Module]) -> Callable[[Image.Image], torch.Tensor]:
    return transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


class _Pixels(Dataset):
    """Arrays as PIL images, as torchvision.datasets.CIFAR10 gives them."""

    def __init__(self, pixels, transform):
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), 0
