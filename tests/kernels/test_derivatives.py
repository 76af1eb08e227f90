"""A kernel without a second derivative raises instead of returning a constant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import alexnet_exp
from alexnet_exp.kernels import batch_norm, convolution, dropout
from alexnet_exp.kernels.derivatives import first_order
from alexnet_exp.model import columns
from alexnet_exp.model.lrn import _Response


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


OWN = [convolution._Convolution, batch_norm._BatchNormReLU, dropout._ReLUDropout, columns._Exchanged]


@pytest.mark.parametrize("function", OWN)
def test_the_kernels_without_a_second_derivative_raise(function: type[torch.autograd.Function]) -> None:
    with torch.enable_grad(), pytest.raises(RuntimeError, match="create_graph=True"):
        function.backward(None, torch.ones(1))


def test_no_other_autograd_function_exists() -> None:
    found: set[str] = set()
    for source in Path(alexnet_exp.__file__).parent.rglob("*.py"):
        found |= set(re.findall(r"class (\w+)\(torch\.autograd\.Function\)", source.read_text()))
    assert found == {function.__name__ for function in (*OWN, _Response)}


@pytest.mark.skipif(
    not convolution.has_bfloat16_products(), reason="this processor has no kernels for the bfloat16 step"
)
def test_the_second_derivative_of_a_fused_convolution_raises() -> None:
    x = torch.ones(1, 64, 4, 4, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = convolution.convolution(x, torch.ones(64, 64, 3, 3, requires_grad=True), None, 1)
    with pytest.raises(RuntimeError, match="Convolution has no second derivative; set ALEXNET_EXP_NATIVE=0"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
