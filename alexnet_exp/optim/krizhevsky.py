"""Provides the optimizer of 2012: gradient descent whose learning rate is inside the velocity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alexnet_exp.optim.velocity import VelocityOptimizer


class KrizhevskySGD(VelocityOptimizer):
    """v <- momentum v - weight_decay lr w - lr g, then w <- w + v (section 5 of the paper of 2012).

    Settings: `Krizhevsky` of optim/optimizer_spec.py. torch.optim.SGD accumulates v without the rate and multiplies it
    by the current rate: equal while the rate is constant. After a drop the velocity here still contains steps at the
    old rate. The state of each parameter is `velocity`, of its shape.
    """

    STATE = "velocity"

    def __init__(self, params: Iterable[Any], lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def update(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], velocities: list[Tensor]
    ) -> None:
        rate, decay = group["lr"], group["weight_decay"]
        torch._foreach_mul_(velocities, group["momentum"])
        if decay:
            torch._foreach_add_(velocities, weights, alpha=-decay * rate)
        torch._foreach_add_(velocities, gradients, alpha=-rate)
        torch._foreach_add_(weights, velocities)
