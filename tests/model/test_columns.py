"""A network in columns equals the whole one: layout, exchanges, forward and backward, in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_exp.errors import Refused
from alexnet_exp.model import columns_layout, cost
from alexnet_exp.model.columns import (
    ColumnDropout,
    ColumnGroup,
    ColumnNetwork,
    Exchange,
    cut_parameter,
    cut_state,
    join,
)
from alexnet_exp.model.network import AlexNet, MaskDropout
from alexnet_exp.model.spec import Network

NetworkOf = Callable[..., Network]
OWN = ("groups=2", "stages.conv2.columns=own")
# Every kind of module there is: LRN, the within-map norm and average pooling, batch norm, unshared weights, `to6`.
VARIANTS = [
    ("paper", "width=0.0625", "dropout=0"),
    ("code", "width=0.0625", "dropout=0"),
    ("bn", "width=0.0625", "dropout=0", *OWN),
    ("bn", "width=0.046875", "dropout=0", "groups=3", *(f"stages.conv{n}.out=192" for n in (2, 5)), "num_classes=9"),
    ("torchvision", "width=0.0625", "dropout=0", *OWN),
    ("cuda_convnet_18pct", *OWN),
    ("cuda_convnet_13pct", *OWN),
]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: f"{variant[0]}-{variant[-1]}")


class Threads:
    """Ranks that are threads of one process: what one hands over lies where the others find it.

    Like torch's collectives they take nothing that is not contiguous.
    """

    def __init__(self, rank: int, ranks: int, barrier: Barrier, table: list[Any]):
        self.rank, self.ranks, self.barrier, self.table = rank, ranks, barrier, table

    def gather(self, own: Tensor) -> list[Tensor]:
        assert own.is_contiguous()
        self.table[self.rank] = own
        self.barrier.wait(10)
        found = [each.clone() for each in self.table]
        self.barrier.wait(10)
        return found

    def scatter(self, parts: Tensor) -> Tensor:
        return torch.stack([everyone[self.rank] for everyone in self.gather(parts)])


def on_ranks(ranks: int, work: Callable[[Threads], Any]) -> list[Any]:
    barrier, table = Barrier(ranks), [None] * ranks
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: work(Threads(rank, ranks, barrier, table)), range(ranks)))


def built(spec: Network) -> AlexNet:
    torch.manual_seed(1)
    return AlexNet(spec).double()


# --- counts


def test_facts_a_column_is_half_of_the_2012_network(network_of: NetworkOf) -> None:
    own = cost.totals(columns_layout.rank_layers(network_of("paper")))
    assert own.parameters == 60_965_224 // 2
    assert own.multiply_adds == 724_406_816 // 2
    # the paper's 650,000 neurons, 659,272 by our count
    assert own.activations == 659_272 // 2
    kernels = {
        layer.name: layer.shape[0] for layer in columns_layout.rank_layers(network_of("paper")) if layer.activations
    }
    assert list(kernels.values()) == [48, 128, 192, 192, 128, 2048, 2048, 500]


def test_facts_columns_exchange_before_conv3_and_the_fully_connected_layers_alone(network_of: NetworkOf) -> None:
    for name in ("paper", "code"):
        crossings = columns_layout.crossings(network_of(name))
        assert [(each.stage, each.forward, each.backward) for each in crossings] == [
            ("conv3", 256 * 13 * 13, 256 * 13 * 13),
            ("fc6", 256 * 6 * 6, 256 * 6 * 6),
            ("fc7", 4096, 4096),
            ("fc8", 4096, 4096),
            ("loss", 1000, 0),
        ]


@each_variant
def test_a_rank_holds_what_was_counted(network_of: NetworkOf, variant: tuple[str, ...]) -> None:
    spec = network_of(*variant)
    network = ColumnNetwork(AlexNet(spec), ColumnGroup(0, spec.groups))
    counted = cost.totals(columns_layout.rank_layers(spec))
    assert sum(parameter.numel() for parameter in network.parameters()) == counted.trainable_parameters
    assert counted.parameters * spec.groups == cost.totals(cost.layers(spec)).parameters
    assert counted.multiply_adds * spec.groups == cost.totals(cost.layers(spec)).multiply_adds


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        (("lrn",), "groups=1: the network has no columns"),
        (("paper", "num_classes=9"), "num_classes=9: 9 units cannot be split evenly over 2 columns"),
        (("paper", "stages.fc6.out=4095"), "stages.fc6.out=4095: 4095 units cannot be split evenly over 2"),
        (("paper", "width=0.3"), "stages.fc6.out: 1229 units cannot be split evenly over 2 columns; choose"),
        (("paper", "groups=1", "in_channels=3"), "groups=1: the network has no columns"),
        (("bn", *OWN, "stages.conv1.first=[norm]", "stages.conv1.then=[act,pool]"), "stages.conv1.first=[norm]: batch"),
        (
            ("code", "norm=none", "in_channels=2", "stages.conv1.columns=own"),
            "stages.conv1.columns=own: the input of the first",
        ),
    ],
)
def test_networks_that_cannot_be_split_are_rejected_in_one_line(
    network_of: NetworkOf, variant: tuple[str, ...], said: str
) -> None:
    with pytest.raises(Refused) as refused:
        columns_layout.layout(network_of(*variant))
    assert any(line.startswith(said) for line in str(refused.value).splitlines()), str(refused.value)


# --- cutting and joining


@each_variant
def test_joining_inverts_cutting(network_of: NetworkOf, variant: tuple[str, ...]) -> None:
    spec = network_of(*variant)
    whole = built(spec).state_dict()
    parts = [cut_state(whole, rank, spec.groups) for rank in range(spec.groups)]
    own = ColumnNetwork(built(spec), ColumnGroup(1, spec.groups)).state_dict()
    assert list(own) == list(whole), "parameters are named as in the whole network"
    for name, value in whole.items():
        assert torch.equal(join(name, [part[name] for part in parts]), value)
        assert torch.equal(own[name], parts[1][name])


def test_a_column_has_its_own_kernels_and_half_the_units(network_of: NetworkOf) -> None:
    whole = built(network_of("paper", "width=0.0625")).state_dict()
    assert whole["conv2.conv.weight"].shape[:2] == (16, 3)  # grouped already: each kernel sees one column
    assert torch.equal(
        cut_parameter("conv2.conv.weight", whole["conv2.conv.weight"], 1, 2), whole["conv2.conv.weight"][8:]
    )
    assert torch.equal(cut_parameter("fc6.fc.weight", whole["fc6.fc.weight"], 0, 2), whole["fc6.fc.weight"][:128])
    local = torch.arange(2 * 2 * 3 * 3 * 4 * 6).view(2, 2, 3, 3, 4, 6)
    assert torch.equal(cut_parameter("local3.local.weight", local, 1, 2), local[..., 3:])


def test_state_dicts_of_the_whole_network_and_of_a_column_load_into_a_column(network_of: NetworkOf) -> None:
    spec = network_of("bn", "width=0.0625", *OWN)
    torch.manual_seed(2)
    other = AlexNet(spec).double().state_dict()
    column = ColumnNetwork(built(spec), ColumnGroup(1, 2))
    expected = cut_state(other, 1, 2)
    for state in (dict(other), expected):
        column.load_state_dict(state)
        assert all(torch.equal(value, expected[name]) for name, value in column.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch"):
        column.load_state_dict({**other, "fc8.fc.bias": torch.zeros(7)})


# --- forward and backward


@each_variant
def test_columns_compute_the_same_as_the_whole_network(network_of: NetworkOf, variant: tuple[str, ...]) -> None:
    spec = network_of(*variant, size=32 if variant[0].startswith(("bn", "cuda")) else 224)
    torch.manual_seed(3)
    images = torch.randn(3, spec.in_channels or 3, spec.input_size or 0, spec.input_size or 0).double()
    labels = torch.arange(3)
    whole = built(spec)
    logits = whole(images)
    F.cross_entropy(logits, labels).backward()

    def column(link: Threads) -> tuple[Tensor, ColumnNetwork]:
        network = ColumnNetwork(networks[link.rank], link)
        logits = network(images)
        F.cross_entropy(logits, labels).backward()
        return logits.detach(), network

    networks = [built(spec) for _ in range(spec.groups)]
    found = on_ranks(spec.groups, column)
    columns = [dict(network.named_parameters()) for _, network in found]
    for own, network in found:
        torch.testing.assert_close(own, logits, rtol=1e-11, atol=1e-11)
        for name, value in network.named_buffers():
            expected = cut_parameter(name, dict(whole.named_buffers())[name], network.link.rank, spec.groups)
            torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)
    for name, parameter in whole.named_parameters():
        gradient = join(name, [each[name].grad for each in columns])
        torch.testing.assert_close(
            gradient, parameter.grad, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
        )
    # of 3 images, in 8 bytes a number, both ways together
    predicted = {each.stage: (24 * each.forward, 24 * each.backward) for each in columns_layout.crossings(spec)}
    sent = [network.sent() for _, network in found]
    assert predicted == {stage: tuple(sum(each[stage][way] for each in sent) for way in (0, 1)) for stage in predicted}


def test_an_exchange_sums_gradients_unless_they_are_replicated() -> None:
    own = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]
    weights = [torch.tensor([[1.0, 10.0, 100.0, 1000.0]]), torch.tensor([[2.0, 20.0, 200.0, 2000.0]])]

    def through(replicated: bool) -> Callable[[Threads], tuple[Any, ...]]:
        def work(link: Threads) -> tuple[Any, ...]:
            exchange, x = Exchange(link, "fc", replicated), own[link.rank].clone().requires_grad_()
            everyone = exchange(x)
            (everyone * weights[0 if replicated else link.rank]).sum().backward()
            return everyone.tolist(), x.grad.tolist(), exchange.sent

        return work

    all_of_it = [[1.0, 2.0, 3.0, 4.0]]
    assert on_ranks(2, through(False)) == [(all_of_it, [[3.0, 30.0]], [8, 8]), (all_of_it, [[300.0, 3000.0]], [8, 8])]
    assert on_ranks(2, through(True)) == [(all_of_it, [[1.0, 10.0]], [8, 0]), (all_of_it, [[100.0, 1000.0]], [8, 0])]


def test_exchanges_keep_channels_last(network_of: NetworkOf) -> None:
    maps = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last)

    def there_and_back(link: Threads) -> tuple[Tensor, Tensor]:
        exchange = Exchange(link, "conv3")
        return exchange(maps), exchange.scatter(gradient)

    for rank, (found, back) in enumerate(on_ranks(2, there_and_back)):
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(found, torch.cat([maps, maps], dim=1))
        assert back.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(back, 2 * gradient.chunk(2, dim=1)[rank])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [nn.Dropout, MaskDropout])
@pytest.mark.parametrize("shape", [(5, 8), (3, 4, 6, 6)])
def test_columns_drop_the_same_units_as_one_device(kind: type[nn.Dropout], shape: tuple[int, ...], last: bool) -> None:
    whole, units = kind(0.3), torch.randn(shape)
    if last and units.ndim == 4:
        units = units.contiguous(memory_format=torch.channels_last)
    halves = [ColumnDropout(0.3, 0.7 if kind is MaskDropout else 1.0, ColumnGroup(rank, 2)) for rank in (0, 1)]
    torch.manual_seed(5)
    expected, after = whole(units), torch.rand(1)
    for rank, half in enumerate(halves):
        own = units.chunk(2, dim=1)[rank]
        if last and units.ndim == 4:
            own = own.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(5)
        assert torch.equal(half(own), expected.chunk(2, dim=1)[rank])
        assert torch.equal(torch.rand(1), after), "and leaves the generator as the whole layer would"
        assert torch.equal(half.eval()(own), whole.eval()(units).chunk(2, dim=1)[rank])
        whole.train()


def test_dropout_of_the_image_is_the_same_on_every_rank(network_of: NetworkOf) -> None:
    spec = network_of("paper", "width=0.0625", "stages.conv1.first=[drop]", "stages.fc6.then=[act]")
    column = ColumnNetwork(built(spec), ColumnGroup(1, 2))
    kinds = {name: type(module) for name, module in column.named_modules() if name.endswith("drop")}
    assert kinds == {"conv1.drop": MaskDropout, "fc7.drop": ColumnDropout}


def test_a_column_can_be_copied(network_of: NetworkOf) -> None:
    """As an average of the weights is."""
    column = ColumnNetwork(built(network_of("paper", "width=0.0625")), ColumnGroup(0, 2))
    copied = copy.deepcopy(column)
    assert copied.link == column.link
    assert copied.fc8.fc.bias is not column.fc8.fc.bias
