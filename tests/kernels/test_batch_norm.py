"""The kernel of batch norm, ReLU and max pool equals torch's operators in float64, in float32 and in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.kernels.batch_norm import NO_POOL, PoolWindow, RunningStatistics, batch_norm_relu, frozen_norm_relu
from alexnet_exp.kernels.native import native

EPS, MOMENTUM = 1e-3, 0.3
WINDOWS = {
    "none": NO_POOL,
    "3/2": PoolWindow(3, 2),
    "2/2": PoolWindow(2, 2),
    "2/2 up": PoolWindow(2, 2, ceil=True),
    "3/2 up": PoolWindow(3, 2, ceil=True),
    "3/1": PoolWindow(3, 1),
    "2/3": PoolWindow(2, 3),
    "5/2": PoolWindow(5, 2),
    "15/1": PoolWindow(15, 1),
}
SHAPES = [  # channels below, at and beside the lanes of a vector and of several; odd and even sides
    (3, 16, 7, 9),
    (1, 23, 8, 6),
    (2, 40, 30, 5),
    (5, 3, 5, 5),
    (7, 1, 6, 5),
    (2, 131, 5, 7),
    (300, 9, 1, 1),
]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-8}  # relative, of a whole tensor in the Euclidean norm
SUMMED = 1e-5  # of what is summed, and stays, in float32

pytestmark = pytest.mark.skipif(native().library is None, reason=native().why)


@pytest.fixture(params=TYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return TYPES[request.param]


def maps(*shape: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + shift
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def parameters(channels: int) -> tuple[Tensor, Tensor, RunningStatistics]:
    """Gains of both signs, biases, running statistics."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(channels, generator=generator) * 3 - 1
    bias, mean = torch.randn(2, channels, generator=generator)
    return weight, bias, RunningStatistics(mean, torch.rand(channels, generator=generator) + 0.5, MOMENTUM)


def kernel_results(x: Tensor, window: PoolWindow) -> dict[str, Tensor]:
    weight, bias, running = parameters(x.shape[1])
    x, weight, bias = (each.detach().requires_grad_() for each in (x, weight, bias))
    y = batch_norm_relu(x, weight, bias, EPS, running, window)
    return _with_gradients(y, x, weight, bias, running)


def torch_results(x: Tensor, window: PoolWindow, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    weight, bias, running = parameters(x.shape[1])
    running = RunningStatistics(running.mean.to(dtype), running.variance.to(dtype), MOMENTUM)
    x, weight, bias = (each.detach().to(dtype).requires_grad_() for each in (x, weight, bias))
    normed = F.batch_norm(x, running.mean, running.variance, weight, bias, True, MOMENTUM, EPS)
    return _with_gradients(pooled(normed, window), x, weight, bias, running)


def pooled(normed: Tensor, window: PoolWindow) -> Tensor:
    positive = F.relu(normed)
    return positive if window == NO_POOL else F.max_pool2d(positive, *window[:2], ceil_mode=window.ceil)


def _with_gradients(
    y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, running: RunningStatistics
) -> dict[str, Tensor]:
    """Output, gradients and running statistics; the gradient of the output is random, exact in bfloat16."""
    above = maps(*y.shape, dtype=torch.bfloat16, seed=9).to(y.dtype)
    dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), above)
    return {"y": y.detach(), "x": dx, "weight": dweight, "bias": dbias, "mean": running.mean, "var": running.variance}


