"""Both normalizations against float64 loops written from the formulas, and against torch's own op."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alexnet_exp.model.lrn import LRN, WithinMapNorm
from alexnet_exp.model.spec import Convention
from tests.model.by_hand import lrn_by_the_formula, within_map_by_the_formula


def maps(*shape: int, scale: float = 100.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Activations of the size that LRN meets on inputs of 0..255, so that its sum outweighs k."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(scale).to(dtype)


@pytest.mark.parametrize("convention", Convention)
@pytest.mark.parametrize(("columns", "channels"), [(1, 12), (2, 12), (4, 12), (1, 2), (1, 1)])
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_lrn_is_the_formula(convention: Convention, columns: int, channels: int, size: int) -> None:
    a = maps(2, channels, 3, 4)
    normalized = LRN(size, 1e-3, 0.6, 1.5, convention, columns)(a)
    torch.testing.assert_close(normalized, lrn_by_the_formula(a, size, 1e-3, 0.6, 1.5, convention, columns))


def test_each_column_is_normalized_by_itself() -> None:
    a = maps(2, 8, 3, 3)
    halves = torch.cat([LRN()(half) for half in a.chunk(2, dim=1)], dim=1)
    torch.testing.assert_close(LRN(columns=2)(a), halves)
    assert not torch.allclose(LRN(columns=1)(a), halves)


@pytest.mark.parametrize(("convention", "torchs_alpha"), [(Convention.code, 1e-4), (Convention.paper, 5e-4)])
def test_lrn_is_torchs_under_the_right_alpha(convention: Convention, torchs_alpha: float) -> None:
    a = maps(2, 96, 5, 5, dtype=torch.float32)
    reference = torch.nn.LocalResponseNorm(5, torchs_alpha, 0.75, 2)(a)
    torch.testing.assert_close(LRN(5, 1e-4, 0.75, 2, convention)(a), reference)


@pytest.mark.parametrize("layer", [LRN(columns=2), WithinMapNorm()], ids=["lrn", "within_map"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype_comes_back_as_itself(layer: torch.nn.Module, dtype: torch.dtype) -> None:
    # 300 squared is beyond float16: computed in half precision the result would be 0.
    a = maps(2, 6, 5, 5, scale=300.0, dtype=dtype)
    normalized = layer(a)
    assert normalized.dtype == dtype
    torch.testing.assert_close(normalized.double(), layer(a.double()), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_lrn_takes_channels_last_and_vectors() -> None:
    a = maps(2, 6, 4, 5)
    torch.testing.assert_close(LRN()(a.contiguous(memory_format=torch.channels_last)), LRN()(a))
    torch.testing.assert_close(LRN()(a[:, :, 0, 0]), LRN()(a)[:, :, 0, 0])


@pytest.mark.parametrize("convention", Convention)
def test_lrn_gradient(convention: Convention) -> None:
    a = maps(2, 6, 2, 2, scale=3.0).requires_grad_()
    assert torch.autograd.gradcheck(LRN(5, 0.1, 0.75, 2, convention, columns=2), a)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_within_map_norm_is_the_formula(size: int) -> None:
    x = maps(2, 3, 6, 4)
    normalized = WithinMapNorm(size, 1e-3, 0.6, 1.5)(x)
    torch.testing.assert_close(normalized, within_map_by_the_formula(x, size, 1e-3, 0.6, 1.5))


def test_within_map_norm_gradient() -> None:
    x = maps(1, 2, 4, 4, scale=3.0).requires_grad_()
    assert torch.autograd.gradcheck(WithinMapNorm(3, 0.5), x)
