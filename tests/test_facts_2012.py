"""The facts of the 2012 network, one test a line of them, each against a reference of its own.

The references are written from the facts alone: the paper of 2012, its author's code, torchvision, a tutorial. They use
torch.nn.functional on each column apart, loops over maps and windows, or numbers counted by hand.
"""

from __future__ import annotations

import copy
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import alexnet

from alexnet_exp.cli.summary import CONNECTIONS_NOTE
from alexnet_exp.config.compose import compose as compose_all
from alexnet_exp.config.schema import Config, Loss
from alexnet_exp.config.validate import validate
from alexnet_exp.data.augment import crop_views
from alexnet_exp.data.colour import IMAGENET_COLOUR, add_colour_noise
from alexnet_exp.data.decode import read_image
from alexnet_exp.data.spec import ImageNet, Pca, Random
from alexnet_exp.model.cost import layers, totals
from alexnet_exp.model.lrn import LRN
from alexnet_exp.model.network import AlexNet, MaskDropout
from alexnet_exp.model.preprocess import Preprocess, Statistics
from alexnet_exp.model.spec import Convention, Input, Scale
from alexnet_exp.optim.optimizer_spec import Adam, EpsMode, Krizhevsky
from alexnet_exp.optim.optimizers import build_optimizer, parameter_groups, parts_of
from alexnet_exp.optim.schedule_spec import Constant, Plateau, Steps
from alexnet_exp.optim.schedules import curve, plateau_factor
from alexnet_exp.paths import conf_dir
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.module import AlexNetModule
from tests.model.by_hand import average_pool_by_hand, by_the_pixel, lrn_by_the_formula, within_map_by_the_formula
from tests.model.conftest import closed

BOTH = pytest.mark.parametrize("variant", ["paper", "code"])
WIDTH = 0.125  # of the whole network's maps: 12, 32, 48, 48, 32 and 512 units, in two columns


@cache
def full(variant: str, *overrides: str) -> AlexNet:
    """The whole network, without memory for its weights: shapes only."""
    with torch.device("meta"):
        return AlexNet(closed(variant, *overrides))


@cache
def small(variant: str) -> AlexNet:
    """An eighth of the width, in float64, ready for a test."""
    torch.manual_seed(0)
    return AlexNet(closed(variant, f"width={WIDTH}")).double().eval()


@cache
def experiment(name: str, *overrides: str) -> Config:
    return validate(compose_all([f"experiment={name}", *overrides]))


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# --- the network of 2012 by hand


def conv(x: Tensor, layer: nn.Conv2d, pad: int, stride: int = 1, columns: int = 1) -> Tensor:
    """Each column's maps by that column's kernels."""
    assert layer.bias is not None
    parts = [part.chunk(columns) for part in (x.transpose(0, 1), layer.weight, layer.bias)]
    return torch.cat([F.conv2d(own.transpose(0, 1), w, b, stride, pad) for own, w, b in zip(*parts, strict=True)], 1)


def normalized(x: Tensor, variant: str) -> Tensor:
    """Each column by itself; alpha of the printed formula, which the code's 1e-4 is a fifth of."""
    alpha = {"paper": 1e-4, "code": 1e-4 / 5}[variant]
    return torch.cat([lrn_by_the_formula(own, 5, alpha, 0.75, 2, Convention.paper, 1) for own in x.chunk(2, 1)], 1)


def conv1(x: Tensor, net: AlexNet, variant: str) -> Tensor:
    x = conv(F.pad(x, (0, 3, 0, 3)), net.conv1.conv, pad=0, stride=4)
    if variant == "paper":
        return F.max_pool2d(normalized(x.relu(), variant), 3, 2)
    return F.max_pool2d(normalized(x, variant), 3, 2).relu()


def conv2(x: Tensor, net: AlexNet, variant: str) -> Tensor:
    x = normalized(conv(x, net.conv2.conv, pad=2, columns=2).relu(), variant)
    if variant == "code":
        x = within_map_by_the_formula(x, 5, 0.001, 0.75, 1)
    return F.max_pool2d(x, 3, 2)


def conv3(x: Tensor, net: AlexNet, variant: str) -> Tensor:
    return conv(x, net.conv3.conv, pad=1).relu()


def conv4(x: Tensor, net: AlexNet, variant: str) -> Tensor:
    return conv(x, net.conv4.conv, pad=1, columns=2).relu()


def conv5(x: Tensor, net: AlexNet, variant: str) -> Tensor:
    return F.max_pool2d(conv(x, net.conv5.conv, pad=1, columns=2).relu(), 3, 2)


def fc6(x: Tensor, net: AlexNet, variant: str) -> Tensor:
    return 0.5 * F.linear(x.flatten(1), net.fc6.fc.weight, net.fc6.fc.bias).relu()


def fc7(x: Tensor, net: AlexNet, variant: str) -> Tensor:
    return 0.5 * F.linear(x, net.fc7.fc.weight, net.fc7.fc.bias).relu()


def fc8(x: Tensor, net: AlexNet, variant: str) -> Tensor:
    return F.linear(x, net.fc8.fc.weight, net.fc8.fc.bias)


BY_HAND = {stage.__name__: stage for stage in (conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8)}


def check_row(
    variant: str,
    stage: str,
    into: tuple[int, ...],
    out: tuple[int, ...],
    window: Any,
    fan_in: int,
    std: float,
    bias: int,
) -> None:
    """A row of the table: `out` of the learned layer in the whole net, the window, the weights' shape and start.

    And what an eighth of the net makes of random maps of the row's input shape (`into`, of that eighth) is what the
    functions by hand make of them.
    """
    shapes = {row.name.partition(".")[0]: row.shape for row in layers(closed(variant)) if row.multiply_adds}
    assert shapes[stage] == out
    core = full(variant).get_submodule(f"{stage}.{'conv' if window else 'fc'}")
    assert core.weight.flatten(1).shape == (out[0], fan_in)
    if window:
        assert (core.kernel_size[0], core.stride[0], core.padding[0]) == window
    own = small(variant).get_submodule(f"{stage}.{'conv' if window else 'fc'}")
    assert own.weight.std().item() == pytest.approx(std, rel=0.03)
    assert own.weight.mean().item() == pytest.approx(0, abs=std / 20)
    assert (own.bias == bias).all()
    maps = random(2, *into, scale=60 if stage == "conv1" else 1000 if stage == "conv2" else 1)
    with torch.no_grad():
        ours = small(variant).get_submodule(stage)(maps)
        torch.testing.assert_close(ours, BY_HAND[stage](maps, small(variant), variant))


# --- section 1: the 2012 network


@BOTH
def test_conv1(variant: str) -> None:
    """96x55x55, 11/4/0, 48+48 which both see the image, 0.01, 0. Paper: conv, ReLU, LRN, pool; code: ReLU last."""
    check_row(variant, "conv1", (3, 224, 224), (96, 55, 55), (11, 4, 0), 3 * 121, 0.01, 0)


@BOTH
def test_conv2(variant: str) -> None:
    """256x27x27, 5/1/2, own column only, 0.01, 1. Conv, ReLU, LRN, in the code within-map norm, pool."""
    check_row(variant, "conv2", (12, 27, 27), (256, 27, 27), (5, 1, 2), 48 * 25, 0.01, 1)


