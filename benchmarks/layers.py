"""Layers of ours against other ways to write them: forward and backward, in turn, medians and ratios.

    python -m benchmarks.layers

The locally connected layer of the 13 % net behind its second pool (batch 128), against F.unfold and a loop over its
pixels. float32, one thread. Cost: seconds. Local response normalization is in `python -m benchmarks lrn`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.model.locally_connected import LocallyConnected2d

ROUNDS = 9


def main() -> None:
    """Prints each way's median in milliseconds, and how many times as long it takes as ours."""
    torch.set_num_threads(1)
    local = LocallyConnected2d(64, 32, 3, (6, 6), 1, 1)
    ways = {
        "ours": local,
        "F.unfold": lambda maps: _unfolded(local, maps),
        "a loop over the pixels": lambda maps: _loop(local, maps),
    }
    _compare("locally connected, 128x64x6x6", ways, torch.randn(128, 64, 6, 6, requires_grad=True))


def _compare(title: str, ways: Mapping[str, Callable[[Tensor], Tensor]], maps: Tensor) -> None:
    first = ways["ours"](maps)
    for name, way in ways.items():
        torch.testing.assert_close(way(maps), first, rtol=1e-4, atol=1e-4, msg=f"{name} is another layer")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way(maps).sum().backward()
            times[name].append(1000 * (time.perf_counter() - start))
    print(title)
    ours = statistics.median(times["ours"])
    for name, measured in times.items():
        print(f"  {name:<26}{statistics.median(measured):8.1f} ms{statistics.median(measured) / ours:8.1f} times ours")


def _unfolded(layer: LocallyConnected2d, maps: Tensor) -> Tensor:
    windows = F.unfold(maps, layer.kernel, padding=layer.padding).permute(2, 0, 1)
    weight = layer.weight.permute(0, 1, 4, 2, 3, 5).flatten(2, 4).flatten(0, 1)
    out = torch.bmm(windows, weight) + layer.bias.flatten(0, 1).unsqueeze(1)
    return out.unflatten(0, layer.size).permute(2, 3, 0, 1)


def _loop(layer: LocallyConnected2d, maps: Tensor) -> Tensor:
    padded = F.pad(maps, [layer.padding] * 4)
    height, width = layer.size
    rows = []
    for y in range(height):
        pixels = []
        for x in range(width):
            window = padded[:, :, y : y + layer.kernel, x : x + layer.kernel].permute(0, 2, 3, 1).flatten(1)
            pixels.append(window @ layer.weight[y, x].flatten(0, 2) + layer.bias[y, x])
        rows.append(torch.stack(pixels, dim=-1))
    return torch.stack(rows, dim=-2)


if __name__ == "__main__":
    main()
