"""Both normalizations against float64 loops written from the formulas, and against torch's own op.

LRN of float32 and bfloat16 on a CPU is tested in both of its ways, by the kernel and by torch's operators.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx

from alexnet_exp.kernels import lrn as kernel
from alexnet_exp.kernels.native import native
from alexnet_exp.model.lrn import LRN, WithinMapNorm
from alexnet_exp.model.spec import Convention
from tests.model.by_hand import lrn_by_the_formula, within_map_by_the_formula

# Relative: float32 is rounded some ten times on the way; bfloat16 after that once, to 8 bits.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 1.01 * 2**-8, torch.float16: 1.01 * 2**-11}
HALF_AND_FULL = [torch.float32, torch.bfloat16]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nchw": Tensor.contiguous,
    "nhwc": lambda a: a.contiguous(memory_format=torch.channels_last),
    "every second row": lambda a: torch.stack((a, a), dim=3).flatten(2, 3)[:, :, ::2],
    "some of the maps": lambda a: torch.cat((a, a), dim=1)[:, : a.shape[1]],
    "some of the maps, nhwc": lambda a: LAYOUTS["nhwc"](torch.cat((a, a), dim=1))[:, : a.shape[1]],
    "transposed": lambda a: a.transpose(2, 3).contiguous().transpose(2, 3),
    "a map for all": lambda a: a[:, :1].expand(a.shape),
}


def by_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "takes", lambda a, formula: False)


def needs_the_kernel() -> None:
    if native().library is None:
        pytest.skip(native().why)


def by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes tensors of the CPU by the kernels for a GPU, in Triton's interpreter."""
    from alexnet_exp.kernels import lrn_triton

    monkeypatch.setattr(kernel, "TRITON_DEVICE", "cpu")
    monkeypatch.setattr(kernel, "triton_kernels", lambda device: lrn_triton)
    monkeypatch.setitem(ROUNDING, torch.bfloat16, 2.02 * 2**-8)  # the interpreter cuts off what a GPU rounds


# Triton decides at the definition of a kernel: tests/kernels/test_lrn_triton.py starts a process with this variable.
WAYS = ["triton"] if os.environ.get("TRITON_INTERPRET") == "1" else ["kernel", "operators"]


@pytest.fixture(params=WAYS)
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    match request.param:
        case "kernel":
            needs_the_kernel()
        case "operators":
            by_operators(monkeypatch)
        case "triton":
            by_triton(monkeypatch)


