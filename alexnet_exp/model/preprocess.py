"""Provides preprocessing, from the bytes of images to the network's input: a variant's scale, mean and std."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_exp.kernels.images import standardized
from alexnet_exp.model.spec import Input, Scale


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training images, on 0..255; None where they are not needed.

    `channel_mean` and `channel_std` [C], `pixel_mean` [C, H, W] at the size of the stored images.
    """

    channel_mean: Tensor | None = None
    channel_std: Tensor | None = None
    pixel_mean: Tensor | None = None


def measure_statistics(batches: Iterable[tuple[Tensor, Tensor]]) -> Statistics:
    """Returns the statistics of `batches`: pairs of uint8 [N, C, H, W] and labels, all images of one size."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for images, _ in batches:
        exact = images.cpu().double()
        count += len(exact)
        total = total + exact.sum(0)
        squares = squares + exact.square().sum(0)
    mean, second = total / count, squares / count
    channel_mean = mean.mean((1, 2))
    variance = second.mean((1, 2)) - channel_mean.square()
    return Statistics(channel_mean.float(), variance.clamp(min=0).sqrt().float(), mean.float())


class Preprocess(nn.Module):
    """(pixels - mean) / std, with both on 0..255: the division by 255 is part of `std`.

    Settings: `Input` of model/spec.py (`model.input` in YAML). The buffers `mean` and `std`, [C, 1, 1] or [C, H, W],
    are in the state_dict, so a checkpoint includes its variant's preprocessing. Values that must be measured are NaN
    until `fit` or a state_dict fills them, so that running without them is noticed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input: Input, channels: int, size: int):
        super().__init__()
        self.input, self.channels, self.size = input, channels, size
        self.full = 255.0 if input.scale == Scale.unit else 1.0
        self.register_buffer("mean", self._start(input.mean, 0.0, size))
        self.register_buffer("std", self._start(input.std, 1.0, size))

    @property
    def needs(self) -> set[str]:
        """The statistics that `fit` uses: a subset of channel and pixel."""
        return {wanted for wanted in (self.input.mean, self.input.std) if wanted in ("channel", "pixel")}

    def fit(self, statistics: Statistics) -> None:
        """Sets the measured values. Statistics of gray images are repeated for a network of 3 channels.

        A per-pixel mean larger than the input is cropped at its center (the 2012 code does so for its random crops
        too), a smaller one is enlarged bilinearly, as the images are. Raises ValueError where a needed statistic is
        None.
        """
        if self.input.mean == "channel":
            self._set("mean", statistics.channel_mean)
        if self.input.mean == "pixel":
            self._set("mean", statistics.pixel_mean)
        if self.input.std == "channel":
            self._set("std", statistics.channel_std)
            # A channel without contrast stays 0 instead of becoming NaN.
            self.std[self.std == 0] = 1

    def disable(self) -> None:
        """Leaves images unchanged from now on: for a data module that returns floats on its own scale."""
        self.mean.fill_(0)
        self.std.fill_(1)

    def forward(self, images: Tensor, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
        """Returns standardized images of `dtype`, [N, C, H, W], from pixels of the same shape.

        Pixels are on 0..255, uint8 or (after colour noise) floats; after `disable`, floats on any scale. Computed in
        float32 and rounded once; on the CPU by a native kernel where there is one.
        """
        return standardized(images, self.mean, self.std, dtype, channels_last)

    def _start(self, setting: str | list[float], neutral: float, size: int) -> Tensor:
        if isinstance(setting, list):
            return torch.tensor(setting, dtype=torch.float32).view(-1, 1, 1) * self.full
        if setting == "none":
            return torch.full((self.channels, 1, 1), neutral * self.full)
        side = size if setting == "pixel" else 1
        return torch.full((self.channels, side, side), torch.nan)

    def _set(self, name: str, measured: Tensor | None) -> None:
        if measured is None:
            raise ValueError(f"input.{name}={getattr(self.input, name)} was not measured")
        buffer: Tensor = getattr(self, name)
        values = measured.float() if measured.ndim == 3 else measured.float().view(-1, 1, 1)
        buffer.copy_(_fitted(values, buffer.shape[-1]).expand_as(buffer))


def _fitted(values: Tensor, size: int) -> Tensor:
    height, width = values.shape[-2:]
    if min(height, width) < size:
        return F.interpolate(values[None], (size, size), mode="bilinear", align_corners=False)[0]
    top, left = round((height - size) / 2), round((width - size) / 2)  # as the images are: data.augment.central
    return values[:, top : top + size, left : left + size]
