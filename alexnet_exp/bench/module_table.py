"""Builds the layer table of a user's network: its modules, outputs and cost, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_exp.bench.flop import REST, counted_by_running
from alexnet_exp.bench.layers import leaves
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.model.completion import Ends
from alexnet_exp.model.cost import Layer
from alexnet_exp.training.build import build_network


def module_table(spec: UserClass, ends: Ends) -> tuple[list[Layer], str]:
    """Returns one row for each module without submodules, and why the network could not be run ("" if it could).

    The shape of a module that was not called is empty. If the network cannot be run, only parameters are counted. It is
    built and run on torch's meta device, without memory for its values, if its class allows that.
    """
    try:
        return _table(spec, ends, "meta")
    except Exception:  # a user's class may not support the meta device
        return _table(spec, ends, None)


def _table(spec: UserClass, ends: Ends, device: str | None) -> tuple[list[Layer], str]:
    with torch.device(device) if device else nullcontext():
        network, _ = build_network(spec, ends)
    shapes: dict[str, tuple[int, ...]] = {}
    multiplied: dict[str, int] = {}
    failed = ""
    if ends.input_size is None:
        failed = "the image size is unknown"
    else:
        handles = [leaf.register_forward_hook(_noted(shapes, name)) for name, leaf in leaves(network).items()]
        try:
            flop = counted_by_running(network, ends.in_channels, ends.input_size)
            multiplied = {name: each.forward // 2 for name, each in flop.items()}
        except Exception as error:
            if device is not None:
                raise
            failed = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        for handle in handles:
            handle.remove()
    rows = [
        Layer(name, type(leaf).__name__, shapes.get(name, ()), *_sizes(leaf), multiply_adds=multiplied.pop(name, 0))
        for name, leaf in leaves(network).items()
    ]
    parameters, trainable = _sizes(network)
    rest = parameters - sum(row.parameters for row in rows)
    if rest or multiplied:
        learned = trainable - sum(row.trainable_parameters for row in rows)
        rows.append(Layer(REST, "", (), rest, learned, multiply_adds=sum(multiplied.values())))
    return rows, failed


def _noted(shapes: dict[str, tuple[int, ...]], name: str) -> Callable[..., None]:
    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[name] = tuple(output.shape[1:])

    return note


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Returns the numbers of all and of trainable parameters."""
    parameters = list(module.parameters())
    return sum(each.numel() for each in parameters), sum(each.numel() for each in parameters if each.requires_grad)