def maps(*shape: int, scale: float = 100.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Activations of the size that LRN meets on inputs of 0..255, so that its sum outweighs k."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(scale).to(dtype)


def forward_and_backward(layer: LRN, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    a = a.detach().requires_grad_()
    b = layer(a)
    return b.detach(), torch.autograd.grad(b, a, g)[0]


def by_hand(layer: LRN, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """By the formula in float64, and what autograd makes of it."""
    a = a.detach().double().requires_grad_()
    b = lrn_by_the_formula(a, layer.size, layer.alpha, layer.beta, layer.k, layer.convention, layer.columns)
    return b.detach(), torch.autograd.grad(b, a, g.double())[0]


def assert_is_the_formula(layer: LRN, a: Tensor, g: Tensor) -> None:
    """b to rounding; the gradient, a difference of two terms, to rounding of the larger one, which is at most g."""
    b, gradient = forward_and_backward(layer, a, g)
    expected, slope = by_hand(layer, a, g)
    assert (b.dtype, gradient.dtype) == (a.dtype, a.dtype)
    rounding = ROUNDING[a.dtype]
    torch.testing.assert_close(b.double(), expected, rtol=rounding, atol=1e-30)
    torch.testing.assert_close(gradient.double(), slope, rtol=rounding, atol=2e-6 * float(g.abs().max()))


@pytest.mark.parametrize("convention", Convention)
@pytest.mark.parametrize(("columns", "channels"), [(1, 12), (2, 12), (4, 12), (1, 2), (1, 1)])
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_lrn_is_the_formula(convention: Convention, columns: int, channels: int, size: int) -> None:
    a = maps(2, channels, 3, 4)
    normalized = LRN(size, 1e-3, 0.6, 1.5, convention, columns)(a)
    torch.testing.assert_close(normalized, lrn_by_the_formula(a, size, 1e-3, 0.6, 1.5, convention, columns))


@pytest.mark.parametrize("beta", [0.75, 0.625])
@pytest.mark.parametrize(("columns", "channels"), [(1, 37), (4, 12), (1, 2), (1, 1)])
@pytest.mark.parametrize("size", [1, 5, 9])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_lrn_and_its_gradient_are_the_formulas(
    either_way: None, layout: str, dtype: torch.dtype, size: int, columns: int, channels: int, beta: float
) -> None:
    a = LAYOUTS[layout](maps(2, channels, 3, 7, dtype=dtype))
    g = LAYOUTS[layout](maps(2, channels, 3, 7, scale=1, dtype=dtype).flip(0))
    assert_is_the_formula(LRN(size, 1e-3, beta, 1.5, columns=columns), a, g)


@pytest.mark.parametrize(
    "shape", [(2, 96, 37, 41), (3, 600, 3, 3), (1, 5, 70, 70), (70, 600), (3, 8, 5), (2, 6, 2, 3, 4)]
)
@pytest.mark.parametrize("dtype", HALF_AND_FULL)
def test_lrn_of_any_shape(either_way: None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    # More pixels than the kernel takes at a time, more maps than that, one image, vectors, rows, volumes.
    assert_is_the_formula(LRN(alpha=1e-2), maps(*shape, dtype=dtype), maps(*shape, scale=1, dtype=dtype).flip(0))


@pytest.mark.parametrize("dtype", HALF_AND_FULL)
@pytest.mark.parametrize("gradients", ["nchw", "nhwc", "a map for all"])
@pytest.mark.parametrize("inputs", LAYOUTS)
def test_lrn_of_any_layout(either_way: None, inputs: str, gradients: str, dtype: torch.dtype) -> None:
    a, g = maps(2, 6, 4, 5, dtype=dtype), maps(2, 6, 4, 5, scale=1, dtype=dtype).flip(0)
    assert_is_the_formula(LRN(alpha=1e-2), LAYOUTS[inputs](a), LAYOUTS[gradients](g))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_lrn_keeps_the_layout(either_way: None, layout: str, dtype: torch.dtype) -> None:
    a = LAYOUTS[layout](maps(2, 6, 4, 5, dtype=dtype))
    b, gradient = forward_and_backward(LRN(), a, maps(2, 6, 4, 5, dtype=dtype))
    assert b.stride() == gradient.stride() == a.stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_input_is_saved_for_backward(either_way: None, layout: str, dtype: torch.dtype) -> None:
    kept: list[Tensor] = []
    a = LAYOUTS[layout](maps(2, 6, 4, 5, dtype=dtype)).requires_grad_()
    with saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        LRN()(a)
    assert [each.data_ptr() for each in kept] == [a.data_ptr()]


def test_under_autocast_bfloat16_stays_bfloat16(either_way: None) -> None:
    a = LAYOUTS["nhwc"](maps(2, 6, 4, 5, dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        b = LRN()(a)
    assert b.dtype == torch.bfloat16
    assert torch.equal(b, LRN()(a))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("beta", [0.75, 0.625])
def test_without_gradients_it_is_the_same(either_way: None, beta: float, layout: str) -> None:
    layer = LRN(beta=beta)
    a = LAYOUTS[layout](maps(2, 6, 4, 5, dtype=torch.float32)).requires_grad_()
    with torch.no_grad():
        assert torch.equal(layer(a), layer(a.detach()))
    with torch.inference_mode():
        assert torch.equal(layer(a), layer(a.detach()))
    assert torch.equal(layer(a), layer(a.detach()))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", HALF_AND_FULL)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, layout: str) -> None:
    needs_the_kernel()
    a, g = (LAYOUTS[layout](maps(3, 24, 50, 51, scale=scale, dtype=dtype)) for scale in (100, 1))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(forward_and_backward(LRN(), a, g))
    finally:
        torch.set_num_threads(before)
    for each in results[1:]:
        assert all(torch.equal(first, other) for first, other in zip(results[0], each, strict=True))


def test_the_layout_changes_no_bit() -> None:
    needs_the_kernel()
    a = maps(2, 24, 9, 11, dtype=torch.float32)
    layouts = (LAYOUTS["nchw"], LAYOUTS["nhwc"])
    results = [forward_and_backward(LRN(), layout(a), a.flip(0)) for layout in layouts]
    assert all(torch.equal(first, other) for first, other in zip(*results, strict=True))


@pytest.mark.parametrize("beta", [0.75, 0.625])
@pytest.mark.parametrize("dtype", HALF_AND_FULL)
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e9, 1e18])
def test_of_tiny_and_of_huge_values(either_way: None, scale: float, dtype: torch.dtype, beta: float) -> None:
    a = maps(2, 6, 4, 5, scale=scale, dtype=dtype)
    assert_is_the_formula(LRN(beta=beta), a, maps(2, 6, 4, 5, scale=1, dtype=dtype).flip(0))


def test_a_huge_value_does_not_affect_other_windows(either_way: None) -> None:
    # A running sum would: 1 added to 1e16 and taken away again is 0.
    a = torch.ones(1, 12, 1, 1)
    a[0, 3] = 1e8
    assert_is_the_formula(LRN(alpha=1.0), a, torch.ones_like(a))


def test_alpha_0_is_a_constant(either_way: None) -> None:
    a = maps(2, 6, 4, 5, dtype=torch.float32)
    b, gradient = forward_and_backward(LRN(alpha=0), a, torch.ones_like(a))
    torch.testing.assert_close(b, a * 2**-0.75)
    torch.testing.assert_close(gradient, torch.full_like(a, 2**-0.75))


@pytest.mark.parametrize("k", [1e-40, 1e-31, 1e-29])
def test_a_k_near_0(k: float) -> None:
    a = torch.tensor([[0.0, 1e-3, 1.0, 0, 0, 0, 0, 0]])
    b = LRN(k=k, alpha=1.0)(a)
    torch.testing.assert_close(b.double(), lrn_by_the_formula(a.double(), 5, 1.0, 0.75, k, Convention.code, 1))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", HALF_AND_FULL)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_values_stay_in_their_windows(
    either_way: None, value: float, dtype: torch.dtype, layout: str
) -> None:
    a = LAYOUTS[layout](maps(1, 16, 3, 3, dtype=dtype))
    g = torch.ones_like(a)
    clean = forward_and_backward(LRN(), a, g)
    a[0, 6, 1, 1] = value
    b, gradient = forward_and_backward(LRN(), a, g)
    assert not b[0, 6, 1, 1].isfinite()
    assert not gradient[0, 6, 1, 1].isfinite()
    if value != value:
        assert b[0, 4:9, 1, 1].isnan().all()
        assert gradient[0, 4:9, 1, 1].isnan().all()
    # b sees as far as a window reaches, the gradient twice as far
    for now, before, first, last in ((b, clean[0], 4, 9), (gradient, clean[1], 2, 11)):
        apart = torch.ones_like(a, dtype=torch.bool)
        apart[0, first:last, 1, 1] = False
        assert torch.equal(now[apart], before[apart])


@pytest.mark.parametrize("beta", [0.75, 0.625])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", HALF_AND_FULL)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, 1e25, -1e20])
def test_squares_that_overflow(either_way: None, value: float, dtype: torch.dtype, layout: str, beta: float) -> None:
    """NaN where float64 has NaN and nowhere else; where float32 cannot hold a square, b and its gradient vanish."""
    a = LAYOUTS[layout](maps(1, 16, 3, 3, dtype=dtype))
    a[0, 6, 1, 1] = value
    g = LAYOUTS[layout](maps(1, 16, 3, 3, scale=1, dtype=dtype).flip(0))
    for found, expected in zip(forward_and_backward(LRN(beta=beta), a, g), by_hand(LRN(beta=beta), a, g), strict=True):
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.isinf(), expected.isinf())
        normal = ~expected.isnan()
        normal[0, 6, 1, 1] = False  # up to 1e-2 there in float64, at beta = 0.625
        torch.testing.assert_close(found.double()[normal], expected[normal], rtol=ROUNDING[dtype], atol=4e-6)
    if value == 1e25:
        assert forward_and_backward(LRN(beta=beta), a, g)[0][0, 6, 1, 1] == 0  # float64: 1e-9


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", HALF_AND_FULL)
def test_a_penalty_on_the_gradient_has_a_gradient(either_way: None, dtype: torch.dtype, layout: str) -> None:
    layer, a = LRN(5, 0.1, columns=2), LAYOUTS[layout](maps(2, 6, 4, 5, scale=3.0, dtype=dtype)).requires_grad_()
    exact = a.detach().double().requires_grad_()
    b = lrn_by_the_formula(exact, 5, 0.1, 0.75, 2.0, Convention.code, 2)
    found = []
    for output, of in ((layer(a), a), (b, exact)):
        (gradient,) = torch.autograd.grad(output.sum(), of, create_graph=True)
        assert gradient.requires_grad
        found.append((gradient, torch.autograd.grad(gradient.square().sum(), of)[0]))
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


def test_second_derivatives_are_exact() -> None:
    a = maps(2, 6, 2, 2, scale=3.0).requires_grad_()
    assert torch.autograd.gradgradcheck(LRN(5, 0.1, 0.75, 2, columns=2), a)


def test_each_column_is_normalized_by_itself(either_way: None) -> None:
    for dtype in (torch.float64, torch.float32):
        a = maps(2, 8, 3, 3, dtype=dtype)
        halves = torch.cat([LRN()(half) for half in a.chunk(2, dim=1)], dim=1)
        torch.testing.assert_close(LRN(columns=2)(a), halves)
        assert not torch.allclose(LRN(columns=1)(a), halves)


def test_maps_that_cannot_be_split_into_columns_are_rejected() -> None:
    with pytest.raises(ValueError, match="7 maps cannot be split into 2 columns"):
        LRN(columns=2)(maps(2, 7, 3, 3))


def test_an_empty_batch(either_way: None) -> None:
    b, gradient = forward_and_backward(LRN(), torch.empty(0, 6, 3, 3), torch.empty(0, 6, 3, 3))
    assert b.shape == gradient.shape == (0, 6, 3, 3)


@pytest.mark.parametrize(("convention", "torchs_alpha"), [(Convention.code, 1e-4), (Convention.paper, 5e-4)])
def test_lrn_equals_torchs_with_the_converted_alpha(
    either_way: None, convention: Convention, torchs_alpha: float
) -> None:
    a, g = maps(2, 96, 5, 5, dtype=torch.float32).requires_grad_(), maps(2, 96, 5, 5, scale=1, dtype=torch.float32)
    reference = torch.nn.LocalResponseNorm(5, torchs_alpha, 0.75, 2)(a)
    slope = torch.autograd.grad(reference, a, g)[0]
    b, gradient = forward_and_backward(LRN(5, 1e-4, 0.75, 2, convention), a, g)
    torch.testing.assert_close(b, reference)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [LRN(columns=2), WithinMapNorm()], ids=["lrn", "within_map"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(layer: torch.nn.Module, dtype: torch.dtype) -> None:
    # 300 squared is beyond float16: computed in half precision the result would be 0.
    a = maps(2, 6, 5, 5, scale=300.0, dtype=dtype)
    normalized = layer(a)
    assert normalized.dtype == dtype
    torch.testing.assert_close(normalized.double(), layer(a.double()), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_lrn_takes_channels_last_and_vectors() -> None:
    a = maps(2, 6, 4, 5)
    torch.testing.assert_close(LRN()(a.contiguous(memory_format=torch.channels_last)), LRN()(a))
    torch.testing.assert_close(LRN()(a[:, :, 0, 0]), LRN()(a)[:, :, 0, 0])


@pytest.mark.parametrize("beta", [0.75, 0.625])
@pytest.mark.parametrize("convention", Convention)
def test_lrn_gradient(convention: Convention, beta: float) -> None:
    a = maps(2, 6, 2, 2, scale=3.0).requires_grad_()
    assert torch.autograd.gradcheck(LRN(5, 0.1, beta, 2, convention, columns=2), a)


# --- where operators are watched, there is no kernel


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("layer", [LRN(beta=0.6, columns=2), LRN(size=9)])
def test_an_exported_graph_contains_operators(layer: LRN) -> None:
    a, other = (maps(images, 6, 4, 5, dtype=torch.float32) for images in (2, 3))
    batch = {"maps": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(layer, (a,), dynamic_shapes=batch).module()
    graphs = (exported, torch.compile(layer, backend="aot_eager", fullgraph=True), make_fx(layer)(a))
    for graph in graphs[:2]:
        torch.testing.assert_close(graph(other), layer(other))
    torch.testing.assert_close(graphs[2](a + 1), layer(a + 1))
    torch.testing.assert_close(torch.jit.trace(layer, a, check_trace=False)(a + 1), layer(a + 1))


def test_a_compiled_graph_has_the_gradient() -> None:
    a, g = maps(2, 6, 4, 5, dtype=torch.float32), maps(2, 6, 4, 5, scale=1, dtype=torch.float32)
    compiled = torch.compile(LRN(), backend="aot_eager", fullgraph=True)
    for found, expected in zip(forward_and_backward(compiled, a, g), forward_and_backward(LRN(), a, g), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torch_func_transforms_work() -> None:
    layer = LRN(alpha=1e-2, columns=2)
    a = maps(2, 6, 4, 5, scale=10)
    torch.testing.assert_close(torch.func.vmap(lambda image: layer(image[None])[0])(a), layer(a))
    slope = forward_and_backward(layer, a, torch.ones_like(a))[1]
    torch.testing.assert_close(torch.func.grad(lambda a: layer(a).sum())(a), slope)
    along, direction = torch.func.jvp(layer, (a,), (torch.ones_like(a),))[1], torch.ones_like(a)
    torch.testing.assert_close((along * direction).sum(), slope.sum())


def test_tensors_without_memory() -> None:
    meta = LRN()(torch.empty(2, 6, 4, 5, device="meta", requires_grad=True))
    assert (meta.device.type, meta.shape) == ("meta", (2, 6, 4, 5))
    with FakeTensorMode():
        fake = LRN()(torch.empty(2, 6, 4, 5, requires_grad=True))
        fake.sum().backward()
    assert fake.shape == (2, 6, 4, 5)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_within_map_norm_is_the_formula(size: int) -> None:
    x = maps(2, 3, 6, 4)
    normalized = WithinMapNorm(size, 1e-3, 0.6, 1.5)(x)
    torch.testing.assert_close(normalized, within_map_by_the_formula(x, size, 1e-3, 0.6, 1.5))


def test_within_map_norm_gradient() -> None:
    x = maps(1, 2, 4, 4, scale=3.0).requires_grad_()
    assert torch.autograd.gradcheck(WithinMapNorm(3, 0.5), x)
