"""Second derivatives through the kernels equal those of torch's modules; what has none raises."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import alexnet_exp
from alexnet_exp.kernels import batch_norm, convolution, dropout
from alexnet_exp.kernels.batch_norm import PoolWindow
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.convolution import Ways
from alexnet_exp.kernels.derivatives import first_order
from alexnet_exp.model import columns
from alexnet_exp.model.lrn import _Response

needs_kernels = pytest.mark.skipif(library() is None, reason="no kernels here")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


def test_first_order_rejects_create_graph() -> None:
    x = torch.ones(3, requires_grad=True)
    assert torch.autograd.grad(Doubled.apply(x).sum(), x)[0].tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match=r"create_graph=True: Doubled has no second derivative"):
        torch.autograd.grad(Doubled.apply(x).sum(), x, create_graph=True)


def test_the_exchange_of_columns_raises() -> None:
    with torch.enable_grad(), pytest.raises(RuntimeError, match="create_graph=True"):
        columns._Exchanged.backward(None, torch.ones(1))


def test_every_autograd_function_is_tested_here_or_with_lrn() -> None:
    found: set[str] = set()
    for source in Path(alexnet_exp.__file__).parent.rglob("*.py"):
        found |= set(re.findall(r"class (\w+)\(torch\.autograd\.Function\)", source.read_text()))
    tested = [convolution._Convolution, batch_norm._BatchNormReLU, dropout._ReLUDropout, columns._Exchanged, _Response]
    assert found == {function.__name__ for function in tested}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def penalties(function: Callable[..., Tensor], *operands: Tensor) -> list[Tensor]:
    """The gradients of a loss that holds the squared norm of the gradient of every operand."""
    operands = tuple(each.detach().clone().requires_grad_() for each in operands)
    first = torch.autograd.grad(function(*operands).square().sum(), operands, create_graph=True)
    return [*torch.autograd.grad(sum(each.square().sum() for each in first), operands)]


def assert_equal_to_float64(ours: Callable[..., Tensor], torchs: Callable[..., Tensor], *operands: Tensor) -> None:
    found, wanted = penalties(ours, *operands), penalties(torchs, *(each.double() for each in operands))
    for one, other in zip(found, wanted, strict=True):
        assert (one.double() - other).norm() <= 1e-4 * other.norm()
        assert other.norm() > 0


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
def test_a_convolution_has_second_derivatives(relu: bool) -> None:
    def ours(*operands: Tensor) -> Tensor:
        return convolution.convolve(*operands, 2, 1, relu, Ways("packed", "packed", "packed"))

    def torchs(*operands: Tensor) -> Tensor:
        y = F.conv2d(*operands, 2, 1, groups=2)
        return y.relu() if relu else y

    assert_equal_to_float64(ours, torchs, drawn(2, 6, 7, 5), drawn(8, 3, 3, 3, seed=1), drawn(8, seed=2))


@needs_kernels
@pytest.mark.parametrize("window", [PoolWindow(), PoolWindow(3, 2, True)])
def test_batch_norm_has_second_derivatives(window: PoolWindow) -> None:
    def ours(*operands: Tensor) -> Tensor:
        return batch_norm.batch_norm_relu(*operands, 1e-3, None, window)

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3).relu()
        return F.max_pool2d(y, 3, 2, ceil_mode=True) if window.kernel > 1 else y

    assert_equal_to_float64(ours, torchs, drawn(3, 5, 6, 7), drawn(5, seed=1), drawn(5, seed=2))


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False])
def test_dropout_has_second_derivatives(native: bool) -> None:
    x = drawn(40).bfloat16().requires_grad_()
    y = dropout.relu_dropout(x, 0.5, native)
    (first,) = torch.autograd.grad((y.double() ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    # y = 2 x where it is kept: the second derivative of y ** 3 is 48 x
    torch.testing.assert_close(second.double(), torch.where(y > 0, 48 * x.double(), 0), rtol=2e-2, atol=0)


def test_a_frozen_operand_gets_no_gradient() -> None:
    if library() is None:
        pytest.skip("no kernels here")
    x, weight = drawn(1, 4, 5, 5).requires_grad_(), drawn(4, 4, 3, 3, seed=1)
    y = convolution.convolve(x, weight, None, 1, 1, False, Ways("packed", "packed", "packed"))
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.norm() > 0
