"""Provides `complete`, which fills a network's open settings from the data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alexnet_exp.errors import Checks
from alexnet_exp.model.spec import SMALL_IMAGE_PIXELS, Network


@dataclass
class Ends:
    """The network's two ends as the data determines them, and the width that the data suggests.

    `input_size`: the side of the square input in pixels; None where it is unknown before the images are read, as with
    a network and data of the user's.
    """

    input_size: int | None
    in_channels: int
    num_classes: int
    width: float


def complete(spec: Network, ends: Ends) -> Network:
    """Returns a copy of `spec` whose null `width`, `input_size`, `in_channels` and `num_classes` are those of `ends`.

    A network of 3 channels is compatible with data of one: the data repeats its gray channel. Another `input_size` is
    compatible too: the data crops or enlarges. Raises `Refused` where network and data contradict each other.
    """
    checks = Checks(spec)
    checks.that(
        "num_classes",
        spec.num_classes in (None, ends.num_classes),
        f"the data has {ends.num_classes} classes; write model.num_classes={ends.num_classes}, or null",
    )
    checks.that(
        "in_channels",
        spec.in_channels in (None, ends.in_channels) or (spec.in_channels, ends.in_channels) == (3, 1),
        f"the data has {ends.in_channels} channels; write model.in_channels={ends.in_channels}, or null",
    )
    checks.done()
    return replace(
        spec,
        width=ends.width if spec.width is None else spec.width,
        input_size=spec.input_size or ends.input_size,
        in_channels=spec.in_channels or ends.in_channels,
        num_classes=spec.num_classes or ends.num_classes,
    )


def notes(spec: Network) -> list[str]:
    """Returns the log lines on a completed network: which stages are left out, which use their small-image window."""
    left_out = [name for name, stage in spec.stages.items() if stage is None]
    return [*([f"{', '.join(left_out)} left out"] if left_out else []), *_small_windows(spec)]


def _small_windows(spec: Network) -> list[str]:
    if spec.input_size is None or spec.input_size >= SMALL_IMAGE_PIXELS:
        return []
    return [
        f"{name}: kernel {stage.small.kernel}, stride {stage.small.stride}, the window for small images, at input size "
        f"{spec.input_size} (from {SMALL_IMAGE_PIXELS} pixels up: kernel {stage.kernel}, stride {stage.stride})"
        for name, stage in spec.present.items()
        if stage.small is not None
    ]
