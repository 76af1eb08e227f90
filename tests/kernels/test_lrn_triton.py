"""LRN on a GPU without a GPU: its Triton kernels in Triton's interpreter, and compiled for several GPUs.

The tests of tests/model/test_lrn.py run with these kernels, in a process of its own: triton reads TRITON_INTERPRET when
a kernel is defined.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alexnet_exp.kernels import lrn
from alexnet_exp.kernels.lrn import Formula
from alexnet_exp.model.lrn import LRN
from benchmarks import cuda_checks
from benchmarks.cuda_part import Check, Setup

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process of test_in_the_interpreter")
LONG = "shape0"  # more values than the interpreter computes in a few seconds


def run_interpreted(*arguments: str) -> None:
    """Runs tests in a process with Triton's interpreter."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", *arguments]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="is in the interpreter")
def test_in_the_interpreter() -> None:
    few = "test_an_empty or test_alpha_0 or test_squares or (test_lrn_and_its_gradient and 37 and 5-dtype)"
    run_interpreted("tests/kernels/test_lrn_triton.py")
    run_interpreted("tests/model/test_lrn.py", "-k", f"triton and ({few})")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="is in the interpreter")
def test_all_of_lrn_in_the_interpreter() -> None:
    run_interpreted("tests/model/test_lrn.py", "-k", "triton")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the kernels take tensors of the CPU, and compiled graphs call them."""
    from alexnet_exp.kernels import lrn_triton

    monkeypatch.setattr(lrn, "TRITON_DEVICE", "cpu")
    monkeypatch.setattr(lrn, "triton_kernels", lambda device: lrn_triton)
    lrn.load_operator(torch.device("cpu"))
    yield
    monkeypatch.setattr(lrn, "_operator", None)
    torch._dynamo.reset()


def inputs(dtype: torch.dtype = torch.float32, memory: torch.memory_format = torch.channels_last) -> list[Tensor]:
    torch.manual_seed(0)
    return [(scale * torch.randn(2, 6, 4, 5)).to(dtype).contiguous(memory_format=memory) for scale in (30, 1)]


def both(layer: object, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    a = a.detach().requires_grad_()
    b = layer(a)  # type: ignore[operator]
    return b.detach(), torch.autograd.grad(b, a, g)[0]


@interpreted
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_graph_calls_the_kernels(
    backend: str, memory: torch.memory_format, on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet_exp.kernels import lrn_triton

    layer, calls, run = LRN(columns=2), [], lrn_triton.run
    monkeypatch.setattr(lrn_triton, "run", lambda *arguments: calls.append(arguments) or run(*arguments))
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    a, g = inputs(memory=memory)
    found, expected = both(compiled, a, g), both(layer, a, g)
    assert len(calls) == 4
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == a.stride()


@interpreted
def test_an_export_contains_torchs_operators(on_cpu: None) -> None:
    a, _ = inputs()
    graph = torch.export.export(LRN(), (a,)).graph
    assert not [node for node in graph.nodes if "alexnet_exp" in str(node.target)]


@interpreted
@pytest.mark.parametrize(
    "a",
    [*inputs(), inputs(memory=torch.contiguous_format)[0], inputs()[0][:, :, ::2], torch.randn(4, 5)],
)
def test_the_operators_are_registered_correctly(a: Tensor, on_cpu: None) -> None:
    from alexnet_exp.kernels import lrn_triton

    formula = (1e-3, 0.75, 2.0, 2, 1)
    torch.library.opcheck(lrn_triton.normalize, (a.detach().requires_grad_(), *formula))
    torch.library.opcheck(lrn_triton.gradient, (a, torch.ones_like(a), *formula))


@interpreted
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_addresses_of_64_bits(memory: torch.memory_format, on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_exp.kernels import lrn_triton

    a, g = inputs(memory=memory)
    expected = both(LRN(), a, g)
    monkeypatch.setattr(lrn_triton, "WIDE_FROM", 0)
    assert all(map(torch.equal, both(LRN(), a, g), expected))


@interpreted
def test_the_layout_changes_no_bit(on_cpu: None) -> None:
    nhwc, nchw = (both(LRN(), *inputs(memory=m)) for m in (torch.channels_last, torch.contiguous_format))
    assert all(map(torch.equal, nhwc, nchw))


@interpreted
def test_long_windows_are_left_to_torchs_operators(on_cpu: None) -> None:
    a, _ = inputs()
    reach = lrn.LONGEST_REACH
    assert lrn.takes(a, Formula(1e-4, 0.75, 2.0, reach, 1))
    assert not lrn.takes(a, Formula(1e-4, 0.75, 2.0, reach + 1, 1))


@pytest.mark.skipif(INTERPRETED, reason="an interpreted kernel cannot be compiled")
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_kernels_compile_for_a_gpu(capability: int) -> None:
    """To the GPU's own instructions, by triton's ptxas. A window of a is read 9 times at reach 2, that of g 5 times."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alexnet_exp.kernels import lrn_triton

    kernels = {lrn_triton._normalize: ("a", "out"), lrn_triton._gradient: ("a", "g", "out")}
    for (kernel, tensors), (dtype, inner, wide) in product(
        kernels.items(), (("bf16", 1, False), ("fp16", 3025, False), ("fp32", 9, True))
    ):
        fixed = {"REACH": 2, "BETA": 0.75, "MAPS": 96, "INNER": inner, "WIDE": wide, "BLOCK": lrn_triton.BLOCK}
        fixed |= {"PIXELS": min(lrn_triton.PIXELS, triton.next_power_of_2(inner))}
        signature = dict.fromkeys(tensors, f"*{dtype}") | {"total": "i64", "alpha": "fp32", "k": "fp32"}
        constants = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
        source = ASTSource(kernel, signature | dict.fromkeys(fixed, "constexpr"), constants)
        code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}).asm
        loads = code["ptx"].count("ld.global") / (lrn_triton.BLOCK // 128)
        assert loads == (5 if len(tensors) == 2 else 14)
        assert code["cubin"]


@interpreted
@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_the_check_of_a_gpu(factor: float, on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`benchmarks cuda` on these kernels: right as they are, wrong where alpha differs by a fifth."""
    from alexnet_exp.kernels import lrn_triton

    run = lrn_triton.run

    def changed(
        a: Tensor, g: Tensor, out: Tensor, shape: tuple[int, int, int, int], alpha: float, *more: float
    ) -> None:
        run(a, g, out, shape, factor * alpha, *more)

    monkeypatch.setattr(lrn_triton, "run", changed)
    monkeypatch.setitem(cuda_checks.ROUNDING, torch.bfloat16, 2.02 * 2**-8)  # the interpreter cuts off
    *checks, wide = cuda_checks.lrn(Setup("cpu", small=True))
    assert isinstance(wide, Check)
    assert wide.passed is None
    assert [isinstance(check, Check) and check.passed for check in checks] == [factor == 1] * 9
