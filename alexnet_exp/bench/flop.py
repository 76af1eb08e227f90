"""Counts the FLOP of a training step: 2 per multiply-add of convolutions and matrix products, and nothing else.

Per image a step has the forward pass, the gradient of each layer's weights and the gradient of its input. The input of
the first layer is the image, which needs no gradient. Normalization, pooling and activations are not counted, as is
common practice; because of them a step cannot reach the peak.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from alexnet_exp.bench.layers import leaves
from alexnet_exp.model.cost import Layer

REST = "(in no module)"  # products that a user's network computes outside of its modules


@dataclass(frozen=True)
class Flop:
    """FLOP of one layer for one image."""

    forward: int
    backward: int

    @property
    def all(self) -> int:
        return self.forward + self.backward


def counted(table: Iterable[Layer]) -> dict[str, Flop]:
    """Returns the FLOP of a training image for each layer with multiply-adds."""
    found: dict[str, Flop] = {}
    for layer in table:
        if layer.multiply_adds:
            once = 2 * layer.multiply_adds
            found[layer.name] = Flop(once, 2 * once if found else once)
    return found


def counted_by_running(network: nn.Module, channels: int, size: int) -> dict[str, Flop]:
    """Returns the same for any network: torch counts the forward pass of two zero images of `size` pixels per module.

    The backward pass is derived from it and not run: torch's count of it ignores the groups of a convolution, and adds
    what belongs to one branch to another. The running statistics of batch norm are restored.
    """
    first = next(network.parameters())
    images = torch.zeros(2, channels, size, size, device=first.device, dtype=first.dtype)  # batch norm needs two images
    state = {key: value.clone() for key, value in network.state_dict().items()}
    mode = FlopCounterMode(display=False)
    found: dict[str, Flop] = {}
    began: dict[str, int] = {}

    def before(name: str) -> Any:
        return lambda _module, _inputs: began.update({name: mode.get_total_flops()})

    def after(name: str) -> Any:
        def count(module: nn.Module, inputs: Any, _output: Any) -> None:
            once = (mode.get_total_flops() - began[name]) // len(images)
            learned = any(parameter.requires_grad for parameter in module.parameters())
            passed = any(getattr(each, "requires_grad", False) for each in inputs)
            if once:
                earlier = found.get(name, Flop(0, 0))  # a module may be used twice
                found[name] = Flop(earlier.forward + once, earlier.backward + once * (learned + passed))

        return count

    handles = []
    for name, module in leaves(network).items():
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    try:
        with torch.random.fork_rng(), mode:
            network(images)
    finally:
        for handle in handles:
            handle.remove()
        network.load_state_dict(state)
    rest = mode.get_total_flops() // len(images) - sum(flop.forward for flop in found.values())
    return found | ({REST: Flop(rest, 2 * rest)} if rest else {})