@BOTH
def test_conv3(variant: str) -> None:
    """384x13x13, 3/1/1, crosses the columns, 0.01 in the paper and 0.03 in the code, 0. Conv, ReLU."""
    check_row(
        variant, "conv3", (32, 13, 13), (384, 13, 13), (3, 1, 1), 256 * 9, {"paper": 0.01, "code": 0.03}[variant], 0
    )


@BOTH
def test_conv4(variant: str) -> None:
    """384x13x13, 3/1/1, own column, 0.01 / 0.03, 1. Conv, ReLU."""
    check_row(
        variant, "conv4", (48, 13, 13), (384, 13, 13), (3, 1, 1), 192 * 9, {"paper": 0.01, "code": 0.03}[variant], 1
    )


@BOTH
def test_conv5(variant: str) -> None:
    """256x13x13 to 6x6, 3/1/1, own column, 0.01 / 0.03, 1. Conv, ReLU, pool 3/2."""
    check_row(
        variant, "conv5", (48, 13, 13), (256, 13, 13), (3, 1, 1), 192 * 9, {"paper": 0.01, "code": 0.03}[variant], 1
    )
    assert small(variant).conv5(random(1, 48, 13, 13)).shape[2:] == (6, 6)


@BOTH
def test_fc6_and_fc7(variant: str) -> None:
    """4096, cross the columns, 0.01, 1. Fc, ReLU, dropout 0.5."""
    check_row(variant, "fc6", (32, 6, 6), (4096,), None, 256 * 36, 0.01, 1)
    check_row(variant, "fc7", (512,), (4096,), None, 4096, 0.01, 1)


@BOTH
def test_fc8(variant: str) -> None:
    """1000, crosses the columns, 0.01, 0. Fc; the softmax is the loss's."""
    check_row(variant, "fc8", (512,), (1000,), None, 4096, 0.01, 0)


@BOTH
def test_the_whole_network(variant: str) -> None:
    """The table from top to bottom: an image's logits are those of the network by hand, and of no other order."""
    x = images = random(1, 3, 224, 224, scale=60)
    with torch.no_grad():
        for stage in BY_HAND.values():
            x = stage(x, small(variant), variant)
        torch.testing.assert_close(small(variant)(images), x)
        other = {"paper": "code", "code": "paper"}[variant]
        assert not torch.allclose(conv1(images, small(variant), other), small(variant).conv1(images), rtol=1e-3)


def test_the_last_module_reads_3_zeros_past_the_edge() -> None:
    """A 224 crop; the last module reads 3 pixels past the right and bottom edge as zeros. 55x55."""
    net, images = small("paper"), random(1, 3, 224, 224)
    out = net.conv1.conv(net.conv1.pad(images))
    assert out.shape[2:] == (55, 55)
    inside = images[0, :, 216:224, 216:224]  # of the window from 216 to 226, what there is
    corner = (net.conv1.conv.weight[:, :, :8, :8] * inside).sum((1, 2, 3))
    torch.testing.assert_close(out[0, :, 54, 54], corner)
    torch.testing.assert_close(out, F.conv2d(F.pad(images, (0, 3, 0, 3)), net.conv1.conv.weight, stride=4))


def test_a_crop_of_227_has_the_same_shape_from_real_pixels() -> None:
    """A 227 crop gives the same shape from real pixels."""
    real = closed("paper", "input_size=227", "stages.conv1.pad=[0]")
    assert totals(layers(real)) == totals(layers(closed("paper")))
    net, images = small("paper"), random(1, 3, 227, 227)
    at_224 = net.conv1.conv(net.conv1.pad(images[:, :, :224, :224]))
    torch.testing.assert_close(net.conv1.conv(images)[:, :, :54, :54], at_224[:, :, :54, :54])
    assert not torch.allclose(net.conv1.conv(images)[:, :, 54], at_224[:, :, 54])


def test_torchvisions_padding_shifts_the_grid_by_two_pixels() -> None:
    """torchvision's padding=2 also gives 55 but shifts the grid by two pixels."""
    with torch.device("meta"):
        theirs = alexnet().features[0]
    net, images = small("paper"), random(1, 3, 224, 224)

    def as_torchvision(x: Tensor) -> Tensor:
        return F.conv2d(x, net.conv1.conv.weight, net.conv1.conv.bias, theirs.stride, theirs.padding)

    assert theirs.padding == full("torchvision").conv1.conv.padding == (2, 2)
    ours = net.conv1.conv(net.conv1.pad(images))
    assert as_torchvision(images).shape == ours.shape
    assert not torch.allclose(as_torchvision(images)[:, :, 1:50, 1:50], ours[:, :, 1:50, 1:50])
    two_on = images.roll((-2, -2), dims=(2, 3))
    torch.testing.assert_close(as_torchvision(two_on)[:, :, 1:50, 1:50], ours[:, :, 1:50, 1:50])


@BOTH
def test_dropout_is_half_of_torchs(variant: str) -> None:
    """Multiplies by the 0/1 mask in training and by 0.5 at test: exactly 0.5 * Dropout(0.5)."""
    dropout, units = full(variant).fc6.drop, random(4, 500) + 10
    assert (type(dropout), dropout.p) == (MaskDropout, 0.5)
    torch.manual_seed(3)
    trained = dropout.train()(units)
    torch.manual_seed(3)
    assert torch.equal(trained, 0.5 * nn.Dropout(0.5)(units))
    assert torch.equal(trained, units * (trained != 0))
    assert 0.4 < (trained != 0).double().mean() < 0.6
    assert torch.equal(dropout.eval()(units), 0.5 * units)


@BOTH
def test_dropout_sits_after_fc6_and_fc7(variant: str) -> None:
    """It sits AFTER fc6 and fc7. torchvision puts it before fc6 and fc7 (its issue 549)."""
    children = {stage: list(module._modules) for stage, module in full(variant).named_children()}
    assert [stage for stage, slots in children.items() if "drop" in slots] == ["fc6", "fc7"]
    assert children["fc6"][-3:] == children["fc7"] == ["fc", "act", "drop"]
    with torch.device("meta"):
        theirs = [type(module).__name__ for module in alexnet().classifier]
    assert theirs == ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"]
    torchvisions = [
        slot for stage in ("fc6", "fc7", "fc8") for slot in full("torchvision").get_submodule(stage)._modules
    ]
    assert [slot for slot in torchvisions if slot not in ("to6", "flat")] == ["drop", "fc", "act"] * 2 + ["fc"]


# rows of the network: output maps, side of the output, inputs a unit sees grouped and not, side of the kernel
ROWS = [
    (96, 55, 3, 3, 11),
    (256, 27, 48, 96, 5),
    (384, 13, 256, 256, 3),
    (384, 13, 192, 384, 3),
    (256, 13, 192, 384, 3),
]
ROWS += [(4096, 1, 9216, 9216, 1), (4096, 1, 4096, 4096, 1), (1000, 1, 4096, 4096, 1)]


