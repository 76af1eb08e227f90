"""Provides an optimizer of your own, a subclass of `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class Signum(torch.optim.Optimizer):
    """Steps by the sign of the momentum (Bernstein et al., 2018): every weight changes by `lr`, for any gradient.

    The run passes the parameters first; the other arguments come from the configuration. A schedule multiplies `lr`.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-3, momentum: float = 0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                parameter.sub_(average.sign(), alpha=group["lr"])
        return loss
