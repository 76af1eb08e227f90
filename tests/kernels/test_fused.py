"""The fused bfloat16 kernels equal torch's modules in float64, and run only where they apply."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from alexnet_exp.kernels import batch_norm, convolution, dropout
from alexnet_exp.model.stage import FusedStage

ROUNDED = 2**-8  # bfloat16 keeps 8 bits: the bound of a value, relative, and so of a whole tensor in the Euclidean norm
SUMMED = 1e-5  # of what is summed in float32 and stays it


@pytest.fixture(autouse=True)
def _needs_the_kernels() -> None:
    if not convolution.has_bfloat16_products():
        pytest.skip("this processor has no kernels for bfloat16 products")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that ran, in order."""
    names: list[str] = []
    for module, name in (
        (convolution, "convolution"),
        (batch_norm, "batch_norm_relu"),
        (batch_norm, "frozen_norm_relu"),
        (dropout, "relu_dropout"),
    ):
        monkeypatch.setattr(module, name, recorded(name, getattr(module, name), names))
    return names


def recorded(name: str, call: Callable[..., Tensor], names: list[str]) -> Callable[..., Tensor]:
    def and_noted(*args: object) -> Tensor:
        names.append(name)
        return call(*args)

    return and_noted


def maps(*shape: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Of bfloat16, channels_last where they are maps."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + shift
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return drawn.bfloat16().contiguous(memory_format=layout)


def rounded(layer: nn.Module) -> nn.Module:
    """The layer in float64, its weights as the kernels multiply them: rounded to bfloat16 where they are multiplied."""
    wide = copy.deepcopy(layer).double()
    for module in wide.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.bfloat16().double()
    return wide


def results(layer: nn.Module, x: Tensor, *, bf16: bool) -> dict[str, Tensor]:
    """Output, gradient of the input and of each parameter, each buffer afterwards; the output's gradient is random."""
    layer, x = copy.deepcopy(layer), x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = layer(x)
    g = maps(*y.shape, seed=9)
    y.backward(g.to(y.dtype))
    assert x.grad is not None
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    return {"y": y.detach(), "x.grad": x.grad, **gradients, **{n: b.clone() for n, b in layer.named_buffers()}}


def apart(found: Tensor, wanted: Tensor) -> float:
    norm = wanted.double().norm()
    return float((found.double() - wanted.double()).norm() / norm.clamp_min(1e-30))


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        tolerance = ROUNDED if value.dtype == torch.bfloat16 else SUMMED
        assert value.dtype in (torch.bfloat16, torch.float32, torch.int64)
        assert value.shape == wanted[name].shape
        assert apart(value, wanted[name]) <= tolerance, (name, apart(value, wanted[name]))


def norm_stage(channels: int, pool: nn.Module | None = None) -> FusedStage:
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3)
    nn.init.uniform_(norm.weight, -1, 2)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    return FusedStage(norm, nn.ReLU(inplace=True), *([pool] if pool else []))


POOLS = {
    "none": None,
    "3/2": nn.MaxPool2d(3, 2),
    "2/2": nn.MaxPool2d(2, 2),
    "3/2 up": nn.MaxPool2d(3, 2, ceil_mode=True),
    "3/1": nn.MaxPool2d(3, 1),
    "2/3": nn.MaxPool2d(2, 3),
    "5/2": nn.MaxPool2d(5, 2),
}


@pytest.mark.parametrize("shape", [(3, 16, 7, 9), (1, 23, 8, 6), (2, 40, 30, 5), (5, 3, 5, 5)])
@pytest.mark.parametrize("pool", POOLS)
def test_batch_norm_relu_and_pool_equal_torchs(ran: list[str], pool: str, shape: tuple[int, ...]) -> None:
    layer, x = norm_stage(shape[1], POOLS[pool]), maps(*shape, scale=2, shift=1)
    assert_close(results(layer, x, bf16=True), results(rounded(layer), x.double(), bf16=False))
    assert ran == ["batch_norm_relu"]


