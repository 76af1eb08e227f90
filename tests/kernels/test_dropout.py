"""ReLU and dropout: what the operator computes, and that both candidates drop the same units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.dropout import _drawn, relu_dropout

NATIVE = pytest.param(True, marks=pytest.mark.skipif(library() is None, reason="no kernels here"), id="native")
CANDIDATES = [NATIVE, pytest.param(False, id="torch")]


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()


def murmur(bits: int) -> int:
    """The last steps of MurmurHash3, of Python's integers."""
    bits = (bits ^ bits >> 16) * 0x85EBCA6B % 2**32
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 % 2**32
    return bits ^ bits >> 16


def test_the_drawn_numbers_are_those_of_the_formula() -> None:
    for low, high in ((0, 0), (-1, 2**31 - 1), (-(2**31), 77)):
        wanted = [murmur((murmur(i ^ low % 2**32) + high) % 2**32) for i in range(1000)]
        assert _drawn(1000, low, high).tolist() == wanted


@pytest.mark.parametrize("native", CANDIDATES)
@pytest.mark.parametrize("p", [0.3, 1 - 1e-12])
def test_dropout_drops_its_share_and_scales_the_rest(native: bool, p: float) -> None:
    x = values(64, 1024).requires_grad_()
    y = relu_dropout(x, p, native)
    y.sum().backward()
    kept = y != 0
    assert x.grad is not None
    torch.testing.assert_close(y.detach(), torch.where(kept, x.detach().double() / (1 - p), 0).bfloat16())
    torch.testing.assert_close(x.grad, torch.where(kept, 1 / (1 - p), 0.0).bfloat16())
    above = kept[x > 0].double()
    assert not kept[x <= 0].any()
    assert abs(float(above.mean()) - (1 - p)) < 5 * (p * (1 - p) / above.numel()) ** 0.5


@pytest.mark.parametrize("native", CANDIDATES)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_gradient_has_the_memory_format_of_the_maps(native: bool, layout: torch.memory_format) -> None:
    x, given = values(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_(), values(2, 3, 4, 5)
    for g in (given, given.contiguous(memory_format=torch.channels_last)):
        x.grad = None
        y = relu_dropout(x, 0.5, native)
        assert y.is_contiguous(memory_format=layout)
        y.backward(g)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.where(y != 0, 2 * given, 0))


@pytest.mark.parametrize("native", CANDIDATES)
def test_masks_are_drawn_from_torchs_generator_and_independent(native: bool) -> None:
    ones = torch.ones(2**18, dtype=torch.bfloat16)

    def mask(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return relu_dropout(ones, 0.5, native).ne(0).double() * 2 - 1

    first, again, other = mask(1), mask(1), mask(2)
    assert first.equal(again)
    noise = 5 / len(ones) ** 0.5
    assert abs(float((first * other).mean())) < noise
    for lag in (1, 2, 16, 2048, 2**17):
        assert abs(float((first * first.roll(lag)).mean())) < noise
    torch.manual_seed(1)
    two = relu_dropout(ones, 0.5, native), relu_dropout(ones, 0.5, native)
    assert not two[0].equal(two[1])


@pytest.mark.skipif(library() is None, reason="no kernels here")
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_both_candidates_give_the_same_bits(layout: torch.memory_format) -> None:
    x = values(3, 7, 5, 11).contiguous(memory_format=layout)
    x.view(torch.int16)[0, :3, 0, 0] = torch.tensor([0x7FC0, 0x7F80, -0x80], dtype=torch.int16)  # nan, inf, -inf
    found = []
    for native in (True, False):
        torch.manual_seed(3)
        given = x.clone().requires_grad_()
        y = relu_dropout(given, 0.2, native)
        y.backward(values(3, 7, 5, 11))
        assert given.grad is not None
        found += [y.detach(), given.grad]
    for ours, theirs in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("native", CANDIDATES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_values_stay_nonfinite(native: bool, value: float) -> None:
    assert not relu_dropout(torch.full((100,), value).bfloat16(), 0.5, native).isfinite().all()