def numbers(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@BOTH
def test_60_965_224_parameters_grouped(variant: str) -> None:
    """Parameters 60,965,224 grouped."""
    by_hand = sum(out * (grouped * kernel**2 + 1) for out, _, grouped, _, kernel in ROWS)
    assert by_hand == totals(layers(closed(variant))).parameters == numbers(full(variant)) == 60_965_224


@BOTH
def test_62_378_344_parameters_ungrouped(variant: str) -> None:
    """Parameters 62,378,344 ungrouped."""
    by_hand = sum(out * (whole * kernel**2 + 1) for out, _, _, whole, kernel in ROWS)
    one_column = totals(layers(closed(variant, "groups=1"))).parameters
    assert by_hand == one_column == numbers(full(variant, "groups=1")) == 62_378_344


def test_61_100_840_parameters_of_torchvisions() -> None:
    """Parameters 61,100,840 torchvision's."""
    with torch.device("meta"):
        theirs = numbers(alexnet())
    assert theirs == totals(layers(closed("torchvision"))).parameters == numbers(full("torchvision")) == 61_100_840


@BOTH
def test_724_406_816_multiply_adds_grouped(variant: str) -> None:
    """Forward multiply-adds per image 724,406,816 grouped (conv 665,784,864)."""
    by_hand = [out * side**2 * grouped * kernel**2 for out, side, grouped, _, kernel in ROWS]
    table = layers(closed(variant))
    assert sum(by_hand) == totals(table).multiply_adds == 724_406_816
    assert sum(by_hand[:5]) == sum(row.multiply_adds for row in table if row.kind == "conv") == 665_784_864


@BOTH
def test_1_135_256_096_multiply_adds_ungrouped(variant: str) -> None:
    """1,135,256,096 ungrouped."""
    by_hand = sum(out * side**2 * whole * kernel**2 for out, side, _, whole, kernel in ROWS)
    assert by_hand == totals(layers(closed(variant, "groups=1"))).multiply_adds == 1_135_256_096


@BOTH
def test_659_272_activations(variant: str) -> None:
    """Activations 659,272 = 290,400 + 186,624 + 64,896 + 64,896 + 43,264 + 4,096 + 4,096 + 1,000."""
    parts = [290_400, 186_624, 64_896, 64_896, 43_264, 4_096, 4_096, 1_000]
    assert [out * side**2 for out, side, *_ in ROWS] == parts
    assert [row.activations for row in layers(closed(variant)) if row.activations] == parts
    assert totals(layers(closed(variant))).activations == sum(parts) == 659_272


def test_the_papers_253_440_is_an_error() -> None:
    """The paper prints 253,440 for the first: an error in the paper; its "650,000 neurons" is right."""
    page = (Path(__file__).parents[1] / "docs" / "reference" / "variants.md").read_text()
    assert "253,440" in page
    assert "96x55x55 = 290,400" in page
    neurons = totals(layers(closed("paper"))).activations
    assert abs(neurons - 650_000) < 10_000
    assert abs(neurons - 96 * 55 * 55 + 253_440 - 650_000) > 20_000  # with the figure it prints


def test_630_million_connections_cannot_be_derived() -> None:
    """The tutorial's "630 million connections" cannot be derived: show our own count and say so."""
    assert "630 million" in CONNECTIONS_NOTE
    assert "cannot be derived" in CONNECTIONS_NOTE
    counted = [totals(layers(closed("paper", f"groups={groups}"))) for groups in (1, 2)]
    convolutions = [sum(out * side**2 * seen[g] * k**2 for out, side, *seen, k in ROWS[:5]) for g in (0, 1)]
    ours = [value for count in counted for value in vars(count).values()] + convolutions
    assert not [value for value in ours if 625e6 <= value < 635e6]


def test_the_tutorials_network() -> None:
    """9,639,178 parameters (9,638,474 trainable): 3x3 convs 96, 256 valid, 384, 384, 256 same, fc 2048, 2048, 10."""
    table = layers(closed("tutorial"))
    convs = [(3, 96), (96, 256), (256, 384), (384, 384), (384, 256)]
    dense = [(1024, 2048), (2048, 2048), (2048, 10)]
    weights = sum(a * b * 9 + b for a, b in convs) + sum(a * b + b for a, b in dense)
    assert totals(table).trainable_parameters == weights + 2 * (96 + 256) == 9_638_474
    assert totals(table).parameters == weights + 4 * (96 + 256) == 9_639_178
    torch.manual_seed(0)
    net = AlexNet(closed("tutorial", "width=0.125")).double().eval()
    images = random(2, 3, 32, 32)
    x = images
    for stage, pad in (("conv1", 0), ("conv2", 0), ("conv3", 1), ("conv4", 1), ("conv5", 1)):
        core = net.get_submodule(f"{stage}.conv")
        x = F.conv2d(x, core.weight, core.bias, padding=pad)
        x = x / math.sqrt(1 + 1e-3) if stage in ("conv1", "conv2") else x  # a norm that has seen nothing yet
        x = F.max_pool2d(x.relu(), 3, 2) if stage in ("conv1", "conv2", "conv5") else x.relu()
    assert x.flatten(1).shape == (2, 1024 // 8)
    for stage in ("fc6", "fc7"):
        x = F.linear(
            x.flatten(1), net.get_submodule(f"{stage}.fc").weight, net.get_submodule(f"{stage}.fc").bias
        ).relu()
    torch.testing.assert_close(net(images), F.linear(x, net.fc8.fc.weight, net.fc8.fc.bias))
    assert [full("tutorial").get_submodule(f"{stage}.drop").p for stage in ("fc6", "fc7")] == [0.5, 0.5]


def test_the_tutorials_defaults_are_kerass() -> None:
    """Glorot-uniform, zero biases, BN epsilon 1e-3 momentum 0.99, Adam 1e-3 epsilon 1e-7, batch 32, 5 epochs."""
    torch.manual_seed(0)
    net = AlexNet(closed("tutorial", "width=0.25"))
    limit = math.sqrt(6 / (256 * 9 / 4 + 384 * 9 / 4))
    assert net.conv3.conv.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert net.conv3.conv.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert all((value == 0).all() for name, value in net.named_parameters() if name.endswith("bias"))
    norm = full("tutorial").conv2.norm
    assert (norm.eps, norm.momentum) == (1e-3, pytest.approx(1 - 0.99))
    config: Any = experiment("tutorial")
    assert (config.optim.name, config.optim.lr, config.optim.eps) == ("adam", 1e-3, 1e-7)
    assert (config.data.batch_size, config.trainer.max_epochs, config.schedule.name) == (32, 5, "constant")


def test_the_tutorials_images_are_divided_by_255_and_not_augmented() -> None:
    """Images/255, no augmentation."""
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    preprocess = Preprocess(closed("tutorial").input, 3, 32)
    torch.testing.assert_close(preprocess(images), images / 255)
    config: Any = experiment("tutorial")
    data = ImageData(Random(size=32, n=8, classes=10, pad=config.data.pad, mirror=config.data.mirror), 32, 3, 1)
    data.setup()
    assert torch.equal(data.augment(images, 0, 0), images)


def test_the_tutorials_adam_takes_kerass_steps() -> None:
    """Two steps from equal weights by Keras's formula, in float64 outside torch: eps before the bias correction."""
    config: Any = experiment("tutorial")
    torch.manual_seed(0)
    net = AlexNet(closed("tutorial", "width=0.25", "dropout=0", "num_classes=10", "input_size=32")).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(32, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (32,), generator=generator)

    def loss_and_gradients(network: nn.Module) -> tuple[float, dict[str, np.ndarray[Any, Any]]]:
        network.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        named = network.named_parameters()
        return float(loss.detach()), {n: p.grad.double().numpy() for n, p in named if p.grad is not None}

    def after_two_steps(spec: Adam) -> float:
        ours = copy.deepcopy(net)
        optimizer = build_optimizer(spec, ours)
        for _ in range(2):
            loss_and_gradients(ours)
            optimizer.step()
        return loss_and_gradients(ours)[0]

    keras, b1, b2 = copy.deepcopy(net), 0.9, 0.999
    weights = {name: parameter.detach().double().numpy() for name, parameter in keras.named_parameters()}
    m, v = ({name: np.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    for t in (1, 2):
        _, gradients = loss_and_gradients(keras)
        alpha = 0.001 * np.sqrt(1 - b2**t) / (1 - b1**t)
        for name, gradient in gradients.items():
            m[name] += (gradient - m[name]) * (1 - b1)
            v[name] += (gradient**2 - v[name]) * (1 - b2)
            weights[name] = weights[name] - alpha * m[name] / (np.sqrt(v[name]) + 1e-7)
            keras.get_parameter(name).data.copy_(torch.from_numpy(weights[name]))
    expected, _ = loss_and_gradients(keras)
    assert after_two_steps(config.optim) == pytest.approx(expected, abs=1e-5)
    assert abs(after_two_steps(replace(config.optim, eps_mode=EpsMode.torch)) - expected) > 1e-4


def test_the_tutorials_published_curve() -> None:
    """Test accuracy by epoch: .4414 .5565 .4983 .5892 .6053 (82 s an epoch on a laptop CPU)."""
    head = (conf_dir() / "model" / "tutorial.yaml").read_text()
    assert ".4414 .5565 .4983 .5892 .6053" in head
    assert "82 s an epoch on a laptop CPU" in " ".join(head.replace("#", "").split())


# --- section 2: LRN


@BOTH
@pytest.mark.parametrize("stage", ["conv1", "conv2"])
def test_lrn_is_the_formula(variant: str, stage: str) -> None:
    """b = a / (k + alpha * sum over n neighbouring channels of a^2)^beta, k=2, n=5, beta=0.75, edges truncated."""
    maps = random(2, 12, 3, 3, scale=200)
    norm = full(variant).get_submodule(f"{stage}.norm")
    torch.testing.assert_close(norm(maps), normalized(maps, variant))
    first = maps[:, 0] / (2 + norm_alpha(variant) * (maps[:, 0] ** 2 + maps[:, 1] ** 2 + maps[:, 2] ** 2)) ** 0.75
    torch.testing.assert_close(norm(maps)[:, 0], first)


def norm_alpha(variant: str) -> float:
    """What the printed formula's sum is multiplied by."""
    return {"paper": 1e-4, "code": 2e-5}[variant]


def test_the_codes_alpha_is_torchs() -> None:
    """Code: alpha/n is applied, so the effective alpha is 2e-5, which is what torch's op computes for 1e-4."""
    maps = random(2, 48, 5, 5, scale=200)
    code = full("code").conv1.norm
    theirs = nn.LocalResponseNorm(5, 1e-4, 0.75, 2)
    torch.testing.assert_close(code(maps), torch.cat([theirs(column) for column in maps.chunk(2, 1)], 1))
    by_hand = [lrn_by_the_formula(column, 5, 2e-5, 0.75, 2, Convention.paper, 1) for column in maps.chunk(2, 1)]
    torch.testing.assert_close(code(maps), torch.cat(by_hand, 1))


def test_the_papers_formula_is_alpha_5e_4_in_torchs_terms() -> None:
    """Paper: alpha = 1e-4 as printed. The paper's formula in torch's terms is alpha=5e-4."""
    maps = random(2, 48, 5, 5, scale=200)
    theirs = nn.LocalResponseNorm(5, 5e-4, 0.75, 2)
    ours = full("paper").conv1.norm(maps)
    torch.testing.assert_close(ours, torch.cat([theirs(column) for column in maps.chunk(2, 1)], 1))


def test_the_convention_is_a_named_setting() -> None:
    """Make the convention an explicit, named setting."""
    assert {name: str(closed(name).lrn.convention) for name in ("paper", "code")} == {"paper": "paper", "code": "code"}
    maps = random(1, 12, 2, 2, scale=200)
    assert torch.equal(full("code").conv1.norm(maps), full("paper", "lrn.convention=code").conv1.norm(maps))
    assert not torch.equal(full("code").conv1.norm(maps), full("paper").conv1.norm(maps))


def test_the_within_map_norm() -> None:
    """x / (1 + scale/n^2 * sum over the n x n window of the SAME map of x^2)^0.75; #145: n 5, scale .001."""
    maps = random(2, 6, 7, 7, scale=100)
    norm = full("code").conv2.mapnorm
    torch.testing.assert_close(norm(maps), within_map_by_the_formula(maps, 5, 0.001, 0.75, 1))
    window = (maps[0, 3, 2:7, 1:6] ** 2).sum()
    assert norm(maps)[0, 3, 4, 3].item() == pytest.approx((maps[0, 3, 4, 3] / (1 + 0.001 / 25 * window) ** 0.75).item())
    assert not any("mapnorm" in name for name, _ in full("paper").named_modules())


@BOTH
def test_lrn_runs_over_one_columns_channels(variant: str) -> None:
    """It runs over ONE column's channels (48, 128): on one device normalise each half by itself."""
    for stage, channels in (("conv1", 48), ("conv2", 128)):
        maps = random(1, 2 * channels, 2, 2, scale=200)
        norm = full(variant).get_submodule(f"{stage}.norm")
        apart = LRN(convention=closed(variant).lrn.convention)
        torch.testing.assert_close(norm(maps), torch.cat([apart(column) for column in maps.chunk(2, 1)], 1))
        assert not torch.allclose(norm(maps)[:, channels - 1], apart(maps)[:, channels - 1])


@BOTH
def test_inputs_are_0_to_255_minus_the_mean(variant: str) -> None:
    """Inputs were 0..255 minus the mean, with no division by a std. So the input scale belongs to the variant."""
    images = torch.randint(0, 256, (5, 3, 224, 224), dtype=torch.uint8)
    preprocess = Preprocess(closed(variant).input, 3, 224)
    preprocess.fit(Statistics(pixel_mean=images.float().mean(0)))
    torch.testing.assert_close(preprocess(images), images.float() - images.float().mean(0))


@BOTH
def test_on_inputs_of_unit_variance_lrn_is_nearly_constant(variant: str) -> None:
    """On unit-variance inputs the sum term is about 4,000 times smaller and LRN is close to 2^-0.75 = 0.595."""
    bytes_std = 63.2  # of natural images' pixels on 0..255
    assert bytes_std**2 == pytest.approx(4000, rel=0.01)
    norm, unit = full(variant).conv1.norm, random(2, 96, 5, 5)
    assert pytest.approx(0.595, abs=5e-4) == 2**-0.75
    torch.testing.assert_close(norm(unit), 0.595 * unit, rtol=2e-3, atol=0)
    full_scale = bytes_std * 10 * unit  # what conv1 makes of bytes
    assert ((norm(full_scale) / full_scale) < 0.55).double().mean() > 0.5


def test_torchs_op_fails_in_fp16_on_a_cpu_and_ours_does_not() -> None:
    """torch's op fails in fp16 on CPU."""
    maps = random(2, 96, 5, 5, scale=100).half()
    ours = LRN()(maps)
    assert ours.dtype == torch.float16
    torch.testing.assert_close(ours.double(), LRN()(maps.double()), rtol=2e-3, atol=1e-3)
    with pytest.raises(RuntimeError, match="Half"):
        nn.LocalResponseNorm(5)(maps)


def test_torchs_op_is_slow_on_a_cpu_and_ours_is_faster() -> None:
    """torch's op is slow on CPU (it pools a 5-D view)."""
    maps = random(8, 96, 27, 27).float().requires_grad_()

    def seconds(layer: nn.Module) -> float:
        start = time.process_time()
        layer(maps).sum().backward()
        return time.process_time() - start

    ours, theirs = LRN(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2)
    assert min(seconds(ours) for _ in range(5)) < min(seconds(theirs) for _ in range(5))


# --- section 3: optimisation


def recurrence(w: float, gradients: list[float], rates: list[float], decay: float) -> float:
    v = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        v = 0.9 * v - decay * rate * w - rate * gradient
        w = w + v
    return w


def stepped(optimizer: torch.optim.Optimizer, w: nn.Parameter, gradients: list[float], rates: list[float]) -> float:
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.full_like(w, gradient)
        optimizer.step()
    return w.item()


GRADIENTS = [0.3, -0.1, 0.2, 0.5, -0.4, 0.1]
DROPPING = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(1, 1, dtype=torch.float64))


def krizhevsky(w: nn.Parameter) -> torch.optim.Optimizer:
    return build_optimizer(Krizhevsky(lr=0.1), nn.ParameterDict({"weight": w}))


def test_the_learning_rate_is_inside_the_velocity() -> None:
    """v <- 0.9 v - 0.0005 * lr * w - lr * grad ; w <- w + v."""
    w = weight()
    assert stepped(krizhevsky(w), w, GRADIENTS, DROPPING) == pytest.approx(
        recurrence(1.0, GRADIENTS, DROPPING, 5e-4), rel=1e-14
    )


def test_torchs_sgd_agrees_while_the_rate_is_constant_and_differs_after_a_drop() -> None:
    """torch's SGD keeps it outside. They agree while lr is constant and differ for some steps after each drop."""
    for rates, agree in (([0.1] * 6, True), (DROPPING, False)):
        ours, theirs = weight(), weight()
        torchs = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=5e-4)
        difference = stepped(krizhevsky(ours), ours, GRADIENTS, rates) - stepped(torchs, theirs, GRADIENTS, rates)
        assert (abs(difference) < 1e-14) is agree


def test_rescaling_its_momentum_buffer_makes_torchs_sgd_exact() -> None:
    """Multiplying the momentum buffer by lr_old/lr_new at a change makes torch's SGD exact."""
    ours, theirs = weight(), weight()
    torchs = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=5e-4)
    stepped(torchs, theirs, GRADIENTS[:3], DROPPING[:3])
    torchs.state[theirs]["momentum_buffer"] *= 0.1 / 0.01
    rescaled = stepped(torchs, theirs, GRADIENTS[3:], DROPPING[3:])
    assert rescaled == pytest.approx(stepped(krizhevsky(ours), ours, GRADIENTS, DROPPING), rel=1e-14)


def test_batch_momentum_and_decay() -> None:
    """Batch 128, momentum 0.9, weight decay 5e-4 (code: weights only; biases undecayed, with twice the weight lr)."""
    assert ImageNet().batch_size == 128
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 4))
    optimizer = build_optimizer(Krizhevsky(), net)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    settings = {
        parameter: (group["lr"], group["weight_decay"])
        for group in parameter_groups(Krizhevsky(), net)
        for parameter in group["params"]
    }
    for name, parameter in net.named_parameters():
        assert settings[parameter] == ((0.02, 0.0) if name.endswith("bias") else (0.01, 5e-4)), name


