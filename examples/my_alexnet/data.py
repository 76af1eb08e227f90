"""Provides a data module of your own: outlines of three shapes, drawn when the run starts."""

from __future__ import annotations

import torch
from torch import Tensor

from alexnet_exp.data.info import DataInfo
from alexnet_exp.data.source import arrange
from alexnet_exp.data.spec import Data
from alexnet_exp.data.split import ResidentSplit, Source, fingerprint
from alexnet_exp.training.datamodule import ImageData

SIDE = 32


class Shapes(ImageData):
    """Circles, squares and crosses of random place, size and brightness: `n` to train on, a quarter as many to test.

    A data module of images only overrides `open`: order, batches, augmentation, ranks and the validation split are
    inherited. `facts` gives a network the number of classes, channels and pixels before any image exists.
    """

    facts = DataInfo(classes=["circle", "square", "cross"], channels=1, size=SIDE, input_size=SIDE, width=0.25)

    def __init__(self, input_size: int, in_channels: int, seed: int, n: int = 1200, batch_size: int = 64):
        super().__init__(Data(batch_size=batch_size), input_size, in_channels, seed)
        self.n = n

    def open(self) -> Source:
        train, test = draw(self.n, seed=0), draw(self.n // 4, seed=1)
        return arrange(Source(train, None, test, self.facts.classes, fingerprint(train, test)), self.spec, self.seed)


def draw(n: int, seed: int) -> ResidentSplit:
    """Returns `n` images, uint8 [n, 1, SIDE, SIDE], with their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    center = torch.randint(10, SIDE - 10, (n, 2, 1, 1), generator=generator)
    radius = torch.randint(5, 10, (n, 1, 1), generator=generator).float()
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    distances = _distances((y - center[:, 0]).abs().float(), (x - center[:, 1]).abs().float(), radius)
    outline = (distances[labels, torch.arange(n)] < 1).float()
    brightness = torch.randint(80, 256, (n, 1, 1), generator=generator)
    noise = torch.randint(0, 60, (n, SIDE, SIDE), generator=generator)
    return ResidentSplit((outline * brightness + noise).clamp(max=255).to(torch.uint8)[:, None], labels)


def _distances(dy: Tensor, dx: Tensor, radius: Tensor) -> Tensor:
    """Returns the distance of each pixel from the outline of each shape, in pixels, [3, n, SIDE, SIDE]."""
    circle = ((dx.square() + dy.square()).sqrt() - radius).abs()
    square = (torch.maximum(dx, dy) - radius).abs()
    cross = torch.where(torch.maximum(dx, dy) <= radius, torch.minimum(dx, dy), torch.inf)
    return torch.stack([circle, square, cross])
