"""What the machine can do: the rate of its own matrix products, measured now. Neither Lightning nor Hydra here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

SIDES = (1024, 2048, 4096)
GPU_SIDES = (*SIDES, 8192)  # a large GPU is not filled by less
ENOUGH = 0.4  # seconds of products of each side
LEAST, PATIENCE = 4, 1.5  # products of each side, though they take longer than that, up to so many seconds
MOST = 200


def measure_ceiling(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, threads: int | None = None
) -> float:
    """GFLOP/s of the best square product in `dtype` on `device`: 2 FLOP a multiply-add, the fastest of many.

    Sides of 1024 to 4096, on a GPU up to 8192. threads: torch's for the time of the measurement (None: as they are).
    Takes a second or two. Raises RuntimeError where the device has no products of that kind.
    """
    device = torch.device(device)
    with _threads(threads), torch.no_grad():
        return max(_rate(side, device, dtype) for side in (GPU_SIDES if device.type == "cuda" else SIDES))


def _rate(side: int, device: torch.device, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    wait = _waiting(device)
    best, spent, done = float("inf"), 0.0, 0  # the first product loads kernels and touches pages: it is not the best
    while done < MOST and (spent < ENOUGH or (done < LEAST and spent < PATIENCE)):
        wait()
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        wait()
        took = time.perf_counter() - start
        best, spent, done = min(best, took), spent + took, done + 1
    return float(2 * side**3 / best / 1e9)


def _waiting(device: torch.device) -> Callable[[], None]:
    """What returns once the device has done all that it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
