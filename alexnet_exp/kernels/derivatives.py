"""Provides a decorator that rejects second derivatives of kernels that have none."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `backward` of an autograd.Function, raising RuntimeError under `create_graph=True`.

    torch's `once_differentiable` raises only where the incoming gradient requires a gradient itself. For a plain loss
    it returns a constant, and a penalty on the gradient would have no effect.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            name = backward.__qualname__.removesuffix(".backward").lstrip("_")
            raise RuntimeError(
                f"create_graph=True: {name} has no second derivative; "
                "set ALEXNET_EXP_NATIVE=0 and use one device or trainer.strategy=ddp"
            )
        return backward(ctx, *gradients)

    return checked
