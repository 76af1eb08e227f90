"""The colour noise of 2012: images shifted along the principal components of the training images' RGB pixels.

Paper (section 4.1): image + P (a * lambda), with P the eigenvectors of the RGB covariance, lambda its eigenvalues, and
a ~ N(0, 0.1) three numbers drawn once for each image and use. Code: (image - mean + P (a * std)) / 1.1, with the
standard deviations, the square roots of lambda; the division keeps a training image's scale near that of a test image.
All on 0..255. A batch is done at once, on its device; the random numbers come from the CPU, as those of `augment` do.
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


@dataclass(frozen=True)
class ColourComponents:
    """Principal components of RGB pixels on 0..255, the strongest first.

    `std`: the standard deviation along each, three numbers. `vectors`: each component's R, G and B, of length 1.
    """

    std: list[float]
    vectors: list[list[float]]

    def shift(self, draws: Tensor, reading: PcaReading) -> Tensor:
        """The colours [N, 3] that `draws` [N, 3], a number for each component, add to N images."""
        std = torch.tensor(self.std)
        weights = draws * (std if reading is PcaReading.code else std.square())
        # no matrix product: it would be rounded to what autocast computes in
        return (weights[:, :, None] * torch.tensor(self.vectors)).sum(1)


# Of the ImageNet training images, as the code of 2012 had them.
IMAGENET_COLOUR = ColourComponents(
    [121.780, 37.094, 19.721],
    [[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]],
)


def add_colour_noise(
    images: Tensor, colour: ColourComponents, std: float, mean: Tensor | None, generator: torch.Generator
) -> Tensor:
    """`images` [N, 3, H, W] on 0..255 with colour noise, float32, not clamped: nothing that follows needs 0..255.

    `std`: of the numbers drawn. `mean` [3, H, W]: the mean training image, for the code's reading, which shrinks about
    it: minus that mean, the result is (image - mean + noise) / (1 + std). None: the paper's reading.
    """
    draws = torch.randn((len(images), 3), generator=generator, dtype=torch.float32) * std
    reading = PcaReading.paper if mean is None else PcaReading.code
    noisy = images.float() + colour.shift(draws, reading).to(images.device)[:, :, None, None]
    return noisy if mean is None else (noisy + std * mean) / (1 + std)


def fit_colour(split: Split) -> ColourComponents:
    """The components of the pixels of `split` (of a sample of 4,096 images where they are read from files).

    The sign of a component, which makes no difference to the noise, is that which makes its largest entry positive.
    """
    values, vectors = torch.linalg.eigh(split.covariance())
    std, components = values.flip(0).clamp(min=0).sqrt(), vectors.T.flip(0)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return ColourComponents(std.tolist(), (components * largest.sign()).tolist())


def load_colour(split: Split, folder: Path, *key: Any) -> ColourComponents:
    """`fit_colour(split)`, kept in `folder` under `key`, which names the images. A damaged file is made anew.

    Where the folder cannot be written, nothing is kept: a run is not refused for what takes it seconds.
    """
    name = hashlib.blake2b("\n".join(map(str, key)).encode(), digest_size=8).hexdigest()
    path = folder / f"colour-{name}.json"
    if (kept := _read(path)) is not None:
        return kept
    colour = fit_colour(split)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps({"std": colour.std, "vectors": colour.vectors}).encode() + b"\n")
    return colour


def _read(path: Path) -> ColourComponents | None:
    """What the file at `path` holds; None where there is none, or it does not hold three components."""
    try:
        content = json.loads(path.read_bytes())
        std, vectors = (torch.tensor(content[key], dtype=torch.float64) for key in ("std", "vectors"))
        whole = std.shape == (3,) and vectors.shape == (3, 3) and bool((std >= 0).all() and std.isfinite().all())
        unit = whole and torch.allclose(vectors @ vectors.T, torch.eye(3, dtype=torch.float64), atol=1e-6)
    # what a damaged file raises
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return ColourComponents(std.tolist(), vectors.tolist()) if unit else None
