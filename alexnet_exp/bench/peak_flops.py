"""Measures the peak FLOP/s of a device by its matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

MATRIX_SIDES = (1024, 2048, 4096)
GPU_MATRIX_SIDES = (*MATRIX_SIDES, 8192)  # smaller products do not fill a large GPU
# Per side: products for SECONDS, at least MIN_PRODUCTS of them within MAX_SECONDS, at most MAX_PRODUCTS.
SECONDS, MAX_SECONDS = 0.4, 1.5
MIN_PRODUCTS, MAX_PRODUCTS = 4, 200


def measure_peak(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, threads: int | None = None
) -> float:
    """Returns the GFLOP/s of the fastest square matrix product in `dtype` on `device`, 2 FLOP per multiply-add.

    The sides are 1024 to 4096, on a GPU up to 8192. threads: of torch during the measurement; None: unchanged. It takes
    a second or two. Raises RuntimeError if the device has no products in `dtype`.
    """
    device = torch.device(device)
    with _threads(threads), torch.no_grad():
        return max(_rate(side, device, dtype) for side in (GPU_MATRIX_SIDES if device.type == "cuda" else MATRIX_SIDES))


def _rate(side: int, device: torch.device, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    wait = _waiting(device)
    best, spent, done = float("inf"), 0.0, 0  # the first product loads kernels and is never the fastest
    while done < MAX_PRODUCTS and (spent < SECONDS or (done < MIN_PRODUCTS and spent < MAX_SECONDS)):
        wait()
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        wait()
        took = time.perf_counter() - start
        best, spent, done = min(best, took), spent + took, done + 1
    return float(2 * side**3 / best / 1e9)


def _waiting(device: torch.device) -> Callable[[], None]:
    """Returns a function that waits until the device is idle."""
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
