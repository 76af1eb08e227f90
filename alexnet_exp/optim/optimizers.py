"""Provides torch's optimizer of a network's parameters, from the settings in optimizer_spec.py."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from alexnet_exp.errors import UserError, suggest_name
from alexnet_exp.optim.krizhevsky import KrizhevskySGD
from alexnet_exp.optim.muon import Muon
from alexnet_exp.optim.optimizer_spec import Adam, AdamW, EpsMode, Krizhevsky, Optimizer, Sgd
from alexnet_exp.optim.optimizer_spec import Muon as MuonSpec
from alexnet_exp.optim.schedule_spec import Constant, Schedule
from alexnet_exp.optim.schedules import WHOLE_SCHEDULE, SchedulePart, is_bias, part_of

# The devices that torch has fused optimizers for; torch itself checks them only at the first step.
FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def build_optimizer(
    spec: Optimizer, network: nn.Module, fused: bool = True, schedule: Schedule | None = None
) -> torch.optim.Optimizer:
    """Returns the optimizer of the trainable parameters of `network`, which must already be on its device.

    Its parameter groups are those of `parameter_groups`. Fused where torch has a fused kernel for the device, else
    foreach. `fused=False` disables the fused kernels: under mixed precision they unscale gradients inside the step,
    after clipping, so Lightning rejects clipping with them. Raises UserError where nothing is trainable, or a setting
    names a layer that the network does not have.
    """
    groups = parameter_groups(spec, network, schedule)
    devices = {p.device.type for group in groups for p in group["params"]}
    fused, on_cpu = fused and devices <= FUSED_DEVICES, devices == {"cpu"}
    options: dict[str, Any] = {"lr": spec.lr, "fused": fused, "foreach": not fused}
    if isinstance(spec, Sgd):
        return torch.optim.SGD(groups, momentum=spec.momentum, nesterov=spec.nesterov, **options)
    if isinstance(spec, Krizhevsky):
        return KrizhevskySGD(groups, lr=spec.lr, momentum=spec.momentum)
    if isinstance(spec, MuonSpec):
        return Muon(_by_shape(groups, network, spec.other_lr), spec.lr, spec.momentum, normalize=spec.normalize)
    assert isinstance(spec, Adam)
    kind = torch.optim.AdamW if isinstance(spec, AdamW) else torch.optim.Adam
    if spec.eps_mode is EpsMode.keras and not on_cpu:
        options |= {
            "fused": False,
            "foreach": True,
        }  # the fused step keeps its count on the device
    optimizer = kind(groups, betas=(spec.betas[0], spec.betas[1]), eps=spec.eps, **options)
    if spec.eps_mode is EpsMode.keras:
        optimizer.register_step_pre_hook(partial(_set_keras_eps, spec.eps))
    return optimizer


def _by_shape(groups: list[dict[str, Any]], network: nn.Module, other_lr: float) -> list[dict[str, Any]]:
    """Returns the groups, each divided into the weight matrices that Muon orthogonalizes and the other parameters.

    Weights of the last layer are not orthogonalized: each of its rows belongs to one class. The rate of the other
    parameters is multiplied by `other_lr`.
    """
    weights = [(name, each) for name, each in network.named_parameters() if each.ndim > 1 and not is_bias(name)]
    matrices = {id(each) for _, each in weights[:-1]}
    divided = []
    for group in groups:
        for orthogonal in (True, False):
            found = [each for each in group["params"] if (id(each) in matrices) == orthogonal]
            rate = group["lr"] * (1 if orthogonal else other_lr)
            divided += [{**group, "params": found, "lr": rate, "orthogonal": orthogonal}] if found else []
    return divided


def _set_keras_eps(eps: float, optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Sets the eps of the next step so that torch's Adam takes Keras's step: eps / sqrt(1 - beta2^t).

    t is the optimizer's own count of steps, without skipped ones; a group has that of its first parameter.
    """
    for group in optimizer.param_groups:
        state: dict[str, Any] = next((optimizer.state[p] for p in group["params"] if optimizer.state.get(p)), {})
        step = 1 + float(state.get("step", 0))
        group["eps"] = eps / math.sqrt(1 - group["betas"][1] ** step)


def parameter_groups(spec: Optimizer, network: nn.Module, schedule: Schedule | None = None) -> list[dict[str, Any]]:
    """Returns the trainable parameters, a group for each learning rate and weight decay that occur; weights first.

    Parameters with stages of their own in `schedule` are in separate groups. A bias is identified by its name, and the
    gain of a norm by having one number for each channel. Neither has weight decay unless `decay_norm_and_bias` is true.
    A layer of `spec.layers` is the child of the network of that name: a stage. Raises UserError where the network does
    not have that child, or has nothing to train.
    """
    schedule = schedule or Constant()
    children = {name for name, _ in network.named_children()}
    for key, layers in (("optim", spec.layers), ("schedule", schedule.layers)):
        for name in layers:
            if name not in children:
                message = f"{key}.layers.{name}: not a layer of the network; {suggest_name(name, sorted(children))}"
                raise UserError(message)
    groups: dict[tuple[bool, float, float, SchedulePart], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        layer = spec.layer(name.partition(".")[0])
        bias = is_bias(name)
        exempt = (bias or parameter.ndim <= 1) and not spec.decay_norm_and_bias
        decay = spec.weight_decay if layer.weight_decay is None else layer.weight_decay
        rate = spec.lr * layer.lr * (spec.bias_lr if bias else 1)
        if parameter.requires_grad:
            key_of = (exempt, rate, 0.0 if exempt else decay, part_of(schedule, name))
            groups.setdefault(key_of, []).append(parameter)
    if not groups:
        raise UserError("the network has no trainable parameter; unfreeze a layer")
    # The rate of the first group is logged: that of weights at optim.lr that follow the schedule alone, if there are
    # any.
    in_order = sorted(
        groups.items(), key=lambda group: (group[0][0], group[0][1] != spec.lr, group[0][3] != WHOLE_SCHEDULE)
    )
    return [{"params": found, "lr": rate, "weight_decay": decay} for (_, rate, decay, _), found in in_order]


def parts_of(optimizer: torch.optim.Optimizer, network: nn.Module, schedule: Schedule) -> list[SchedulePart]:
    """Returns the part of `schedule` of each parameter group; `optimizer` is from `build_optimizer`."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [part_of(schedule, names[id(group["params"][0])]) for group in optimizer.param_groups]
