"""FLOP of a training step, against loops over every product that a step computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alexnet_exp.bench.flop import REST, Flop, counted, counted_by_running
from alexnet_exp.config.compose import compose_run
from alexnet_exp.config.resolve import resolve_network
from alexnet_exp.model.cost import layers
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.spec import Network


def fc(units: int, inputs: int) -> int:
    """Multiply-adds of a fully connected layer, counted one unit at a time."""
    return sum(inputs for _unit in range(units))


def network(*overrides: str) -> Network:
    spec, _, _ = resolve_network(compose_run(overrides).config)
    assert isinstance(spec, Network)
    return spec


def conv(side: int, out: int, maps: int, kernel: int) -> int:
    """Multiply-adds of a convolution, counted one output value at a time."""
    count = 0
    for _row in range(side):
        for _column in range(side):
            for _map in range(out):
                count += maps * kernel * kernel
    return count


def test_the_tutorials_network_by_hand() -> None:
    """As its YAML says: 3x3 windows, unpadded in conv1 and conv2; pools of 3 with stride 2; a last map of 1 or 2."""
    found = counted(layers(network("experiment=tutorial")))
    multiply_adds = {
        "conv1.conv": conv(30, 96, 3, 3),  # pooled to 14
        "conv2.conv": conv(12, 256, 96, 3),  # pooled to 5
        "conv3.conv": conv(5, 384, 256, 3),
        "conv4.conv": conv(5, 384, 384, 3),
        "conv5.conv": conv(5, 256, 384, 3),  # pooled to 2
        "fc6.fc": fc(2048, 256 * 2 * 2),
        "fc7.fc": fc(2048, 2048),
        "fc8.fc": fc(10, 2048),
    }
    assert {name: flop.forward for name, flop in found.items()} == {name: 2 * n for name, n in multiply_adds.items()}
    # of a step: the output, the weights' gradients, and the input's, but for the image, whose gradient nobody needs
    expected = {name: 6 * n for name, n in multiply_adds.items()} | {"conv1.conv": 4 * multiply_adds["conv1.conv"]}
    assert {name: flop.all for name, flop in found.items()} == expected
    assert sum(multiply_adds.values()) == 117_909_632
    assert sum(expected.values()) == 702_792_192


def test_the_papers_network() -> None:
    spec = network("model=paper", "data=random")
    found = counted(layers(spec))
    conv1 = 55 * 55 * 96 * 3 * 11 * 11
    assert sum(flop.forward for flop in found.values()) == 2 * 724_406_816
    assert sum(flop.all for flop in found.values()) == 6 * 724_406_816 - 2 * conv1


@pytest.mark.parametrize("overrides", [("model=paper", "model.width=0.05", "data=random"), ("model=bn",)])
def test_torch_counts_the_same(overrides: tuple[str, ...]) -> None:
    spec = network(*overrides)
    ours = counted(layers(spec))
    theirs = counted_by_running(AlexNet(spec), int(spec.in_channels or 0), int(spec.input_size or 0))
    assert theirs == ours


class Forked(nn.Module):
    """A network that is no chain: its input is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4 * 8 * 8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.left(images) + self.right(images)).flatten(1)
        out: torch.Tensor = self.last(maps @ torch.eye(4 * 8 * 8))
        return out


def test_a_network_of_the_users_is_counted_and_left_as_it_was() -> None:
    forked = Forked()
    before = {key: value.clone() for key, value in forked.state_dict().items()}
    drawn = torch.get_rng_state()
    found = counted_by_running(forked, channels=3, size=8)
    left, right, last = 8 * 8 * 4 * 3 * 9, 8 * 8 * 4 * 3, 4 * 8 * 8 * 5
    rest = (4 * 8 * 8) ** 2
    assert found == {
        "left": Flop(2 * left, 2 * left),
        "right": Flop(2 * right, 2 * right),
        "last": Flop(2 * last, 4 * last),
        REST: Flop(2 * rest, 4 * rest),
    }
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in forked.parameters())
    assert all(torch.equal(value, before[key]) for key, value in forked.state_dict().items())
