"""Provides transfers to a GPU that the program does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Returns `values` on `device`.

    From pageable memory, `Tensor.to` waits until the GPU has done all that was asked of it before. A copy from pinned
    memory joins the queue; torch keeps that memory until the copy is done.
    """
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
