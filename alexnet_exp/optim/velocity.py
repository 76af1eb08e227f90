"""Provides the loop of an optimizer that keeps one velocity for each parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor


class VelocityOptimizer(torch.optim.Optimizer):
    """Calls `update` for each group of parameters that has gradients. The state of a parameter has its shape."""

    STATE: ClassVar[str]  # key of the velocity in the state, and so in checkpoints

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters and returns the loss of `closure`; parameters without a gradient do not change."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if weights:
                gradients = [weight.grad for weight in weights if weight.grad is not None]
                self.update(group, weights, gradients, [self._velocity(weight) for weight in weights])
        return loss

    def update(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], velocities: list[Tensor]
    ) -> None:
        """Changes velocities and weights of a group in place."""
        raise NotImplementedError

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if self.STATE not in state:
            state[self.STATE] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        velocity: Tensor = state[self.STATE]
        return velocity
