"""Builds the tables of a measurement: parts of the step, layers, and time outside of layers.

Values are means over the middle half of the steps by duration. A disturbed step is left out with all its parts, so the
parts sum to the whole, which medians of each part would not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from alexnet_exp.bench.flop import Flop
from alexnet_exp.bench.layers import NETWORK, PREPROCESS, LayerSeconds
from alexnet_exp.bench.steps import FRAMEWORK, Step
from alexnet_exp.bench.timer import AUGMENT, BACKWARD, FORWARD, OPTIMIZER, WAIT

PARTS = (FORWARD, BACKWARD, OPTIMIZER, WAIT, AUGMENT, FRAMEWORK)


def part_rows(steps: list[Step]) -> list[dict[str, Any]]:
    """Returns milliseconds and share of each part of a step."""
    steps = _middle(steps)
    whole = _mean(step.seconds for step in steps)
    return [_row(part, _mean(step.parts.get(part, 0.0) for step in steps), whole) for part in PARTS]


def layer_rows(
    steps: list[Step], kinds: Mapping[str, str], flop: Mapping[str, Flop], images: int
) -> list[dict[str, Any]]:
    """Returns for each layer milliseconds forward and backward, share of the step, GFLOP of `images`, and GFLOP/s.

    In the order of the network. Empty if layers were not measured.
    """
    steps = _middle([step for step in steps if step.layers is not None])
    whole = _mean(step.seconds for step in steps)
    timed = [step.layers for step in steps if step.layers is not None]
    names = [name for name in (timed[0].forward if timed else ()) if name not in (NETWORK, PREPROCESS)]
    rows = []
    for name in names:
        forward = _mean(layers.forward.get(name, 0.0) for layers in timed)
        backward = _mean(layers.backward.get(name, 0.0) for layers in timed)
        first = name.partition("+")[0]  # the layer of a fused kernel
        gflop = flop[first].all * images / 1e9 if first in flop else None
        both = forward + backward
        rows.append(
            {
                "name": name,
                "kind": kinds.get(first, ""),
                "forward_ms": 1e3 * forward,
                "backward_ms": 1e3 * backward,
                "share": both / whole if whole else 0.0,
                "gflop": gflop,
                "gflops": gflop / both if gflop and both else None,
            }
        )
    return rows


def outside_rows(steps: list[Step]) -> list[dict[str, Any]]:
    """Returns milliseconds and share of what is in no layer, from the steps with measured layers."""
    steps = _middle([step for step in steps if step.layers is not None])
    timed = [(step, step.layers) for step in steps if step.layers is not None]
    whole = _mean(step.seconds for step, _ in timed)
    rest: dict[str, Callable[[Step, LayerSeconds], float]] = {
        "preprocessing": lambda _, layers: layers.forward.get(PREPROCESS, 0.0),
        "between the layers": lambda _, layers: layers.forward[NETWORK] - _of_layers(layers.forward),
        "loss and metrics": lambda step, layers: (
            step.parts.get(FORWARD, 0.0) - layers.forward[NETWORK] - layers.forward.get(PREPROCESS, 0.0)
        ),
        "backward in no layer": lambda step, layers: step.parts.get(BACKWARD, 0.0) - sum(layers.backward.values()),
    }
    rows = [_row(name, _mean(of(step, layers) for step, layers in timed), whole) for name, of in rest.items()]
    others = (OPTIMIZER, WAIT, AUGMENT, FRAMEWORK)
    rows += [_row(part, _mean(step.parts.get(part, 0.0) for step, _ in timed), whole) for part in others]
    return rows if timed else []


def _of_layers(forward: Mapping[str, float]) -> float:
    return sum(seconds for name, seconds in forward.items() if name not in (NETWORK, PREPROCESS))


def _middle(steps: list[Step]) -> list[Step]:
    """Returns the steps without the shortest and the longest quarter."""
    cut = len(steps) // 4
    return sorted(steps, key=lambda step: step.seconds)[cut : len(steps) - cut]


def _row(name: str, seconds: float, whole: float) -> dict[str, Any]:
    seconds = max(0.0, seconds)  # a difference of two times may be negative by rounding
    return {"name": name, "ms": 1e3 * seconds, "share": seconds / whole if whole else 0.0}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.fmean(found) if found else 0.0