def test_the_rate_was_divided_by_10_three_times() -> None:
    """lr 0.01, divided by 10 three times by hand on plateaus: at epochs 25, 51, 79, stopped at 91."""
    assert Krizhevsky().lr == 0.01
    by_epoch = [round(math.log10(factor)) for factor in curve(Steps(), 91, 1)]
    assert [epoch for epoch in range(1, 91) if by_epoch[epoch] < by_epoch[epoch - 1]] == [25, 51, 79]
    assert by_epoch[-1] == -3
    flat = [1.0] * 200  # nothing improves any more
    factors = [plateau_factor(Plateau(), flat[:epochs]) for epochs in range(201)]
    assert sorted({round(math.log10(factor)) for factor in factors}) == [-3, -2, -1, 0]
    config: Any = experiment("imagenet_paper")
    run = curve(config.schedule, config.trainer.max_epochs, 1)
    assert [round(math.log10(factor)) for factor in run] == [0] * 25 + [-1] * 26 + [-2] * 28 + [-3] * 12


def test_four_equal_stages_do_slightly_better() -> None:
    """Net #170: 4 equal stages from 0.01 down to 4e-5: 40.5 / 18.0 with 10 views, 42.3 / 19.6 on the centre crop."""
    config: Any = validate(compose_all(["schedule=four_stages", "optim=krizhevsky"]))
    rates = [0.01 * factor for factor in curve(config.schedule, 8, 5)]
    assert [len(set(rates[start : start + 10])) for start in (0, 10, 20, 30)] == [1, 1, 1, 1]
    assert (rates[0], rates[-1]) == (0.01, pytest.approx(4e-5))
    assert rates[10] / rates[0] == pytest.approx(rates[20] / rates[10]) == pytest.approx(rates[30] / rates[20])
    assert config.schedule.biases == {"milestones": ["50%"], "factors": [0.1]}
    head = (conf_dir() / "schedule" / "four_stages.yaml").read_text()
    assert "42.3 / 19.6" in head
    assert "40.5 / 18.0" in head


