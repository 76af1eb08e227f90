"""The least time that a training step can take: of each layer its FLOP at the best rate, or its bytes as copied.

Generous to the processor: activations, pooling, dropout and norms are counted as if fused into the layer before them,
and each map is read and written once. No implementation gets there; the share of it says how much is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from alexnet_exp.bench.flop import counted
from alexnet_exp.model.cost import Layer

HALF = 2  # bytes of a value in bf16
WEIGHTS = 3 * HALF  # of each: read forward, read backward, and its gradient is written
MOMENTUM = 20  # bytes of a weight's update: weight, gradient and momentum read, two of them written, in float32


def floor(
    table: Iterable[Layer],
    image: tuple[int, ...],
    batch: int,
    flop_per_s: float,
    bytes_per_s: float,
    update: int = MOMENTUM,
) -> float:
    """Seconds of a step of `batch` images of shape `image`, in bf16; update: the optimizer's bytes a parameter."""
    layers = list(table)
    flop = counted(layers)
    seconds, values = 0.0, math.prod(image)
    for number, layer in enumerate(layers):
        after = math.prod(layer.shape)
        if layer.name in flop:
            # forward: in, out; backward: in again, the gradient of out, and that of in but for the images
            maps = 2 * values + 2 * after + (values if number else 0)
            moved = HALF * batch * maps + (WEIGHTS + update) * layer.parameters
            seconds += max(batch * flop[layer.name].all / flop_per_s, moved / bytes_per_s)
        values = after
    return seconds
