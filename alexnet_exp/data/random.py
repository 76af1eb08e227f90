"""Provides random pixels and labels for timing; they are the same in every run."""

from __future__ import annotations

import torch

from alexnet_exp.data.info import data_info
from alexnet_exp.data.spec import Random
from alexnet_exp.data.split import ResidentSplit, Source, fingerprint


def open_random(spec: Random) -> Source:
    """Returns the source of `spec.n` training and `spec.n // 8` test images; labels cycle through the classes."""
    generator = torch.Generator().manual_seed(0)
    train, test = (_images(spec, count, generator) for count in (spec.n, spec.n // 8))
    return Source(train, None, test, data_info(spec).classes, fingerprint(train, test))


def _images(spec: Random, count: int, generator: torch.Generator) -> ResidentSplit:
    shape = (count, spec.channels, spec.size, spec.size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ResidentSplit(pixels, torch.arange(count) % spec.classes)