def rates_of_the_run(config: Any, epochs: int, steps_per_epoch: int) -> dict[str, list[float]]:
    """The rate of each parameter of a small network of 2012 in every step, as the LightningModule sets it."""
    net = nn.Sequential()
    for name in ("conv1", "conv2", "fc8"):
        net.add_module(name, nn.Sequential(OrderedDict(conv=nn.Linear(2, 2))))
    optimizer = build_optimizer(config.optim, net, schedule=config.schedule)
    names = {id(parameter): name.replace(".conv", "") for name, parameter in net.named_parameters()}
    return {
        names[id(parameter)]: [group["lr"] * factor for factor in curve(config.schedule, epochs, steps_per_epoch, part)]
        for group, part in zip(optimizer.param_groups, parts_of(optimizer, net, config.schedule), strict=True)
        for parameter in group["params"]
    }


def dexp(base: float, target: float, stages: int, progress: float) -> float:
    """The 2012 code's discrete exponential: equal stages, the last of which is at base / target."""
    return float(base * target ** (-math.floor(progress * stages) / (stages - 1)))


def test_net_170_has_a_schedule_for_weights_and_one_for_biases() -> None:
    """schedW=dexp[tgtFactor=250,numSteps=4], schedB=dexp[tgtFactor=10,numSteps=2]; conv1's epsW 0 from epoch 74."""
    config: Any = experiment("imagenet_code")
    epochs, steps = config.trainer.max_epochs, 4
    assert epochs == 90
    for name, rates in rates_of_the_run(config, epochs, steps).items():
        for step, rate in enumerate(rates):
            progress = step / (epochs * steps)
            expected = dexp(0.02, 10, 2, progress) if name.endswith("bias") else dexp(0.01, 250, 4, progress)
            frozen = name == "conv1.weight" and step >= 74 * steps
            assert rate == pytest.approx(0 if frozen else expected, rel=1e-12), (name, step)


