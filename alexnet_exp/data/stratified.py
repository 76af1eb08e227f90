"""Provides splits and orders that preserve the proportions of the classes."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Returns a random order of the indices of `labels` [N]: int64 [N]; every prefix has the classes in proportion.

    Image k of the n images of a class, in random order, gets the relative position (k + 1/2) / n.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels):
        members = order[labels[order] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    # a stable sort of the random order, so that the order of classes with equal positions is random too
    return order[place[order].argsort(stable=True)]


def split_stratified(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Returns the indices of the remaining and of the held-out images, ascending: a random `fraction` of each class.

    At least one image per class remains and at least one is held out. If a class has one image only, none is held out.
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