@pytest.mark.parametrize("pool", ["none", "3/2"])
def test_the_variance_survives_a_large_mean(pool: str) -> None:
    layer, x = norm_stage(32, POOLS[pool]), maps(4, 32, 9, 9, scale=2, shift=300)
    assert_close(results(layer, x, bf16=True), results(rounded(layer), x.double(), bf16=False))


@pytest.mark.parametrize("pool", ["none", "3/2"])
def test_evaluation_uses_the_running_statistics(ran: list[str], pool: str) -> None:
    layer, x = norm_stage(24, POOLS[pool]).eval(), maps(3, 24, 9, 9)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(x)
        wanted = rounded(layer)(x.double())
    assert apart(found, wanted) <= ROUNDED
    assert ran == ["frozen_norm_relu"]


def test_dropout_drops_its_share_and_scales_the_rest(ran: list[str]) -> None:
    layer, x = FusedStage(nn.ReLU(inplace=True), nn.Dropout(0.3)), maps(64, 1024)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.sum().backward()
    kept = y != 0
    assert x.grad is not None
    assert ran == ["relu_dropout"]
    torch.testing.assert_close(y.detach(), torch.where(kept, x.detach().double() / 0.7, 0).bfloat16())
    torch.testing.assert_close(x.grad, torch.where(kept, 1 / 0.7, 0.0).bfloat16())
    above = kept[x > 0].double()
    assert not kept[x <= 0].any()
    assert abs(float(above.mean()) - 0.7) < 5 * (0.3 * 0.7 / above.numel()) ** 0.5


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_gradient_of_dropout_has_the_memory_format_of_the_maps(layout: torch.memory_format, ran: list[str]) -> None:
    x = maps(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    given = torch.randn(2, 3, 4, 5).bfloat16()
    for g in (given, given.contiguous(memory_format=torch.channels_last)):
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            y = FusedStage(nn.ReLU(), nn.Dropout(0.5))(x)
        y.backward(g)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.where(y != 0, 2 * given, 0))
    assert ran == ["relu_dropout"] * 2


def test_masks_are_drawn_from_torchs_generator_and_independent() -> None:
    ones = torch.ones(2**18, dtype=torch.bfloat16)

    def mask(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return dropout.relu_dropout(ones, 0.5).ne(0).double() * 2 - 1

    first, again, other = mask(1), mask(1), mask(2)
    assert first.equal(again)
    noise = 5 / len(ones) ** 0.5
    assert abs(float((first * other).mean())) < noise
    for lag in (1, 2, 16, 2048, 2**17):
        assert abs(float((first * first.roll(lag)).mean())) < noise
    torch.manual_seed(1)
    two = dropout.relu_dropout(ones, 0.5), dropout.relu_dropout(ones, 0.5)
    assert not two[0].equal(two[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_values_stay_nonfinite(value: float) -> None:
    for layer, x in (
        (FusedStage(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()), maps(2, 64, 5, 5)),
        (norm_stage(64, POOLS["3/2"]), maps(2, 64, 5, 5)),
        (norm_stage(64), maps(2, 64, 5, 5)),
    ):
        x[0, 3, 2, 2] = value
        assert not results(layer, x, bf16=True)["y"].isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        dropped = FusedStage(nn.ReLU(), nn.Dropout())(torch.full((100,), value).bfloat16())
    assert not dropped.isfinite().all()


def test_the_bits_do_not_depend_on_the_threads_or_the_run() -> None:
    layer = FusedStage(nn.Conv2d(96, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(3, 2))
    layer, x = layer.to(memory_format=torch.channels_last), maps(9, 96, 13, 13)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(layer, x, bf16=True))
    finally:
        torch.set_num_threads(before)
    for name, value in found[0].items():
        assert all(value.equal(other[name]) for other in found[1:]), name
