"""From an optimizer's settings to torch's optimizer over a network's parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from alexnet_exp.optim.krizhevsky import KrizhevskySGD
from alexnet_exp.optim.spec import Adam, AdamW, Krizhevsky, Optimizer, Sgd
from alexnet_exp.settings import UserError, one_of

# torch itself checks a device for its fused kernels only at the first step, which is late
FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def build_optimizer(spec: Optimizer, network: nn.Module, fused: bool = True) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters of `network`, which must already lie on its device.

    Fused where torch has a fused kernel for that device, else foreach. `fused=False` leaves out the fused kernels:
    under mixed precision they unscale gradients inside the step, after clipping, so Lightning refuses to clip for them.
    Raises UserError when nothing is trainable, or a layer is named that is not there.
    """
    groups = parameter_groups(spec, network)
    fused = fused and {p.device.type for group in groups for p in group["params"]} <= FUSED_DEVICES
    options: dict[str, Any] = {"lr": spec.lr, "fused": fused, "foreach": not fused}
    if isinstance(spec, Sgd):
        return torch.optim.SGD(groups, momentum=spec.momentum, nesterov=spec.nesterov, **options)
    if isinstance(spec, Krizhevsky):
        return KrizhevskySGD(groups, lr=spec.lr, momentum=spec.momentum)
    assert isinstance(spec, Adam)
    optimizer = torch.optim.AdamW if isinstance(spec, AdamW) else torch.optim.Adam
    return optimizer(groups, betas=(spec.betas[0], spec.betas[1]), eps=spec.eps, **options)


def parameter_groups(spec: Optimizer, network: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters, a group for each learning rate and weight decay that occur; weights come first.

    A bias is known by its name, whatever its shape; a norm's gain by being one number a channel. Neither decays,
    unless `decay_norm_and_bias` says so. A layer of `spec.layers` is the child of the network of that name, as our
    networks' stages are. Raises UserError where there is no such child, or nothing to train.
    """
    children = {name for name, _ in network.named_children()}
    for name in spec.layers:
        if name not in children:
            raise UserError(f"optim.layers.{name}: the network has no such layer; {one_of(name, sorted(children))}")
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        layer = spec.layer(name.partition(".")[0])
        bias = name.rpartition(".")[2] == "bias"
        exempt = (bias or parameter.ndim <= 1) and not spec.decay_norm_and_bias
        decay = spec.weight_decay if layer.weight_decay is None else layer.weight_decay
        rate = spec.lr * layer.lr * (spec.bias_lr if bias else 1)
        if parameter.requires_grad:
            groups.setdefault((exempt, rate, 0.0 if exempt else decay), []).append(parameter)
    if not groups:
        raise UserError("the network has no trainable parameter, so there is nothing to optimise")
    # the first group's rate is the one that is logged: that of weights, at optim.lr where any layer learns at it
    in_order = sorted(groups.items(), key=lambda group: (group[0][0], group[0][1] != spec.lr))
    return [{"params": found, "lr": rate, "weight_decay": decay} for (_, rate, decay), found in in_order]
