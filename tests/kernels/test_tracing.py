"""A kernel replaces torch's operators only where nothing traces them, and reads only tensors that have memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import alexnet_exp
from alexnet_exp.kernels.tracing import is_plain_cpu_tensor, operators_are_traced


def during_jit_trace(probe: Callable[[Tensor], Tensor]) -> None:
    torch.jit.trace(probe, torch.ones(2), check_trace=False)


def during_export(probe: Callable[[Tensor], Tensor]) -> None:
    class Probed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return probe(x)

    torch.export.export(Probed(), (torch.ones(2),), strict=False)


def during_forward_differentiation(probe: Callable[[Tensor], Tensor]) -> None:
    with forward_ad.dual_level():
        probe(torch.ones(2))


def during_flop_counting(probe: Callable[[Tensor], Tensor]) -> None:
    with FlopCounterMode(display=False):
        probe(torch.ones(2))


def during_vmap(probe: Callable[[Tensor], Tensor]) -> None:
    torch.func.vmap(probe)(torch.ones(2, 2))


def during_func_grad(probe: Callable[[Tensor], Tensor]) -> None:
    torch.func.grad(lambda x: probe(x).sum())(torch.ones(2))


@pytest.mark.parametrize(
    "trace",
    [
        during_jit_trace,
        during_export,
        during_forward_differentiation,
        during_flop_counting,
        during_vmap,
        during_func_grad,
    ],
)
def test_operators_are_traced_during(trace: Callable[[Callable[[Tensor], Tensor]], None]) -> None:
    seen = []

    def probe(x: Tensor) -> Tensor:
        seen.append(operators_are_traced())
        return 2 * x

    trace(probe)
    assert seen
    assert all(seen)
    assert not operators_are_traced(), "it ends with the trace"


def test_plain_training_is_not_traced() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert not operators_are_traced()


def test_plain_cpu_tensors_have_the_dtype_and_memory() -> None:
    x = torch.ones(2, 3)
    assert is_plain_cpu_tensor(x, torch.float32, torch.bfloat16)
    assert is_plain_cpu_tensor(nn.Parameter(x), torch.float32)
    assert not is_plain_cpu_tensor(x, torch.bfloat16)
    assert not is_plain_cpu_tensor(x.to("meta"), torch.float32)
    assert not is_plain_cpu_tensor(x.to_sparse(), torch.float32)
    assert not is_plain_cpu_tensor(torch.ones(2, dtype=torch.complex64).conj().imag, torch.float32)


def test_one_module_asks_torch_whether_it_traces() -> None:
    asks = re.compile(r"is_compiling|is_tracing|_get_tracing_state|functorch|_dispatch_stack|_current_dispatch_mode")
    files = [file for file in Path(alexnet_exp.__file__).parent.rglob("*.py") if asks.search(file.read_text())]
    assert [file.name for file in files] == ["tracing.py"]
