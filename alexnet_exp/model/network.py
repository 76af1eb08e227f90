"""Provides `AlexNet`: a network's settings, from YAML to stages to torch modules.

    conf/model/paper.yaml    stages: {conv1: {out: 96, kernel: 11, ..., then: [act, norm, pool]}, ...}
    model/spec.py            Network.stages["conv1"]: a Stage; settings are checked here, without torch
    model/shapes.py          parts(spec): a Part for each slot of each stage, with the shapes before and after it
    model/network.py         AlexNet(spec): a child for each stage, in it a module for each slot: network.conv1.norm

The paper's network, one line a module, as `python -m alexnet_exp summary model=paper` prints it:

    layer         kind                output    parameters   multiply-adds  memory/image
    conv1.pad     pad              3x227x227             -               -      603.9 kB
    conv1.conv    conv              96x55x55        34,944     105,415,200        1.1 MB
    conv1.act     relu              96x55x55             -               -        1.1 MB
    conv1.norm    lrn               96x55x55             -               -        1.1 MB
    conv1.pool    pool              96x27x27             -               -      273.4 kB
    conv2.conv    conv             256x27x27       307,456     223,948,800      729.0 kB
    conv2.act     relu             256x27x27             -               -      729.0 kB
    conv2.norm    lrn              256x27x27             -               -      729.0 kB
    conv2.pool    pool             256x13x13             -               -      169.0 kB
    conv3.conv    conv             384x13x13       885,120     149,520,384      253.5 kB
    conv3.act     relu             384x13x13             -               -      253.5 kB
    conv4.conv    conv             384x13x13       663,936     112,140,288      253.5 kB
    conv4.act     relu             384x13x13             -               -      253.5 kB
    conv5.conv    conv             256x13x13       442,624      74,760,192      169.0 kB
    conv5.act     relu             256x13x13             -               -      169.0 kB
    conv5.pool    pool               256x6x6             -               -       36.0 kB
    fc6.flat      flat                  9216             -               -       36.0 kB
    fc6.fc        fc                    4096    37,752,832      37,748,736       16.0 kB
    fc6.act       relu                  4096             -               -       16.0 kB
    fc6.drop      drop                  4096             -               -       16.0 kB
    fc7.fc        fc                    4096    16,781,312      16,777,216       16.0 kB
    fc7.act       relu                  4096             -               -       16.0 kB
    fc7.drop      drop                  4096             -               -       16.0 kB
    fc8.fc        fc                    1000     4,097,000       4,096,000        3.9 kB

The module of each slot, and the settings in model/spec.py that configure it:

    slot      settings                          module
    pad       Stage.pad (four numbers)          nn.ZeroPad2d
    conv      Stage.kernel, stride, columns     nn.Conv2d
    local     Stage.local                       LocallyConnected2d (model/locally_connected.py)
    flat      none                              nn.Flatten
    fc        Stage.out (without a kernel)      nn.Linear
    act       Network.activation                nn.ReLU, nn.Tanh, nn.Sigmoid
    norm      Network.norm, lrn, bn             LRN (model/lrn.py), nn.BatchNorm2d, nn.BatchNorm1d
    mapnorm   Network.within_map                WithinMapNorm (model/lrn.py)
    pool      Network.pool, pool_ceil           nn.MaxPool2d
    avg       Network.pool, pool_ceil           nn.AvgPool2d
    to6       none                              nn.AdaptiveAvgPool2d
    drop      Network.dropout, dropout_scale    nn.Dropout, MaskDropout (model/network.py)
"""

from __future__ import annotations

from torch import Tensor, nn

from alexnet_exp.model.locally_connected import LocallyConnected2d
from alexnet_exp.model.lrn import LRN, WithinMapNorm
from alexnet_exp.model.shapes import POOL_WINDOWS, Part, parts
from alexnet_exp.model.spec import Activation, Columns, DropoutScale, Init, Network, Norm, Stage
from alexnet_exp.model.stage import FusedStage
from alexnet_exp.model.weights import rename_torchvision

ACTIVATIONS = {Activation.tanh: nn.Tanh, Activation.sigmoid: nn.Sigmoid}