def test_net_145_was_changed_by_hand_in_its_weights_alone() -> None:
    """Its log divides epsW; at the end epsB is .02 as at the start, and conv1 has 0 of both."""
    config: Any = experiment("imagenet_paper", "model=code", "schedule=by_hand_code", "data.pca_epochs=67")
    epochs, steps = config.trainer.max_epochs, 3
    assert epochs == 91
    for name, rates in rates_of_the_run(config, epochs, steps).items():
        for step, rate in enumerate(rates):
            epoch = step // steps
            expected = 0.02 if name.endswith("bias") else 0.01 / 10 ** sum(epoch >= drop for drop in (25, 51, 79))
            if name.startswith("conv1"):
                expected *= 0 if epoch >= 72 else 0.1 if epoch >= 67 else 1
            assert rate == pytest.approx(expected, rel=1e-12), (name, step)
    # what its log says of conv1 in epoch 67, and what its settings say at the end
    assert rates_of_the_run(config, 91, 1)["conv1.weight"][67] == pytest.approx(1e-5)
    assert {name: rates[-1] for name, rates in rates_of_the_run(config, 91, 1).items()} == pytest.approx(
        {
            "conv1.weight": 0,
            "conv1.bias": 0,
            "conv2.weight": 1e-5,
            "conv2.bias": 0.02,
            "fc8.weight": 1e-5,
            "fc8.bias": 0.02,
        }
    )


def test_the_paper_has_one_rate_for_all_layers() -> None:
    config: Any = experiment("imagenet_paper")
    rates = rates_of_the_run(config, 91, 1)
    assert rates["conv1.weight"] == rates["fc8.weight"]
    assert rates["conv2.bias"] == pytest.approx([2 * rate for rate in rates["conv2.weight"]])
    assert config.data.pca_epochs is None


@pytest.mark.parametrize(("name", "more", "epoch"), [("code", (), 68), ("paper", ("data.pca_epochs=67",), 67)])
def test_the_colour_noise_was_switched_off_by_hand(name: str, more: tuple[str, ...], epoch: int) -> None:
    """Net #170: epoch 68; net #145: epoch 67. Without noise nothing is divided by 1.1 either."""
    config: Any = experiment(f"imagenet_{name}", *more)
    assert config.data.pca_epochs == epoch
    colours = replace(config.data, crop=224)
    data, images = ImageData(colours, 224, 3, seed=1), torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    data._mean_crop, data._colour = torch.zeros(3, 224, 224), IMAGENET_COLOUR
    assert data.augment(images, epoch - 1, 0).dtype == torch.float32
    quiet = ImageData(replace(colours, pca=Pca.none), 224, 3, seed=1)
    assert torch.equal(data.augment(images, epoch, 0), quiet.augment(images, epoch, 0))


# --- section 4: data


def test_the_short_side_becomes_256_and_the_centre_is_kept(tmp_path: Path) -> None:
    """Short side to 256, centre 256x256."""
    rows, columns = np.mgrid[0:512, 0:800]
    pixels = np.stack([rows / 2, columns / 4, (rows + columns) / 6], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    ours = read_image(tmp_path / "wide.png", ImageNet().size)
    with Image.open(tmp_path / "wide.png") as image:
        resized = image.resize((400, 256), Image.Resampling.BILINEAR).crop((72, 0, 328, 256))
    assert ours.shape == (3, 256, 256)
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(resized).astype(int)).max() <= 1


def coordinates(n: int = 64) -> Tensor:
    """Images that say in each pixel where it was: row and column, of 256x256."""
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    return torch.stack([rows, columns, rows]).to(torch.uint8).expand(n, -1, -1, -1)


def test_training_cuts_a_random_224_and_mirrors() -> None:
    """Train: random 224 crop of it and a mirror."""
    spec = ImageNet()
    assert (spec.size, spec.crop, spec.pad, spec.random_crop, spec.mirror) == (256, None, 0, True, True)
    data = ImageData(Random(size=256, n=8, mirror=spec.mirror, crop=spec.crop, pad=spec.pad), 224, 3, seed=1)
    data.setup()
    cut = data.augment(coordinates(), 0, 0).int()
    assert cut.shape == (64, 3, 224, 224)
    tops, lefts, mirrored = set(), set(), 0
    for image in cut:
        flipped = bool(image[1, 0, 0] > image[1, 0, -1])
        image = image.flip(2) if flipped else image
        top, left = int(image[0, 0, 0]), int(image[1, 0, 0])
        assert torch.equal(image, coordinates(1)[0, :, top : top + 224, left : left + 224].int())
        tops, lefts, mirrored = tops | {top}, lefts | {left}, mirrored + flipped
    assert 16 < mirrored < 48
    assert all(len(seen) > 15 and min(seen) >= 0 and max(seen) <= 32 for seen in (tops, lefts))


def test_the_per_pixel_training_mean_is_subtracted() -> None:
    """Subtract the per-pixel training mean: of the whole 256, of which the centre is the input's."""
    data = ImageData(Random(size=256, n=16, classes=2), 224, 3, seed=1)
    data.setup()
    preprocess = Preprocess(closed("paper").input, 3, 224)
    statistics = data.statistics(preprocess.needs)
    assert statistics is not None
    preprocess.fit(statistics)
    train = data.source.train
    mean = train.images(torch.arange(len(train))).double().mean(0)[:, 16:240, 16:240]
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    torch.testing.assert_close(preprocess(images).double(), images.double() - mean, rtol=0, atol=1e-3)


