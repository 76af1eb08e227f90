"""From the bytes of an image to what the network sees: the variant's own scale, mean and standard deviation."""

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
    """What was measured on the training images, on 0..255; what was not needed is None.

    `channel_mean` and `channel_std` [C], `pixel_mean` [C, H, W] at the side the images are stored at.
    """

    channel_mean: Tensor | None = None
    channel_std: Tensor | None = None
    pixel_mean: Tensor | None = None


def measure(batches: Iterable[tuple[Tensor, Tensor]]) -> Statistics:
    """The statistics of the images of `batches`: pairs of uint8 [N, C, H, W] and labels, all images of one size."""
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
    """(pixels - mean) / std, with both on 0..255: dividing by 255 is part of `std`, so it costs nothing of its own.

    The buffers `mean` and `std`, [C, 1, 1] or [C, H, W], go into the state_dict: a checkpoint carries its variant's
    preprocessing. Those that must be measured are NaN until `fit` or a state_dict fills them, so that a network that
    runs without them cannot be taken for one that works.
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
        """Which statistics `fit` uses: of channel and pixel, or none."""
        return {wanted for wanted in (self.input.mean, self.input.std) if wanted in ("channel", "pixel")}

    def fit(self, statistics: Statistics) -> None:
        """Sets what must be measured. Grey statistics serve a network of 3 channels.

        A per-pixel mean larger than the input is cropped at its centre (the 2012 code does so for its random crops
        too), a smaller one is enlarged bilinearly, as the images are. Raises ValueError when a needed statistic
        is None.
        """
        if self.input.mean == "channel":
            self._set("mean", statistics.channel_mean)
        if self.input.mean == "pixel":
            self._set("mean", statistics.pixel_mean)
        if self.input.std == "channel":
            self._set("std", statistics.channel_std)
            # A channel without contrast is left as the zeros it is, not made NaN.
            self.std[self.std == 0] = 1

    def leave(self) -> None:
        """From now on images stay as they are: for a data module that gives floats, scaled by itself."""
        self.mean.fill_(0)
        self.std.fill_(1)

    def forward(self, images: Tensor, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
        """Pixels on 0..255 [N, C, H, W], uint8 or (after colour noise) floats, to `dtype` of the same shape.

        Behind `leave`, floats on whatever scale.

        Computed in float32 and rounded once. One pass over the bytes on the CPU, where there is a native kernel for it.
        """
        scaled = standardized(images, self.mean, self.std, dtype, channels_last)
        if scaled is not None:
            return scaled
        scaled = ((images.float() - self.mean) / self.std).to(dtype)
        return scaled.contiguous(memory_format=torch.channels_last) if channels_last else scaled

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
