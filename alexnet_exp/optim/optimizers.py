"""From an optimizer's settings to torch's optimizer over a network's parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from alexnet_exp.optim.spec import Adam, AdamW, Optimizer, Sgd
from alexnet_exp.settings import UserError

# torch itself checks a device for its fused kernels only at the first step, which is late
FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def build_optimizer(spec: Optimizer, network: nn.Module, fused: bool = True) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters of `network`, which must already lie on its device.

    Fused where torch has a fused kernel for that device, else foreach. `fused=False` leaves out the fused kernels:
    under mixed precision they unscale gradients inside the step, after clipping, so Lightning refuses to clip for them.
    Raises UserError when nothing is trainable.
    """
    groups = parameter_groups(spec, network)
    fused = fused and {p.device.type for group in groups for p in group["params"]} <= FUSED_DEVICES
    options: dict[str, Any] = {"lr": spec.lr, "fused": fused, "foreach": not fused}
    if isinstance(spec, Sgd):
        return torch.optim.SGD(groups, momentum=spec.momentum, nesterov=spec.nesterov, **options)
    assert isinstance(spec, Adam)
    optimizer = torch.optim.AdamW if isinstance(spec, AdamW) else torch.optim.Adam
    return optimizer(groups, betas=(spec.betas[0], spec.betas[1]), eps=spec.eps, **options)


def parameter_groups(spec: Optimizer, network: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters in up to two groups: those that decay, and biases and norm gains, which do not.

    A bias is known by its name, whatever its shape; a norm's gain by being one number a channel.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            exempt = name.rpartition(".")[2] == "bias" or parameter.ndim <= 1
            (undecayed if exempt and not spec.decay_norm_and_bias else decayed).append(parameter)
    if not decayed and not undecayed:
        raise UserError("the network has no trainable parameter, so there is nothing to optimise")
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
