"""Draws example images with their predictions, and finds the nearest training images, as in the paper's Figure 4.

Distances are between features of the last hidden layer: the inputs of the last fully connected layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from alexnet_exp.errors import UserError
from alexnet_exp.inference.classifier import Classifier
from alexnet_exp.seeds import derive
from alexnet_exp.training.datamodule import ImageData

MAX_CLASSIFIED = 512  # images that are classified to find correct and wrong predictions
BATCH_SIZE = 64


@dataclass(frozen=True)
class Examples:
    """N images of a split: `indices` in it [N], `images` uint8 [N, C, S, S] as evaluated, `labels` [N].

    `probabilities` [N, classes] are the network's. `how`: how they were drawn, as text.
    """

    indices: Tensor
    images: Tensor
    labels: Tensor
    probabilities: Tensor
    how: str = ""

    @property
    def right(self) -> Tensor:
        """Whether each prediction is correct: bool [N]."""
        return self.probabilities.argmax(1) == self.labels

    def first(self, count: int) -> Examples:
        """Returns the first `count` of them."""
        return Examples(
            self.indices[:count], self.images[:count], self.labels[:count], self.probabilities[:count], self.how
        )


@dataclass(frozen=True)
class Nearest:
    """The k nearest of M images to each of N images: `places` [N, k] among the M, and `distances`, nearest first."""

    places: Tensor
    distances: Tensor


def classify(classifier: Classifier, data: ImageData, split: str, indices: Tensor) -> Examples:
    """Returns the images of `split` at `indices` with their predictions. Raises UserError for an invalid index."""
    images = data.split(split)
    beyond = [index for index in indices.tolist() if not 0 <= index < len(images)]
    if beyond:
        raise UserError(f"--images {beyond[0]}: there are {len(images):,} {split} images; give 0 to {len(images) - 1}")
    seen = data.centred(images.images(indices))
    return Examples(indices, seen, images.labels[indices].cpu(), _probabilities(classifier, seen))


def draw(classifier: Classifier, data: ImageData, split: str, count: int, seed: int) -> Examples:
    """Returns `count` images of `split` in a random order of `seed`, with correct and wrong predictions in turn.

    They come from the first 512 images of that order; if one kind runs out, the other fills up.
    """
    n = len(data.split(split))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "examples")))[:MAX_CLASSIFIED]
    kinds: dict[bool, list[int]] = {True: [], False: []}
    half = -(-count // 2)
    classified = 0
    for part in torch.split(order, BATCH_SIZE):
        right = classify(classifier, data, split, part).right
        for index, is_right in zip(part.tolist(), right.tolist(), strict=True):
            kinds[is_right].append(index)
        classified += len(part)
        if min(map(len, kinds.values())) >= half:
            break
    chosen = _by_turns(kinds[True], kinds[False], min(count, n))
    how = f"correct and wrong in turn, from the first {classified:,} in a random order, seed {seed}"
    return replace(classify(classifier, data, split, torch.tensor(chosen, dtype=torch.int64)), how=how)


def nearest(
    features: Callable[[Tensor], Tensor], images: Tensor, others: Iterable[Tensor], k: int, own: Tensor | None = None
) -> Nearest:
    """Returns the k nearest of `others` (batches uint8 [B, C, S, S]) to each of `images` [N, C, S, S].

    Euclidean distance of their `features` (float64 [B, F] of a batch), computed from differences; of equal distances
    the earlier one is nearer. Only the features of one batch are in memory at a time. `own` [N]: the place of each
    image among the others, which is left out; -1 for none.
    """
    wanted = features(images)
    places = torch.empty((len(images), 0), dtype=torch.int64)
    distances = torch.empty((len(images), 0), dtype=torch.float64)
    start = 0
    for batch in others:
        apart = torch.cdist(wanted, features(batch), compute_mode="donot_use_mm_for_euclid_dist")
        here = torch.arange(start, start + len(batch)).expand(len(images), -1)
        if own is not None:
            apart = apart.masked_fill(here == own[:, None], torch.inf)
        distances, order = torch.cat([distances, apart], 1).sort(dim=1, stable=True)
        distances, order = distances[:, :k], order[:, :k]
        places = torch.cat([places, here], 1).gather(1, order)
        start += len(batch)
    found = distances.isfinite().sum(1).min() if len(images) else 0
    return Nearest(places[:, :found], distances[:, :found])


class Features:
    """Computes the inputs of the last fully connected layer in evaluation mode: images to float64 [N, F].

    In AlexNet these are the outputs of fc7 after ReLU. `layer`: the name of the last layer; `size`: F. Raises UserError
    for a network without a fully connected layer.
    """

    def __init__(self, classifier: Classifier):
        linear = [
            (name, module) for name, module in classifier.network.named_modules() if isinstance(module, nn.Linear)
        ]
        if not linear:
            raise UserError("the network has no fully connected layer, whose inputs are compared")
        name, self._last = linear[-1]
        self.layer = name.removesuffix(".fc")
        self.size = self._last.in_features
        self._classifier = classifier

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = self._last.register_forward_pre_hook(lambda module, given: seen.append(given[0].flatten(1)))
        try:
            for part in torch.split(images, BATCH_SIZE):
                self._classifier(part.to(_device(self._classifier)))
        finally:
            hook.remove()
        return torch.cat(seen).double().cpu()


def _probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat(
            [
                classifier(part.to(_device(classifier))).float().softmax(1).cpu()
                for part in torch.split(images, BATCH_SIZE)
            ]
        )


def _device(classifier: Classifier) -> torch.device:
    return next(classifier.parameters()).device


def _by_turns(first: list[int], second: list[int], count: int) -> list[int]:
    """Returns `count` items of both lists in turn, then the rest of the longer one."""
    both = [each for pair in zip(first, second, strict=False) for each in pair]
    short = min(len(first), len(second))
    return (both + first[short:] + second[short:])[:count]
