"""Provides the optimizer of 2012: gradient descent whose learning rate is inside the velocity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class KrizhevskySGD(torch.optim.Optimizer):
    """v <- momentum v - weight_decay lr w - lr g, then w <- w + v (section 5 of the paper of 2012).

    Settings: `Krizhevsky` of optim/optimizer_spec.py. torch.optim.SGD accumulates v without the rate and multiplies it
    by the current rate: equal while the rate is constant. After a drop the velocity here still contains steps at the
    old rate. The state of each parameter is `velocity`, of its shape.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters and returns the loss of `closure`; parameters without a gradient do not change."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            velocities = [self._velocity(weight) for weight in weights]
            rate, decay = group["lr"], group["weight_decay"]
            torch._foreach_mul_(velocities, group["momentum"])
            if decay:
                torch._foreach_add_(velocities, weights, alpha=-decay * rate)
            torch._foreach_add_(velocities, gradients, alpha=-rate)
            torch._foreach_add_(weights, velocities)
        return loss

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        velocity: Tensor = state["velocity"]
        return velocity
