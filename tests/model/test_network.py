"""The built network: equal to torchvision, 2012 dropout, pooling, columns, order of slots, initial values."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import alexnet

from alexnet_exp.model.network import AlexNet, MaskDropout
from alexnet_exp.model.spec import Network, Norm
from tests.model.by_hand import average_pool_by_hand

NetworkOf = Callable[..., Network]
TINY = ["width=0.03", "input_size=64", "in_channels=3", "num_classes=10"]


def test_torchvisions_state_dict_loads_strictly_and_returns_its_logits(network_of: NetworkOf) -> None:
    theirs = alexnet().eval()
    ours = AlexNet(network_of("torchvision")).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


def test_torchvisions_dropout_is_before_its_layers(network_of: NetworkOf) -> None:
    network = AlexNet(network_of("torchvision", *TINY))
    assert list(network.fc7._modules) == ["drop", "fc", "act"]


@pytest.mark.parametrize(
    ("name", "stage", "order"),
    [
        ("paper", "conv1", ["pad", "conv", "act", "norm", "pool"]),
        ("code", "conv1", ["pad", "conv", "norm", "pool", "act"]),
        ("code", "conv2", ["conv", "act", "norm", "mapnorm", "pool"]),
        ("bn", "conv1", ["conv", "norm", "act", "pool"]),
        ("tutorial", "conv2", ["conv", "norm", "act", "pool"]),
        ("none", "conv2", ["conv", "act", "pool"]),
        ("paper", "fc6", ["flat", "fc", "act", "drop"]),
    ],
)
def test_order_of_a_stage(network_of: NetworkOf, name: str, stage: str, order: list[str]) -> None:
    network = AlexNet(network_of(name, "width=0.1", size=64))
    assert list(network.get_submodule(stage)._modules) == order


@pytest.mark.parametrize("overrides", [[], ["norm=none"], ["norm=lrn", "dropout=0", "pool=disjoint"]])
def test_parameter_names_do_not_depend_on_norm_and_dropout(network_of: NetworkOf, overrides: list[str]) -> None:
    network = AlexNet(network_of("bn", *overrides, *TINY))
    learned = [key for key, _ in network.named_parameters() if ".norm." not in key]
    stages = ["conv1.conv", "conv2.conv", "conv3.conv", "conv4.conv", "conv5.conv", "fc6.fc", "fc7.fc", "fc8.fc"]
    assert learned == [f"{stage}.{kind}" for stage in stages for kind in ("weight", "bias")]


@pytest.mark.parametrize("norm", Norm)
def test_every_variant_trains_a_step(network_of: NetworkOf, every_variant: str, norm: Norm) -> None:
    """Each with each norm: an activation in place must not spoil what a gradient needs."""
    spec = network_of(every_variant, f"norm={norm}", "width=0.05", size=64)
    network = AlexNet(spec)
    images = torch.randn(4, spec.in_channels or 0, spec.input_size or 0, spec.input_size or 0)
    logits = network(images)
    assert logits.shape == (4, spec.num_classes)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    "override",
    ["norm=bn", "norm=lrn", "norm=none", "dropout=0.3", "pool=disjoint", "activation=tanh", "groups=2", "width=0.5"],
)
def test_every_setting_applies_to_every_variant(network_of: NetworkOf, every_variant: str, override: str) -> None:
    as_it_is, switched = network_of(every_variant), network_of(every_variant, override)
    with torch.device("meta"):
        # Printed, a network shows each of its modules with its settings.
        acted = str(AlexNet(switched)) != str(AlexNet(as_it_is))
    key = override.partition("=")[0]
    assert acted or getattr(as_it_is, key) == getattr(switched, key)  # it stands there already


def test_a_copy_loads_torchvisions_keys(network_of: NetworkOf) -> None:
    """Weight averaging trains on a deep copy."""
    network = copy.deepcopy(AlexNet(network_of("torchvision", *TINY)))
    layers = [f"features.{n}" for n in (0, 3, 6, 8, 10)] + [f"classifier.{n}" for n in (1, 4, 6)]
    keys = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    state = {key: torch.full_like(value, 3) for key, value in zip(keys, network.state_dict().values(), strict=True)}
    network.load_state_dict(state, strict=True)
    assert all((parameter == 3).all() for parameter in network.parameters())


def test_activations_do_not_change_the_input_in_place(network_of: NetworkOf) -> None:
    images = torch.randn(2, 3, 64, 64)
    before = images.clone()
    AlexNet(network_of("none", "stages.conv1.first=[act]", "stages.conv1.then=[norm,pool]", *TINY))(images)
    assert torch.equal(images, before)


def test_a_columns_output_depends_only_on_its_own_half(network_of: NetworkOf) -> None:
    network = AlexNet(network_of("paper", *TINY)).eval()
    maps = torch.randn(1, network.conv2.conv.in_channels, 7, 7)
    other = maps.clone()
    other[:, maps.shape[1] // 2 :] += 1
    first, second = (network.conv2(maps) - network.conv2(other)).abs().amax(dim=(0, 2, 3)).chunk(2)
    assert first.max() == 0
    assert second.max() > 0
    crossing = (network.conv3(network.conv2(maps)) - network.conv3(network.conv2(other))).abs().amax(dim=(0, 2, 3))
    assert crossing.chunk(2)[0].max() > 0


def test_the_papers_padding_reads_zeros_right_and_below(network_of: NetworkOf) -> None:
    network = AlexNet(network_of("paper", "width=0.05")).eval()
    images = torch.randn(1, 3, 224, 224)
    padded = torch.zeros(1, 3, 227, 227)
    padded[:, :, :224, :224] = images
    conv = network.conv1.conv
    expected = nn.functional.conv2d(padded, conv.weight, conv.bias, stride=4)
    torch.testing.assert_close(conv(network.conv1.pad(images)), expected)


def test_dropout_of_2012_is_a_mask_in_training_and_halves_at_test() -> None:
    units = torch.arange(1.0, 1001.0)
    dropout = MaskDropout(0.5)
    trained = dropout(units)
    kept = trained != 0
    assert torch.equal(trained[kept], units[kept])
    assert 400 < kept.sum() < 600
    assert torch.equal(dropout.eval()(units), units / 2)
    torch.testing.assert_close(MaskDropout(0.2).eval()(units), units * 0.8)


def test_dropout_scale_selects_the_module(network_of: NetworkOf) -> None:
    assert isinstance(AlexNet(network_of("paper", *TINY)).fc6.drop, MaskDropout)
    assert not isinstance(AlexNet(network_of("bn", *TINY)).fc6.drop, MaskDropout)


@pytest.mark.parametrize("side", [32, 16, 8, 15])
def test_average_pools_divide_by_the_pixels_inside_the_map(network_of: NetworkOf, side: int) -> None:
    network = AlexNet(network_of("cuda_convnet_26pct"))
    maps = torch.randn(2, 4, side, side)
    torch.testing.assert_close(network.conv2.avg(maps), average_pool_by_hand(maps))


def test_disjoint_pooling_is_2_by_2(network_of: NetworkOf) -> None:
    pool = AlexNet(network_of("bn", "pool=disjoint", *TINY)).conv1.pool
    assert (pool.kernel_size, pool.stride) == (2, 2)


@pytest.mark.parametrize(("activation", "module"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid)])
def test_activation(network_of: NetworkOf, activation: str, module: type) -> None:
    assert type(AlexNet(network_of("paper", f"activation={activation}", *TINY)).fc7.act) is module


STARTS = {
    "paper": {
        stage: (0.01, bias)
        for stage, bias in zip(("conv1", "conv2", "conv3", "conv4", "conv5"), (0, 1, 0, 1, 1), strict=True)
    }
    | {"fc6": (0.01, 1), "fc7": (0.01, 1), "fc8": (0.01, 0)},
    "cuda_convnet_26pct": {
        "conv1": (1e-4, 0),
        "conv2": (0.01, 0),
        "conv3": (0.01, 0),
        "fc64": (0.1, 0),
        "fc10": (0.1, 0),
    },
    "cuda_convnet_18pct": {"conv1": (1e-4, 0), "conv2": (0.01, 0), "conv3": (0.01, 0)},
    "cuda_convnet_13pct": {
        "conv1": (1e-4, 0),
        "conv2": (0.01, 0),
        "local3": (0.04, 0),
        "local4": (0.04, 0),
        "fc10": (0.01, 0),
    },
}
STARTS["cuda_convnet_11pct"] = STARTS["cuda_convnet_13pct"]
STARTS["code"] = STARTS["paper"] | {"conv3": (0.03, 0), "conv4": (0.03, 1), "conv5": (0.03, 1)}


@pytest.mark.parametrize("name", sorted(STARTS))
def test_initial_weights_are_those_of_the_source(network_of: NetworkOf, name: str) -> None:
    torch.manual_seed(0)
    network = AlexNet(network_of(name, "width=0.5", "input_size=64"))
    for stage, (std, bias) in STARTS[name].items():
        core = next(module for module in network.get_submodule(stage) if hasattr(module, "weight"))
        assert core.weight.std().item() == pytest.approx(std, rel=0.1), stage
        assert core.weight.mean().item() == pytest.approx(0, abs=std / 5), stage
        assert (core.bias == bias).all(), stage


def test_the_tutorial_has_the_initial_weights_of_keras(network_of: NetworkOf) -> None:
    torch.manual_seed(0)
    network = AlexNet(network_of("tutorial", "width=0.25"))
    conv, fc = network.conv3.conv, network.fc6.fc
    for core, fan_in, fan_out in ((conv, 64 * 9, 96 * 9), (fc, 256, 512)):
        limit = math.sqrt(6 / (fan_in + fan_out))
        assert core.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
        assert core.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
        assert (core.bias == 0).all()
    assert (network.conv1.norm.eps, network.conv1.norm.momentum) == (1e-3, 0.01)


@pytest.mark.parametrize("name", ["lrn", "none"])
def test_variants_without_batch_norm_have_the_initial_weights_of_he(network_of: NetworkOf, name: str) -> None:
    torch.manual_seed(0)
    network = AlexNet(network_of(name, "width=0.25", size=64))
    weight = network.conv3.conv.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)


def test_lrn_of_a_variant_has_its_settings(network_of: NetworkOf) -> None:
    paper, code = (AlexNet(network_of(name, *TINY)).conv1.norm for name in ("paper", "code"))
    assert (paper.size, paper.alpha, paper.beta, paper.k, paper.columns) == (5, 1e-4, 0.75, 2, 2)
    assert (str(paper.convention), str(code.convention)) == ("paper", "code")
    assert (code.size, code.alpha, code.beta, code.k, code.columns) == (5, 1e-4, 0.75, 2, 2)
    within = AlexNet(network_of("code", *TINY)).conv2.mapnorm
    assert (within.size, within.scale, within.beta, within.k) == (5, 0.001, 0.75, 1)
    within = AlexNet(network_of("cuda_convnet_18pct")).conv1.mapnorm
    assert (within.size, within.scale, within.beta, within.k) == (3, 5e-5, 0.75, 1)


def test_none_is_lrn_with_an_empty_norm_slot(network_of: NetworkOf) -> None:
    assert replace(network_of("none", "norm=lrn"), name="lrn") == network_of("lrn")


def test_lrn_variant_is_the_papers_on_another_scale(network_of: NetworkOf) -> None:
    """Dividing activations by 63.2 and multiplying alpha by its square gives the same function, divided by 63.2."""
    factor = math.sqrt(4000)
    ours = AlexNet(network_of("lrn", "width=0.1", size=64)).conv1.norm
    papers = AlexNet(network_of("paper", "groups=1", "width=0.1", "input_size=64")).conv1.norm
    maps = 100 * torch.randn(2, 10, 3, 3)
    torch.testing.assert_close(ours(maps / factor) * factor, papers(maps))
