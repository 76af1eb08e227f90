"""Every candidate of a convolution equals torch's in float64, in each direction and precision that it applies to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.kernels import convolution
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.convolution import CANDIDATES, DIRECTIONS, ConvolutionShape, Ways, applies, convolve

ROUNDED = 2**-8  # bfloat16 keeps 8 bits: the bound of a value, relative, and so of a whole tensor in the Euclidean norm
SUMMED = 1e-5  # of what is summed in float32
CHANNELS_LAST = torch.channels_last
DTYPES = (torch.float32, torch.bfloat16)


class Case(NamedTuple):
    n: int
    maps_in: int
    maps_out: int
    kernel: int
    stride: int
    pad: int
    sides: tuple[int, int]
    groups: int = 1


CASES = [
    Case(7, 64, 128, 3, 1, 1, (5, 5)),
    Case(3, 96, 64, 3, 1, 0, (8, 6)),
    Case(1, 48, 96, 5, 1, 2, (4, 7)),
    Case(6, 192, 48, 1, 1, 0, (3, 3)),
    Case(13, 128, 144, 3, 1, 2, (2, 3)),
    Case(2, 64, 64, 3, 1, 1, (1, 1)),
    Case(5, 64, 64, 3, 1, 0, (40, 40)),
    Case(2, 3, 96, 11, 4, 2, (35, 38)),
    Case(3, 3, 48, 4, 2, 1, (32, 32)),
    Case(2, 1, 1, 3, 1, 1, (5, 4)),
    Case(1, 5, 7, 3, 2, 0, (7, 8)),
    Case(3, 5, 7, 4, 1, 0, (4, 4)),  # one window, the whole map
    Case(3, 5, 7, 3, 1, 4, (1, 2)),  # windows that see only padding
    Case(2, 6, 9, 2, 3, 1, (7, 7)),  # pixels between the windows
    Case(2, 6, 9, 1, 2, 0, (5, 5)),
    Case(3, 8, 12, 3, 1, 1, (5, 6), 2),
    Case(3, 8, 12, 1, 1, 0, (5, 6), 4),
    Case(2, 6, 12, 5, 2, 2, (9, 9), 6),
    Case(2, 96, 192, 3, 1, 1, (6, 6), 2),
    Case(35, 17, 23, 3, 1, 1, (5, 5)),
    # AMX: 32 images and 32 maps at once, in halves of 16. Without it: maps that are no multiple of 32.
    Case(49, 32, 160, 3, 1, 1, (5, 4)),
    Case(35, 64, 32, 2, 1, 0, (15, 15)),
    Case(13, 48, 128, 3, 1, 1, (3, 4)),
]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return drawn.contiguous(memory_format=CHANNELS_LAST) if len(shape) == 4 else drawn


class Problem:
    """The tensors of a case, and what torch makes of them in float64."""

    def __init__(self, case: Case, dtype: torch.dtype, relu: bool = False):
        self.case, self.dtype, self.relu = case, dtype, relu
        self.x = draw(case.n, case.maps_in, *case.sides, seed=1, dtype=dtype)
        self.weight = draw(case.maps_out, case.maps_in // case.groups, case.kernel, case.kernel, seed=2)
        self.bias = draw(case.maps_out, seed=3)
        self.shape = ConvolutionShape.of(self.x.shape, self.weight.shape, case.stride, case.pad)
        x, bias = self.x.double().requires_grad_(), self.bias.double().requires_grad_()
        weight = self.weight.to(dtype).double().requires_grad_()
        y = F.conv2d(x, weight, bias, case.stride, case.pad, groups=case.groups)
        self.g = draw(*y.shape, seed=4, dtype=dtype)
        if relu:  # rounding decides on which side of 0 a small value is
            self.g = torch.where(y.detach().abs() > y.std() / 8, self.g, 0)
            y = y.relu()
        torch.autograd.backward(y, self.g)
        self.wanted = _results(y, x, weight, bias)

    def by(self, ways: Ways, layout: torch.memory_format = CHANNELS_LAST) -> dict[str, Tensor]:
        """The result and the gradients."""
        x = self.x.clone().requires_grad_()
        weight = self.weight.clone(memory_format=layout).requires_grad_()
        bias = self.bias.clone().requires_grad_()
        y = convolve(x, weight, bias, self.case.stride, self.case.pad, self.relu, ways)
        torch.autograd.backward(y, self.g)
        return _results(y, x, weight, bias)


def _results(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    found = {"y": y.detach()}
    for name, each in (("x", x), ("weight", weight), ("bias", bias)):
        assert each.grad is not None
        found[name] = each.grad
    return found


def everywhere(candidate: str) -> Ways:
    return Ways(candidate, candidate, candidate)


def noted(direction: str, ran: list[str], by: str | None = None) -> Callable[..., Any]:
    """The function of a direction, which adds its name and candidate to `ran`; `by`: the candidate that runs."""
    function = getattr(convolution, direction)

    def computed(candidate: str, *arguments: object, **named: object) -> object:
        ran.append(f"{direction} {candidate}")
        return function(by or candidate, *arguments, **named)

    return computed


def assert_close(found: Tensor | None, wanted: Tensor, tolerance: float) -> None:
    assert found is not None
    assert found.shape == wanted.shape
    apart = (found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30)
    assert apart <= tolerance, float(apart)


def needs(candidate: str, problem: Problem, *directions: str) -> None:
    if not all(applies(each, candidate, problem.shape, problem.dtype) for each in directions or DIRECTIONS):
        pytest.skip(f"{candidate} does not apply")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_direction_equals_torchs_in_float64(case: Case, candidate: str, dtype: torch.dtype) -> None:
    problem, ran = Problem(case, dtype), 0
    x, g, weight, shape, wanted = problem.x, problem.g, problem.weight, problem.shape, problem.wanted
    # The library rounds products of bfloat16 that it adds up later.
    tolerance = SUMMED if dtype == torch.float32 else ROUNDED * (1 if candidate == "native" else 2)
    if applies("forward", candidate, shape, dtype):
        ran += 1
        for relu in (False, True):
            y = convolution.forward(candidate, x, weight, problem.bias, shape, relu)
            assert_close(y, wanted["y"].relu() if relu else wanted["y"], tolerance)
            assert y.dtype == dtype
            assert y.is_contiguous(memory_format=CHANNELS_LAST)
        without = convolution.forward(candidate, x, weight, None, shape)
        assert_close(without, wanted["y"] - problem.bias.double()[:, None, None], 2 * tolerance)
    if applies("input_gradient", candidate, shape, dtype):
        ran += 1
        dx = convolution.input_gradient(candidate, g, x, weight, shape)
        assert_close(dx, wanted["x"], tolerance)
        assert dx.dtype == dtype
    if applies("weight_gradient", candidate, shape, dtype):
        ran += 1
        dw, db = convolution.weight_gradient(candidate, g, x, shape)
        assert dw.dtype == torch.float32
        assert_close(dw, wanted["weight"], SUMMED if candidate == "native" else tolerance)
        assert_close(db, wanted["bias"], ROUNDED if candidate == "torch" else SUMMED)
        assert convolution.weight_gradient(candidate, g, x, shape, bias=False)[1] is None
    if not ran:
        pytest.skip(f"{candidate} does not apply")


def test_packed_applies_wherever_there_are_kernels() -> None:
    shape = ConvolutionShape.of((2, 6, 9, 9), (12, 1, 5, 5), 2, 2)
    for dtype in DTYPES:
        assert applies("forward", "packed", shape, dtype) == (library() is not None)
    assert not applies("forward", "packed", shape, torch.float64)
    assert applies("forward", "torch", shape, torch.float64)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "ways", [*map(everywhere, CANDIDATES), Ways("torch", "native", "packed"), Ways("packed", "torch", "native")]
)
def test_the_function_computes_all_directions(ways: Ways, dtype: torch.dtype, relu: bool) -> None:
    for case in (CASES[0], CASES[7]):  # native: torch where it does not apply
        problem = Problem(case, dtype, relu)
        for layout in (CHANNELS_LAST, torch.contiguous_format):
            found = problem.by(ways, layout)
            tolerance = SUMMED if dtype == torch.float32 else 2 * ROUNDED
            for name, wanted in problem.wanted.items():
                assert_close(found[name], wanted, tolerance)
            assert found["weight"].dtype == torch.float32
            assert found["weight"].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("ways", [Ways("native", "packed", "torch"), Ways("packed", "native", "packed")])
def test_each_direction_is_computed_by_its_candidate(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    for direction in DIRECTIONS:
        monkeypatch.setattr(convolution, direction, noted(direction, ran, "torch"))
    monkeypatch.setattr(convolution, "applies", lambda *_: True)
    Problem(CASES[0], torch.float32).by(ways)
    assert ran == [f"{direction} {way}" for direction, way in zip(DIRECTIONS, ways, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("candidate", CANDIDATES)
def test_frozen_tensors_get_no_gradient(candidate: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(CASES[0], dtype)
    ran: list[str] = []
    for direction in DIRECTIONS[1:]:
        monkeypatch.setattr(convolution, direction, noted(direction, ran))
    for needed in ((False, True, True), (True, False, False), (False, True, False), (False, False, True)):
        x, weight, bias = (
            each.clone().requires_grad_(flag)
            for each, flag in zip((problem.x, problem.weight, problem.bias), needed, strict=True)
        )
        ran.clear()
        y = convolve(x, weight, bias, 1, 1, False, everywhere(candidate))
        torch.autograd.backward(y, problem.g)
        assert [each.grad is not None for each in (x, weight, bias)] == [*needed]
        assert [each.split()[0] for each in ran] == ["input_gradient"] * needed[0] + ["weight_gradient"] * needed[1]
        for name, each in (("x", x), ("weight", weight), ("bias", bias)):
            if each.requires_grad:
                assert_close(each.grad, problem.wanted[name], SUMMED if dtype == torch.float32 else 2 * ROUNDED)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [CASES[0], CASES[7], CASES[15], CASES[16]], ids=str)
def test_parts_give_what_the_whole_gives(case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(case, dtype)
    needs("packed", problem)
    found = []
    for size in (2**30, 5000, 1):
        monkeypatch.setattr(convolution, "WINDOWS_BYTES", size)
        found.append(problem.by(everywhere("packed")))
    for other in found[1:]:
        for name, value in found[0].items():
            tolerance = 1e-6 if dtype == torch.float32 else 2 * ROUNDED
            assert_close(other[name], value.double(), tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("candidate", ["packed", "native"])
def test_the_same_threads_give_the_same_bits(candidate: str, dtype: torch.dtype, threads: None) -> None:
    problem = Problem(Case(9, 96, 128, 3, 1, 1, (13, 13)), dtype, relu=True)
    needs(candidate, problem, "weight_gradient")
    found = {}
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        first, again = (problem.by(everywhere(candidate)) for _ in range(2))
        for name, value in first.items():
            assert value.equal(again[name]), name
        found[count] = first
    if candidate == "native":  # whose bits do not depend on the threads; those of the library's products may
        names = [name for name in found[1] if dtype == torch.bfloat16 or name == "weight"]
        assert all(found[1][name].equal(found[count][name]) for count in (2, 3) for name in names)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("candidate", ["packed", "native"])
def test_nonfinite_values_spread_as_in_torch(candidate: str, dtype: torch.dtype, value: float) -> None:
    for relu in (False, True):
        problem = Problem(CASES[0], dtype, relu)
        problem.x[0, 3, 2, 2] = value
        problem.g[1, 4, 3, 3] = value
        found, wanted = problem.by(everywhere(candidate)), problem.by(everywhere("torch"))
        for name, each in wanted.items():
            assert not each.isfinite().all()
            assert found[name].isfinite().equal(each.isfinite()), name


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_an_empty_batch_is_torchs(candidate: str) -> None:
    x, weight = torch.empty(0, 64, 5, 5).requires_grad_(), draw(64, 64, 3, 3, seed=1).requires_grad_()
    y = convolve(x, weight, None, 1, 1, True, everywhere(candidate))
    torch.autograd.backward(y.sum())
    assert y.shape == (0, 64, 5, 5)
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_a_window_larger_than_the_map_is_torchs_error(candidate: str) -> None:
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        convolve(draw(2, 64, 2, 2, seed=1), draw(64, 64, 5, 5, seed=2), None, 1, 1, False, everywhere(candidate))
