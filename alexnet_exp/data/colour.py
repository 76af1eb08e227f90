"""Provides the colour noise of 2012: shifts along the principal components of the training images' RGB pixels.

Paper (section 4.1): image + P (a * lambda), where P are the eigenvectors and lambda the eigenvalues of the RGB
covariance, and a ~ N(0, 0.1) are three numbers per image and use. Code of 2012: (image - mean + P (a * std)) / 1.1,
where std are the standard deviations (square roots of lambda); the division keeps the scale of training images near
that of test images. All values are on 0..255. A batch is processed at once on its device; the random numbers are drawn
on the CPU, as in `augment`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_exp.atomic import atomic_write
from alexnet_exp.data.spec import PcaReading
from alexnet_exp.data.split import Split
from alexnet_exp.data.transfer import to_device


@dataclass(frozen=True)
class ColourComponents:
    """Principal components of RGB pixels on 0..255, the strongest first.

    std: the standard deviation along each of the three components. vectors: R, G and B of each component, of length 1.
    """

    std: list[float]
    vectors: list[list[float]]

    def shift(self, draws: Tensor, reading: PcaReading) -> Tensor:
        """Returns the colours [N, 3] that are added to N images, for `draws` [N, 3] with one number per component."""
        std = torch.tensor(self.std)
        weights = draws * (std if reading is PcaReading.code else std.square())
        # not a matrix product, which autocast would round to a lower precision
        return (weights[:, :, None] * torch.tensor(self.vectors)).sum(1)


# Of the ImageNet training images, from the code of 2012.
IMAGENET_COLOUR = ColourComponents(
    [121.780, 37.094, 19.721],
    [[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]],
)


def add_colour_noise(
    images: Tensor, colour: ColourComponents, std: float, mean: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Returns `images` [N, 3, H, W] on 0..255 with colour noise: float32, not clamped to 0..255.

    std: standard deviation of the random numbers. mean [3, H, W]: the mean training image, for the reading `code`, with
    the result mean + (image - mean + noise) / (1 + std); None for the reading `paper`, image + noise.
    """
    draws = torch.randn((len(images), 3), generator=generator, dtype=torch.float32) * std
    reading = PcaReading.paper if mean is None else PcaReading.code
    noisy = images.float() + to_device(colour.shift(draws, reading), images.device)[:, :, None, None]
    return noisy if mean is None else (noisy + std * mean) / (1 + std)


def fit_colour(split: Split) -> ColourComponents:
    """Returns the components of the pixels of `split`, or of a sample of 4,096 images if they are read from files.

    The sign of a component does not affect the distribution of the noise; its largest entry is made positive.
    """
    values, vectors = torch.linalg.eigh(split.covariance())
    std, components = values.flip(0).clamp(min=0).sqrt(), vectors.T.flip(0)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return ColourComponents(std.tolist(), (components * largest.sign()).tolist())


def load_colour(split: Split, folder: Path, *key: Any) -> ColourComponents:
    """Returns `fit_colour(split)`, cached in `folder` under `key`, which identifies the images.

    A damaged file is replaced. If the folder is not writable, nothing is cached, because fitting takes seconds only.
    """
    name = hashlib.blake2b("\n".join(map(str, key)).encode(), digest_size=8).hexdigest()
    path = folder / f"colour-{name}.json"
    if (cached := _read(path)) is not None:
        return cached
    colour = fit_colour(split)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps({"std": colour.std, "vectors": colour.vectors}).encode() + b"\n")
    return colour


def _read(path: Path) -> ColourComponents | None:
    """Returns the components in a file, or None if it is missing or does not contain three of them."""
    try:
        content = json.loads(path.read_bytes())
        std, vectors = (torch.tensor(content[key], dtype=torch.float64) for key in ("std", "vectors"))
        is_complete = std.shape == (3,) and vectors.shape == (3, 3) and bool((std >= 0).all() and std.isfinite().all())
        is_orthonormal = is_complete and torch.allclose(
            vectors @ vectors.T, torch.eye(3, dtype=torch.float64), atol=1e-6
        )
    # of a damaged file
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return ColourComponents(std.tolist(), vectors.tolist()) if is_orthonormal else None
