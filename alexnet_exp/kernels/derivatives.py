"""Gradients that cannot be differentiated again, and say so."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The `backward` of an autograd.Function whose gradient has no graph; raises RuntimeError for `create_graph=True`.

    torch's `once_differentiable` raises only where the incoming gradient requires a gradient itself. For a plain loss
    it returns a constant, and a penalty on it would be ignored.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            name = backward.__qualname__.removesuffix(".backward").lstrip("_")
            raise RuntimeError(
                f"create_graph=True: {name} has no second derivative; "
                "set ALEXNET_EXP_NATIVE=0 and train on one device or by trainer.strategy=ddp"
            )
        return backward(ctx, *gradients)

    return checked