def apart(found: Tensor, wanted: Tensor) -> float:
    norm = wanted.double().norm()
    return float(((found.double() - wanted.double()).norm() / norm.clamp_min(1e-30)).detach())


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in found.items():
        tolerance = ROUNDING[value.dtype] if name in ("y", "x") else SUMMED
        assert value.shape == wanted[name].shape
        assert apart(value, wanted[name]) <= tolerance, (name, apart(value, wanted[name]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("window", WINDOWS)
def test_results_and_gradients_equal_torchs(window: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if WINDOWS[window].kernel > min(shape[2:]):
        shape = (*shape[:2], 15, 16)
    x = maps(*shape, dtype=dtype, scale=2, shift=1)
    found = kernel_results(x, WINDOWS[window])
    assert found["y"].dtype == found["x"].dtype == dtype
    assert found["y"].is_contiguous(memory_format=torch.channels_last)
    assert_close(found, torch_results(x, WINDOWS[window]))


@pytest.mark.parametrize("shape", [(9, 20, 2, 2), (3, 1, 2, 5), (1, 33, 4, 2)], ids=str)
def test_a_window_larger_than_the_maps_is_cut_off(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, window = maps(*shape, dtype=dtype), PoolWindow(3, 2, ceil=True)
    assert_close(kernel_results(x, window), torch_results(x, window))


@pytest.mark.parametrize("window", ["none", "3/2"])
def test_the_variance_survives_a_large_mean(window: str, dtype: torch.dtype) -> None:
    x = maps(4, 40, 9, 9, dtype=dtype, scale=2, shift=300)
    found, wanted, torchs = (
        kernel_results(x, WINDOWS[window]),
        torch_results(x, WINDOWS[window]),
        torch_results(x, WINDOWS[window], torch.float32),
    )
    for name in found:
        bound = 2 * apart(torchs[name], wanted[name]) + (ROUNDING[dtype] if name in ("y", "x") else SUMMED)
        assert apart(found[name], wanted[name]) <= bound, name


@pytest.mark.parametrize("window", ["none", "3/2"])
def test_evaluation_uses_the_running_statistics(window: str, dtype: torch.dtype) -> None:
    x = maps(3, 24, 9, 9, dtype=dtype)
    weight, bias, running = parameters(24)
    found = frozen_norm_relu(x, weight, bias, EPS, running, WINDOWS[window])
    normed = F.batch_norm(*(each.double() for each in (x, running.mean, running.variance, weight, bias)), eps=EPS)
    assert found.dtype == dtype
    assert apart(found, pooled(normed, WINDOWS[window])) <= ROUNDING[dtype]
    assert running.mean.equal(parameters(24)[2].mean)


def test_without_running_statistics_nothing_is_recorded(dtype: torch.dtype) -> None:
    x, (weight, bias, running) = maps(3, 8, 5, 5, dtype=dtype), parameters(8)
    wanted = batch_norm_relu(x, weight, bias, EPS, running)
    assert batch_norm_relu(x, weight, bias, EPS, None).equal(wanted)


@pytest.mark.parametrize("window", ["none", "3/2", "2/2"])
def test_of_equal_values_the_first_gets_the_gradient_as_in_torch(window: str, dtype: torch.dtype) -> None:
    x = maps(4, 16, 9, 9, dtype=dtype).round()  # few values: many windows hold their largest more than once
    assert_close(kernel_results(x, WINDOWS[window]), torch_results(x, WINDOWS[window]))


@pytest.mark.parametrize("window", ["none", "3/2", "2/2 up"])
def test_of_zero_images_the_first_value_of_a_window_gets_the_gradient(window: str, dtype: torch.dtype) -> None:
    x = maps(3, 19, 7, 9, dtype=dtype, scale=0)
    assert_close(kernel_results(x, WINDOWS[window]), torch_results(x, WINDOWS[window]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("window", ["none", "3/2", "2/2", "2/3"])
def test_a_nonfinite_gradient_stays_in_its_channel(window: str, value: float, dtype: torch.dtype) -> None:
    x, (weight, bias, _) = maps(2, 24, 7, 7, dtype=dtype), parameters(24)
    y = batch_norm_relu(x.requires_grad_(), weight.requires_grad_(), bias, EPS, None, WINDOWS[window])
    above = torch.ones_like(y)
    above[0, 3].masked_fill_(y[0, 3] > 0, value)
    dx, dweight = torch.autograd.grad(y, (x, weight), above)
    channels = torch.arange(24)
    assert (y[0, 3] > 0).any()
    assert dx.isfinite().all((0, 2, 3)).equal(channels != 3)
    assert dweight.isfinite().equal(channels != 3)


@pytest.mark.parametrize("window", ["none", "3/2"])
@pytest.mark.parametrize("gain", [0.0, -1.0])
def test_a_gain_of_zero_or_below(gain: float, window: str, dtype: torch.dtype) -> None:
    x, (_, bias, running) = maps(4, 16, 9, 9, dtype=dtype), parameters(16)
    weight = torch.full((16,), gain).requires_grad_()
    y = batch_norm_relu(x, weight, bias, EPS, running, WINDOWS[window])
    wide = weight.detach().double().requires_grad_()
    wanted = pooled(F.batch_norm(x.double(), None, None, wide, bias.double(), True, eps=EPS), WINDOWS[window])
    above = maps(*y.shape, dtype=torch.bfloat16, seed=9)
    (found,) = torch.autograd.grad(y, weight, above.to(y.dtype))
    (expected,) = torch.autograd.grad(wanted, wide, above.double())
    assert apart(y, wanted) <= ROUNDING[dtype]
    assert apart(found, expected) <= SUMMED


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("window", ["none", "3/2"])
def test_nonfinite_values_stay_nonfinite(window: str, value: float, dtype: torch.dtype) -> None:
    x = maps(2, 24, 5, 5, dtype=dtype)
    x[0, 3, 2, 2] = value
    found, wanted = kernel_results(x, WINDOWS[window]), torch_results(x, WINDOWS[window])
    for name in ("y", "x", "weight", "bias", "mean", "var"):
        of_others = [channel for channel in range(24) if channel != 3]
        channels = 1 if found[name].ndim == 4 else 0
        assert not found[name].select(channels, 3).isfinite().all() or wanted[name].select(channels, 3).isfinite().all()
        assert found[name].index_select(channels, torch.tensor(of_others)).isfinite().all()


def test_nan_in_a_window_is_its_largest_value(dtype: torch.dtype) -> None:
    x, (weight, bias, running) = maps(2, 24, 9, 9, dtype=dtype), parameters(24)
    x[0, 3, 4, 4] = float("nan")
    found = frozen_norm_relu(x, weight, bias, EPS, running, WINDOWS["3/2"])
    normed = F.batch_norm(*(each.double() for each in (x, running.mean, running.variance, weight, bias)), eps=EPS)
    assert found.isnan().equal(pooled(normed, WINDOWS["3/2"]).isnan())
    assert found.isnan().sum() == 4


def test_no_images_give_no_output(dtype: torch.dtype) -> None:
    found = kernel_results(maps(0, 24, 9, 9, dtype=dtype), WINDOWS["3/2"])
    assert found["y"].shape == (0, 24, 4, 4)
    wanted = torch_results(maps(0, 24, 9, 9, dtype=dtype), NO_POOL)  # torch pools no empty batch
    for name in ("x", "weight", "bias", "mean", "var"):
        torch.testing.assert_close(found[name].double(), wanted[name], rtol=0, atol=1e-7)


@pytest.fixture
def _restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_restored_threads")
@pytest.mark.parametrize("window", ["none", "3/2"])
def test_the_bits_do_not_depend_on_the_threads_or_the_run(window: str, dtype: torch.dtype) -> None:
    x, found = maps(9, 72, 13, 13, dtype=dtype), []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        found.append(kernel_results(x, WINDOWS[window]))
    for name, value in found[0].items():
        assert all(value.equal(other[name]) for other in found[1:]), name


def test_gradients_of_parameters_alone(dtype: torch.dtype) -> None:
    x, (weight, bias, running) = maps(3, 24, 9, 9, dtype=dtype), parameters(24)
    wanted = kernel_results(x, WINDOWS["3/2"])
    batch_norm_relu(x, weight.requires_grad_(), bias.requires_grad_(), EPS, running, WINDOWS["3/2"]).backward(
        maps(3, 24, 4, 4, dtype=torch.bfloat16, seed=9).to(dtype)
    )
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.equal(wanted["weight"])
    assert bias.grad.equal(wanted["bias"])


def test_a_gradient_in_another_layout(dtype: torch.dtype) -> None:
    x, (weight, bias, running) = maps(3, 24, 9, 9, dtype=dtype), parameters(24)
    above = maps(3, 24, 9, 9, dtype=dtype, seed=2)
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        y = batch_norm_relu(x.requires_grad_(), weight, bias, EPS, running)
        found.append(torch.autograd.grad(y, x, above.contiguous(memory_format=layout))[0])
    assert found[0].equal(found[1])