@pytest.mark.parametrize("reading", ["paper", "code"])
def test_the_colour_noise(reading: str) -> None:
    """Paper: add P * (a * lambda), the EIGENVALUES, a ~ N(0, 0.1), one draw per image. Code: by std, image / 1.1."""
    images = torch.full((3000, 3, 1, 2), 100, dtype=torch.uint8)
    mean = torch.full((3, 1, 2), 120.0)
    noisy = add_colour_noise(
        images, IMAGENET_COLOUR, 0.1, mean if reading == "code" else None, torch.Generator().manual_seed(0)
    )
    assert torch.equal(noisy[..., 0], noisy[..., 1])  # one draw an image
    vectors = torch.tensor([[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]])
    std = torch.tensor([121.780, 37.094, 19.721])
    strength = std if reading == "code" else std**2
    undone = (noisy - mean) * 1.1 + mean if reading == "code" else noisy
    along = (undone[:, :, 0, 0] - 100) @ torch.linalg.inv(vectors)  # back to a * strength
    torch.testing.assert_close(along.std(0), 0.1 * strength, rtol=0.05, atol=0)
    torch.testing.assert_close(along.mean(0), torch.zeros(3), rtol=0, atol=float(0.1 * strength[0] / 10))
    if reading == "code":  # minus the mean, the image is divided by 1.1 as a whole
        torch.testing.assert_close((noisy - mean).mean(), torch.tensor(-20 / 1.1), rtol=0.1, atol=0)


def test_the_constants_of_the_colour_noise() -> None:
    """Constants on 0..255: std 121.780, 37.094, 19.721; vectors (RGB) as given."""
    assert IMAGENET_COLOUR.std == [121.780, 37.094, 19.721]
    assert IMAGENET_COLOUR.vectors == [
        [-0.5635, -0.5762, -0.5920],
        [-0.7126, -0.0235, 0.7012],
        [0.4180, -0.8170, 0.3973],
    ]


def test_the_commonly_copied_constants_are_weaker() -> None:
    """The commonly copied "Lighting" constants are eigenvalues on 0..1: 2.2, 7.7 and 17 times weaker."""
    lighting = [0.2175, 0.0188, 0.0045]
    weaker = [std / (255 * value) for std, value in zip(IMAGENET_COLOUR.std, lighting, strict=True)]
    assert weaker == pytest.approx([2.2, 7.7, 17], rel=0.02)
    # they are our deviations, squared, on 0..1
    assert [(std / 255) ** 2 for std in IMAGENET_COLOUR.std] == pytest.approx(lighting, rel=0.5)


def test_ten_views() -> None:
    """Test: 10 views, offsets (0,0) (0,32) (16,16) (32,0) (32,32) and their mirrors."""
    views = crop_views(coordinates(1), 224, 10)
    plain, mirrored = views[:5], views[5:]
    assert [(int(view[0, 0, 0, 0]), int(view[0, 1, 0, 0])) for view in plain] == [
        (0, 0),
        (0, 32),
        (16, 16),
        (32, 0),
        (32, 32),
    ]
    assert all(torch.equal(other, view.flip(3)) for view, other in zip(plain, mirrored, strict=True))


def test_the_probabilities_of_the_views_are_averaged() -> None:
    """Average the PROBABILITIES, not the logits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    as_it_is = Preprocess(Input(scale=Scale.bytes), channels=3, size=2)
    module = AlexNetModule(network, as_it_is, Krizhevsky(), Constant(), Loss(), seed=1)
    views = [3 * torch.randn(4, 3, 2, 2) for _ in range(10)]
    with torch.no_grad():
        averaged = module.test_step((views, torch.zeros(4, dtype=torch.long)), 0).exp()
        each = torch.stack([network(view).softmax(1) for view in views])
        logits = torch.stack([network(view) for view in views]).mean(0).softmax(1)
    torch.testing.assert_close(averaged, each.mean(0), check_dtype=False)
    assert not torch.allclose(averaged.float(), logits, atol=1e-3)


# --- section 6: the CIFAR-10 nets of the same code

CIFAR = ["cuda_convnet_26pct", "cuda_convnet_18pct", "cuda_convnet_13pct", "cuda_convnet_11pct"]


@cache
def cifar(name: str) -> AlexNet:
    torch.manual_seed(0)
    return AlexNet(closed(name)).double().eval()


def starts(name: str) -> dict[str, float]:
    """The deviation of each layer's weights; all its biases are 0."""
    assert all((value == 0).all() for key, value in cifar(name).named_parameters() if key.endswith("bias"))
    return {
        key.partition(".")[0]: value.std().item() for key, value in cifar(name).named_parameters() if "weight" in key
    }


def rates_and_decays(name: str) -> dict[str, tuple[float, float]]:
    """Of each parameter of the network that the experiment trains, by stage and kind."""
    spec: Any = experiment(name).optim
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in parameter_groups(spec, full(name))
        for parameter in group["params"]
    }
    return {f"{key.partition('.')[0]} {key.rpartition('.')[2]}": found[p] for key, p in full(name).named_parameters()}


def decays(name: str) -> dict[str, float]:
    """Of the weights, by stage; biases have none."""
    found = rates_and_decays(name)
    assert {decay for key, (_, decay) in found.items() if key.endswith("bias")} == {0.0}
    return {key.partition(" ")[0]: decay for key, (_, decay) in found.items() if key.endswith("weight")}


def layer(x: Tensor, name: str, stage: str) -> Tensor:
    """A 5x5 convolution with pad 2 and its ReLU."""
    core = cifar(name).get_submodule(f"{stage}.conv")
    return F.conv2d(x, core.weight, core.bias, padding=2).relu()


def dense(x: Tensor, name: str, stage: str) -> Tensor:
    core = cifar(name).get_submodule(f"{stage}.fc")
    return F.linear(x.flatten(1), core.weight, core.bias)


def max_pool(x: Tensor) -> Tensor:
    """3/2; a last window that reaches over the edge takes what there is."""
    over = (x.shape[-1] - 3) % 2
    return F.max_pool2d(F.pad(x, (0, over, 0, over), value=-math.inf), 3, 2)


@pytest.mark.parametrize("name", CIFAR)
def test_the_cifar_nets_inputs_and_rates(name: str) -> None:
    """All: 0..255 minus the per-pixel mean, batch 128, momentum 0.9, lr 0.001 for weights, 0.002 for biases."""
    config: Any = experiment(name)
    side = closed(name).input_size or 0
    images = torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8)
    preprocess = Preprocess(closed(name).input, 3, side)
    preprocess.fit(Statistics(pixel_mean=images.float().mean(0)))
    torch.testing.assert_close(preprocess(images), images.float() - images.float().mean(0))
    assert (config.data.batch_size, config.optim.name, config.optim.momentum) == (128, "krizhevsky", 0.9)
    for key, (rate, _) in rates_and_decays(name).items():
        assert rate == pytest.approx(0.002 if key.endswith("bias") else 0.001), key


def test_the_26pct_net() -> None:
    """Conv 32, max; conv 32, avg; conv 64, avg; fc 64; fc 10. std .0001 .01 .01 .1 .1; decay .004, fcs .03."""
    name, images = "cuda_convnet_26pct", random(2, 3, 32, 32, scale=60)
    x = max_pool(layer(images, name, "conv1"))
    x = average_pool_by_hand(layer(x, name, "conv2"))
    x = average_pool_by_hand(layer(x, name, "conv3"))
    torch.testing.assert_close(cifar(name)(images), dense(dense(x, name, "fc64").relu(), name, "fc10"))
    outputs = [row.shape for row in layers(closed(name)) if row.multiply_adds]
    assert outputs == [(32, 32, 32), (32, 16, 16), (64, 8, 8), (64,), (10,)]
    std = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1}
    assert starts(name) == pytest.approx(std, rel=0.1)
    assert decays(name) == dict.fromkeys(("conv1", "conv2", "conv3"), 0.004) | dict.fromkeys(("fc64", "fc10"), 0.03)