class AlexNet(nn.Sequential):
    """The network of a completed `spec`: preprocessed float [N, in_channels, H, W] to logits [N, num_classes].

    Settings: `Network` of model/spec.py (`model` in YAML). Parameters are named by stage and slot, independently of
    norm, pooling and dropout: conv1.conv.weight, conv1.norm.weight, fc8.fc.bias. `load_state_dict` accepts
    torchvision's keys too. Raises `Refused` where no pixels are left after a stage.
    """

    def __init__(self, spec: Network):
        super().__init__()
        self.spec = spec
        for part in parts(spec):
            if part.stage_name not in self._modules:
                self.add_module(part.stage_name, FusedStage())
            self.get_submodule(part.stage_name).add_module(part.slot, _module(part, spec))
        self.register_load_state_dict_pre_hook(rename_torchvision)  # type: ignore[no-untyped-call]


class MaskDropout(nn.Dropout):
    """The dropout of 2012: a 0/1 mask in training, every unit times 1 - p at test (torch's scales in training).

    Settings: `DropoutScale` and `Network.dropout` of model/spec.py.
    """

    def forward(self, input: Tensor) -> Tensor:
        return (1 - self.p) * super().forward(input)


def _module(part: Part, spec: Network) -> nn.Module:
    stage, channels = part.stage, part.before[0]
    kernel, stride = POOL_WINDOWS[spec.pool]
    match part.slot:
        case "pad":
            left, right, top, bottom = stage.pad
            return nn.ZeroPad2d((left, right, top, bottom))
        case "conv":
            return _conv(stage, channels, spec)
        case "local":
            return _local(part, spec)
        case "flat":
            return nn.Flatten()
        case "fc":
            return _initialized(nn.Linear(channels, part.after[0]), stage, spec.init)
        case "act":
            # In place after its layer, whose backward pass does not need the values; never on the input of a stage.
            return ACTIVATIONS[spec.activation]() if spec.activation in ACTIVATIONS else nn.ReLU("act" in stage.then)
        case "norm":
            return _norm(part, spec)
        case "mapnorm":
            return WithinMapNorm(**vars(spec.within_map))
        case "pool":
            return nn.MaxPool2d(kernel, stride, ceil_mode=spec.pool_ceil)
        case "avg":
            return nn.AvgPool2d(kernel, stride, ceil_mode=spec.pool_ceil, count_include_pad=False)
        case "to6":
            return nn.AdaptiveAvgPool2d(6)
        case "drop":
            return (MaskDropout if spec.dropout_scale == DropoutScale.mask else nn.Dropout)(spec.dropout)
    raise ValueError(f"no module for the slot {part.slot}")


def _conv(stage: Stage, channels: int, spec: Network) -> nn.Module:
    assert stage.out is not None
    assert stage.kernel is not None
    pad = stage.pad[0] if len(stage.pad) == 1 else 0
    groups = spec.groups if stage.columns == Columns.own else 1
    conv = nn.Conv2d(channels, stage.out, stage.kernel, stage.stride, pad, groups=groups)
    conv.weight.requires_grad_(not stage.whiten)
    return _initialized(conv, stage, spec.init)


def _local(part: Part, spec: Network) -> nn.Module:
    stage, (channels, _, _), (out, height, width) = part.stage, part.before, part.after
    assert stage.kernel is not None
    pad = stage.pad[0] if len(stage.pad) == 1 else 0
    local = LocallyConnected2d(channels, out, stage.kernel, (height, width), stage.stride, pad)
    return _initialized(local, stage, spec.init)


def _norm(part: Part, spec: Network) -> nn.Module:
    if spec.norm == Norm.lrn:
        return LRN(**vars(spec.lrn), columns=spec.groups)
    batch_norm = nn.BatchNorm2d if len(part.before) == 3 else nn.BatchNorm1d
    return batch_norm(part.before[0], eps=spec.bn.eps, momentum=spec.bn.momentum)


def _initialized(layer: nn.Conv2d | nn.Linear | LocallyConnected2d, stage: Stage, init: Init) -> nn.Module:
    assert layer.bias is not None
    if init != Init.torch:
        nn.init.zeros_(layer.bias)
    # Glorot's and He's deviations depend on the fan-in of one unit: in a locally connected layer, one pixel's weights.
    for weight in layer.pixels() if isinstance(layer, LocallyConnected2d) else [layer.weight]:
        if init == Init.glorot:
            nn.init.xavier_uniform_(weight)
        if init == Init.he:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
    if stage.std is not None:
        nn.init.normal_(layer.weight, std=stage.std)
    if stage.bias is not None:
        nn.init.constant_(layer.bias, stage.bias)
    return layer
