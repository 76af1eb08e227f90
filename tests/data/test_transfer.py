"""Transfers to a GPU come from pinned memory; without a GPU nothing is pinned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_exp.data.augment import random_crop_mirror
from alexnet_exp.data.loader import EpochPlan, ResidentLoader
from alexnet_exp.data.split import ResidentSplit
from alexnet_exp.data.transfer import to_device


def test_to_the_same_device_is_the_tensor_itself() -> None:
    values = torch.arange(3)
    assert to_device(values, torch.device("cpu")) is values


def test_a_copy_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, *where, **how: calls.append((where, how)) or self)
    to_device(torch.arange(3), torch.device("cuda"))
    assert calls == ["pinned", ((torch.device("cuda"),), {"non_blocking": True})]


def test_a_loader_pins_what_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    split = ResidentSplit(torch.zeros(6, 3, 4, 4, dtype=torch.uint8), torch.arange(6))
    for pin in (False, True):
        batches = list(ResidentLoader(split, EpochPlan(6, 3), lambda: torch.arange(6), pin_memory=pin))
        assert [each.dtype for each in pinned] == [torch.uint8, torch.int64] * len(batches) * pin


def test_a_batch_stays_bytes_until_it_is_preprocessed() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert random_crop_mirror(images, 6, 1, torch.Generator().manual_seed(1)).dtype == torch.uint8
