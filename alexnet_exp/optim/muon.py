"""Provides Muon: momentum whose update of a weight matrix is orthogonalized."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alexnet_exp.optim.velocity import VelocityOptimizer

# Coefficients of the quintic a x + b x^3 + c x^5, chosen by Jordan et al. so that five iterations bring every singular
# value above about 0.01 to between 0.7 and 1.2.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
EPS = 1e-7


class Muon(VelocityOptimizer):
    """v <- momentum v + g, u = g + momentum v (Nesterov's momentum), then w <- w - lr (weight_decay w + s O(u)).

    Settings: `Muon` of optim/optimizer_spec.py. O is `orthogonalized`, s = sqrt(max(1, rows / columns)), in groups of
    parameters with `orthogonal: True`: a weight [out, ...] is a matrix of `out` rows. With `normalize: True` such a
    weight is scaled to a Frobenius norm of sqrt(out) before each step, in place of the weight decay, and s = 1. In
    other groups O(u) = u and s = 1: SGD with Nesterov's momentum and decoupled weight decay. The state of a parameter
    is `momentum_buffer`, of its shape. Source: Jordan et al., "Muon: an optimizer for hidden layers" (2024), as
    torch.optim.Muon, which takes matrices only; `normalize` is that of their airbench94_muon.py.
    """

    STATE = "momentum_buffer"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        orthogonal: bool = True,
        normalize: bool = False,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "orthogonal": orthogonal, "normalize": normalize})

    def update(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], velocities: list[Tensor]
    ) -> None:
        rate, momentum = group["lr"], group["momentum"]
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, gradients)
        updates = [g.add(v, alpha=momentum) for g, v in zip(gradients, velocities, strict=True)]
        normalizes = group["orthogonal"] and group["normalize"]
        if group["orthogonal"]:
            updates = [_update(each, scaled=not normalizes) for each in updates]
        if normalizes:
            for weight in weights:
                weight.mul_(len(weight) ** 0.5 / (weight.norm() + EPS))
        elif group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-rate)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Returns U S' V^T for a matrix U S V^T, with all singular values S' near 1; zero stays zero. Same shape and type.

    By the Newton-Schulz iteration, in bfloat16: its products are the fastest a processor or GPU has, and the values
    need not be exact. In float64 for a float64 matrix.
    """
    exact = matrix.dtype == torch.float64
    x = matrix if exact else matrix.bfloat16()
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.T if tall else x).to(matrix.dtype)


def _update(update: Tensor, scaled: bool) -> Tensor:
    """Returns the orthogonalized update of a weight [out, ...], in its memory layout, and times s where `scaled`."""
    # The columns are taken in the order of memory, for which no copy is needed: the result does not depend on it.
    order = [0, *range(2, update.ndim), 1]
    matrix = update.permute(order).flatten(1)
    scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5 if scaled else 1.0
    found = (orthogonalized(matrix) * scale).view(update.permute(order).shape)
    return found.permute(0, update.ndim - 1, *range(1, update.ndim - 1))
