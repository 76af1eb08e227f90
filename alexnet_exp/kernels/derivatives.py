"""Provides decorators for the backward pass of operators whose kernels have no second derivative."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., Any]


def differentiable(backward: Backward) -> Backward:
    """Returns `backward` of an autograd.Function, with torch's operators under `create_graph=True`.

    Where `ctx.by_torch` is set, it is a function that returns the operator's result by torch's operators, of its first
    arguments: the first saved tensors, as many as `ctx.operands`. Without it, `backward` itself uses operators of torch
    while gradients are recorded.
    """

    @wraps(backward)
    def chosen(ctx: Any, gradient: Tensor) -> Any:
        if not torch.is_grad_enabled() or getattr(ctx, "by_torch", None) is None:
            return backward(ctx, gradient)
        operands = ctx.saved_tensors[: ctx.operands]
        needed = [each for each, need in zip(operands, ctx.needs_input_grad, strict=False) if need]
        found = iter(torch.autograd.grad(ctx.by_torch(*operands), needed, gradient, create_graph=True))
        return tuple(next(found) if need else None for need in ctx.needs_input_grad)

    return chosen


def first_order(backward: Backward) -> Backward:
    """Returns `backward` of an autograd.Function, raising RuntimeError under `create_graph=True`.

    torch's `once_differentiable` raises only where the incoming gradient requires a gradient itself. For a plain loss
    it returns a constant, and a penalty on the gradient would have no effect.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            name = backward.__qualname__.removesuffix(".backward").lstrip("_")
            raise RuntimeError(
                f"create_graph=True: {name} has no second derivative; use one device or trainer.strategy=ddp"
            )
        return backward(ctx, *gradients)

    return checked
