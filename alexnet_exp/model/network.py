"""The network, built from its stages."""

from __future__ import annotations

from torch import Tensor, nn

from alexnet_exp.model.locally_connected import LocallyConnected2d
from alexnet_exp.model.lrn import LRN, WithinMapNorm
from alexnet_exp.model.shapes import POOLING, Part, parts
from alexnet_exp.model.spec import Activation, Columns, DropoutScale, Init, Network, Norm, Stage
from alexnet_exp.model.stage import FusedStage
from alexnet_exp.model.weights import rename_torchvision

ACTIVATIONS = {Activation.tanh: nn.Tanh, Activation.sigmoid: nn.Sigmoid}


class AlexNet(nn.Sequential):
    """The network of a completed `spec`: preprocessed float [N, in_channels, H, W] to logits [N, num_classes].

    A child for each stage, so that parameters are named by it, whatever norm, pooling or dropout are:
    conv1.conv.weight, conv1.norm.weight, fc8.fc.bias. torchvision's state_dict loads too, its keys renamed on the
    way in. Raises `Refused` when the input size leaves nothing behind a stage.
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
    """The dropout of 2012: a 0/1 mask in training, every unit times 1 - p at test (torch's scales in training)."""

    def forward(self, input: Tensor) -> Tensor:
        return (1 - self.p) * super().forward(input)


def _module(part: Part, spec: Network) -> nn.Module:
    stage, channels = part.stage, part.before[0]
    kernel, stride = POOLING[spec.pool]
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
            # In place behind its layer, which no longer needs the values; never on the input of a stage.
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
    # Glorot's and He's deviations follow from what one unit sees: of a locally connected layer, one pixel's weights.
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