def test_the_18pct_net() -> None:
    """The same without fc 64, a within-map norm (n 3, scale 5e-5, beta .75, k 1) after the first two pools."""
    name, images = "cuda_convnet_18pct", random(2, 3, 32, 32, scale=6000)
    x = within_map_by_the_formula(max_pool(layer(images, name, "conv1")), 3, 5e-5, 0.75, 1)
    x = within_map_by_the_formula(average_pool_by_hand(layer(x, name, "conv2")), 3, 5e-5, 0.75, 1)
    x = average_pool_by_hand(layer(x, name, "conv3"))
    torch.testing.assert_close(cifar(name)(images), dense(x, name, "fc10"))
    std = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01}
    assert starts(name) == pytest.approx(std, rel=0.1)


def test_the_18pct_nets_recipe() -> None:
    """fc 10 decay 1; 120 epochs, then lr/10 for 10, then lr/100 for 10; no augmentation."""
    config: Any = experiment("cuda_convnet_18pct")
    assert decays("cuda_convnet_18pct") == {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc10": 1.0}
    assert curve(config.schedule, config.trainer.max_epochs, 1) == pytest.approx([1] * 120 + [0.1] * 10 + [0.01] * 10)
    assert (config.data.pad, config.data.mirror) == (0, False)


def conv_local(images: Tensor, name: str, normalize: Callable[[Tensor], Tensor]) -> Tensor:
    """The 13 and the 11 % net: a norm after pool1 and between conv2's ReLU and pool2."""
    x = normalize(max_pool(layer(images, name, "conv1")))
    x = max_pool(normalize(layer(x, name, "conv2")))
    for stage in ("local3", "local4"):
        x = by_the_pixel(cifar(name).get_submodule(f"{stage}.local"), x).relu()
    return dense(x, name, "fc10")


def across(x: Tensor) -> Tensor:
    """cuda-convnet's LRN of 9 maps: the scale .001 divided by 9, k 1."""
    return lrn_by_the_formula(x, 9, 0.001 / 9, 0.75, 1, Convention.paper, 1)


def test_the_13pct_net() -> None:
    """24x24; conv 64, max; conv 64, max; two locally connected 3x3 layers pad 1 of 32 maps, std .04; fc 10."""
    name, images = "cuda_convnet_13pct", random(2, 3, 24, 24, scale=60)
    torch.testing.assert_close(cifar(name)(images), conv_local(images, name, lambda x: x))
    outputs = [row.shape for row in layers(closed(name)) if row.multiply_adds]
    assert outputs == [(64, 24, 24), (64, 12, 12), (32, 6, 6), (32, 6, 6), (10,)]
    std = {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}
    assert starts(name) == pytest.approx(std, rel=0.1)


def test_locally_connected_weights_are_unshared() -> None:
    """Unshared weights: as many as a convolution has, at each of 6x6 pixels; and a bias for each output unit."""
    counted = {row.name: row.parameters for row in layers(closed("cuda_convnet_13pct"))}
    assert counted["local3.local"] == 36 * (32 * 64 * 9 + 32) == numbers(full("cuda_convnet_13pct").local3)
    assert counted["local4.local"] == 36 * (32 * 32 * 9 + 32) == numbers(full("cuda_convnet_13pct").local4)


@pytest.mark.parametrize("name", ["cuda_convnet_13pct", "cuda_convnet_11pct"])
def test_the_13pct_nets_recipe(name: str) -> None:
    """Crops of 24 out of 32; decay 0, 0, .004, .004, fc .004 (.01 in the 11 % net); 9-view test, no mirror in it."""
    config: Any = experiment(name)
    fc = {"cuda_convnet_13pct": 0.004, "cuda_convnet_11pct": 0.01}[name]
    assert decays(name) == {"conv1": 0, "conv2": 0, "local3": 0.004, "local4": 0.004, "fc10": fc}
    assert (closed(name).input_size, config.data.pad, config.data.crop) == (24, 0, None)
    data = ImageData(Random(size=32, n=8, classes=10), 24, 3, seed=1)
    data.setup()
    assert data.crop == 24
    assert config.test.views == 9
    places = coordinates(1)[:, :, :32, :32]
    views = crop_views(places, 24, 9)
    corners = [(int(view[0, 0, 0, 0]), int(view[0, 1, 0, 0])) for view in views]
    assert corners == [(top, left) for top in (0, 4, 8) for left in (0, 4, 8)]


def test_the_11pct_net() -> None:
    """The same with 64 and 32 local maps, LRN (n 9, scale .001, beta .75, k 1) after pool1 and before pool2."""
    name, images = "cuda_convnet_11pct", random(2, 3, 24, 24, scale=60000)
    torch.testing.assert_close(cifar(name)(images), conv_local(images, name, across))
    assert not torch.allclose(cifar(name)(images), conv_local(images, name, lambda x: x), rtol=1e-3)
    outputs = [row.shape for row in layers(closed(name)) if row.multiply_adds]
    assert outputs == [(64, 24, 24), (64, 12, 12), (64, 6, 6), (32, 6, 6), (10,)]
    std = {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}
    assert starts(name) == pytest.approx(std, rel=0.1)


def test_from_13_to_11_is_not_lrn_alone() -> None:
    """13 -> 11 is NOT an LRN-only change: the LRN ablation is the 13% net with LRN on and off."""
    plain, ablated = cifar("cuda_convnet_13pct"), AlexNet(closed("cuda_convnet_13pct", "norm=lrn")).double().eval()
    ablated.load_state_dict(plain.state_dict())  # the same parameters: nothing else is changed
    images = random(2, 3, 24, 24, scale=60000)
    torch.testing.assert_close(ablated(images), conv_local(images, "cuda_convnet_13pct", across))
    assert numbers(cifar("cuda_convnet_11pct")) != numbers(ablated)
    assert vars(closed("cuda_convnet_13pct", "norm=lrn").lrn) == vars(closed("cuda_convnet_11pct").lrn)


@pytest.mark.parametrize("name", CIFAR)
def test_pooling_sizes_are_rounded_up(name: str) -> None:
    """Pooling sizes are rounded up (ceil mode)."""
    for stage in ("conv1", "conv2"):
        pool = list(cifar(name).get_submodule(stage).children())
        pool = [module for module in pool if isinstance(module, nn.MaxPool2d | nn.AvgPool2d)]
        for side in (32, 24, 16, 12, 7):
            out = math.ceil((side - 3) / 2) + 1
            assert pool[0](torch.zeros(1, 1, side, side)).shape[2:] == (out, out)


def test_an_average_pool_divides_by_what_is_inside_the_map() -> None:
    """An average pool divides by the part of its window inside the map."""
    ones, ramp = torch.ones(1, 2, 32, 32), random(2, 3, 32, 32)
    for stage in ("conv2", "conv3"):
        pool = cifar("cuda_convnet_26pct").get_submodule(stage).avg
        torch.testing.assert_close(pool(ramp), average_pool_by_hand(ramp))
        assert (pool(ones) == 1).all()  # also where a window reaches over the edge
