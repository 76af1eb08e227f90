"""Counts equal those of the paper, torchvision and Keras, and of the network that torch builds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from alexnet_exp.errors import Refused
from alexnet_exp.model import cost
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.spec import Network

NetworkOf = Callable[..., Network]


def totals(spec: Network) -> cost.Totals:
    return cost.totals(cost.layers(spec))


def test_the_papers_network(network_of: NetworkOf) -> None:
    spec = network_of("paper")
    found = totals(spec)
    assert found.parameters == found.trainable_parameters == 60_965_224
    assert found.multiply_adds == 724_406_816
    assert found.activations == 659_272
    learned = [layer for layer in cost.layers(spec) if layer.activations]
    assert sum(layer.multiply_adds for layer in learned if layer.kind == "conv") == 665_784_864
    assert [layer.activations for layer in learned] == [290_400, 186_624, 64_896, 64_896, 43_264, 4_096, 4_096, 1_000]
    assert [layer.shape for layer in learned][:5] == [
        (96, 55, 55),
        (256, 27, 27),
        (384, 13, 13),
        (384, 13, 13),
        (256, 13, 13),
    ]


@pytest.mark.parametrize("name", ["paper", "code"])
def test_one_column(network_of: NetworkOf, name: str) -> None:
    found = totals(network_of(name, "groups=1"))
    assert (found.parameters, found.multiply_adds) == (62_378_344, 1_135_256_096)


def test_an_input_of_227_real_pixels_has_the_same_shapes(network_of: NetworkOf) -> None:
    real = network_of("paper", "input_size=227", "stages.conv1.pad=[0]")
    assert totals(real) == totals(network_of("paper"))


def test_published_counts_of_other_networks(network_of: NetworkOf) -> None:
    assert totals(network_of("torchvision")).parameters == 61_100_840
    tutorial = totals(network_of("tutorial"))
    assert (tutorial.parameters, tutorial.trainable_parameters) == (9_639_178, 9_638_474)


def built(spec: Network) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Name, output shape, stored and trainable numbers of each module that torch builds; no memory is used."""
    with torch.device("meta"):
        network = AlexNet(spec).eval()
    rows: list[tuple[str, tuple[int, ...], int, int]] = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
            learned = sum(parameter.numel() for parameter in module.parameters())
            trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
            running = sum(buffer.numel() for key, buffer in module.named_buffers() if key.startswith("running"))
            rows.append((name, tuple(output.shape[1:]), learned + running, trainable))

        module.register_forward_hook(hook)

    for name, module in network.named_modules():
        if not list(module.children()):
            watch(name, module)
    network(torch.empty(2, spec.in_channels or 0, spec.input_size or 0, spec.input_size or 0, device="meta"))
    return rows


def counted(spec: Network) -> list[tuple[str, tuple[int, ...], int, int]]:
    return [(row.name, row.shape, row.parameters, row.trainable_parameters) for row in cost.layers(spec)]


def test_every_variant_is_built_as_counted(network_of: NetworkOf, every_variant: str) -> None:
    spec = network_of(every_variant)
    assert counted(spec) == built(spec)


def test_every_variant_can_drop_a_layer(network_of: NetworkOf, every_variant: str) -> None:
    third = list(network_of(every_variant).present)[2]
    assert any(name.startswith(f"{third}.") for name, *_ in counted(network_of(every_variant)))
    spec = network_of(every_variant, f"stages.{third}=null")
    assert counted(spec) == built(spec)
    assert not any(name.startswith(f"{third}.") for name, *_ in counted(spec))


@pytest.mark.parametrize("size", [28, 29, 32, 47, 63, 64, 65, 96, 100, 224, 227])
@pytest.mark.parametrize("name", ["bn", "lrn", "none"])
def test_input_sizes_from_28_up_are_valid(network_of: NetworkOf, name: str, size: int) -> None:
    spec = network_of(name, size=size, channels=1, classes=10)
    assert counted(spec) == built(spec)
    assert counted(spec)[-1][1] == (10,)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("paper", ["width=0.3"]),
        ("paper", ["pool=disjoint", "dropout=0"]),
        ("paper", ["norm=bn"]),
        ("paper", ["groups=4", "in_channels=1", "num_classes=7"]),
        ("bn", ["stages.fc6.then=[norm,act,drop]", "groups=2"]),
        ("none", ["pool=disjoint", "activation=tanh", "stages.conv2.out=100"]),
        ("lrn", ["stages.fc7=null", "stages.conv2.kernel=7", "stages.conv2.pad=[1,2,3,4]"]),
        ("torchvision", ["norm=lrn", "groups=2", "input_size=64"]),
        ("cuda_convnet_26pct", ["pool=disjoint", "norm=lrn", "dropout=0.2", "input_size=33"]),
        ("cuda_convnet_18pct", ["pool_ceil=false", "input_size=24"]),
        ("cuda_convnet_13pct", ["groups=2", "input_size=31", "stages.local3.stride=2", "stages.local3.pad=[0,1,2,3]"]),
        ("cuda_convnet_11pct", ["norm=bn", "width=0.2", "stages.local4.then=[norm,act,avg]"]),
        ("lenet5", ["in_channels=3", "num_classes=7", "pool=overlapping", "activation=relu", "input_size=40"]),
    ],
)
def test_overrides_are_built_as_counted(network_of: NetworkOf, name: str, overrides: list[str]) -> None:
    spec = network_of(name, *overrides)
    assert counted(spec) == built(spec)


def test_multiply_adds_by_hand(network_of: NetworkOf) -> None:
    spec = network_of("cuda_convnet_18pct")
    by_hand = 32 * 32 * 32 * 3 * 25 + 16 * 16 * 32 * 32 * 25 + 8 * 8 * 64 * 32 * 25 + 64 * 4 * 4 * 10
    assert totals(spec).multiply_adds == by_hand


@pytest.mark.parametrize(
    ("name", "size", "overrides"),
    [("paper", 32, []), ("torchvision", 20, []), ("tutorial", 10, []), ("bn", 5, ["pool=disjoint"])],
)
def test_an_input_too_small_names_the_smallest_usable_size(
    network_of: NetworkOf, name: str, size: int, overrides: list[str]
) -> None:
    with pytest.raises(Refused, match=rf"^input_size={size}: no pixels are left after conv\d; the smallest") as refused:
        cost.layers(network_of(name, *overrides, f"input_size={size}"))
    smallest = int(str(refused.value).split()[-1])
    assert built(network_of(name, *overrides, f"input_size={smallest}"))
    with pytest.raises(Refused):
        cost.layers(network_of(name, *overrides, f"input_size={smallest - 1}"))


def test_the_message_for_an_input_too_small_for_the_paper(network_of: NetworkOf) -> None:
    with pytest.raises(Refused) as refused:
        cost.layers(network_of("paper", "input_size=32"))
    (problem,) = refused.value.problems
    assert str(problem.under("model")) == (
        "model.input_size=32: no pixels are left after conv5; the smallest usable size is 64"
    )


def test_maps_that_cannot_be_split_over_columns_are_rejected(network_of: NetworkOf) -> None:
    with pytest.raises(
        Refused, match=r"^stages\.conv1\.columns=own: its 3 maps cannot be split over groups=2 columns$"
    ):
        cost.layers(network_of("paper", "stages.conv1.columns=own"))


def test_a_network_that_is_not_completed_cannot_be_counted(variant: NetworkOf) -> None:
    with pytest.raises(ValueError, match="complete"):
        cost.layers(variant("bn"))


def test_counting_does_not_import_torch() -> None:
    command = "import alexnet_exp.model.cost, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
