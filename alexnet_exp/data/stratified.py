"""Splits and orders that keep the proportions of the classes."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A random order of the indices of `labels` [N], any beginning of which has the classes in proportion.

    The k-th image of a class of n, in random order, stands at (k + 1/2) / n of the way.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels):
        members = order[labels[order] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    # sorted from the random order, and stably: which class is first among equals is random as well
    return order[place[order].argsort(stable=True)]


def split_stratified(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the images that stay and of those held out, both ascending: `fraction` of each class, at random.

    Every class keeps an image and gives one. Where a class has one image only, nothing is held out.
    """
    generator = torch.Generator().manual_seed(seed)
    everything = torch.arange(len(labels))
    if int(torch.bincount(labels)[labels].min()) < 2:
        return everything, everything[:0]
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        members = everything[labels == label]
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return everything[~held], everything[held]
