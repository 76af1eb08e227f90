"""Which modules of a stage run in kernels, by the choice of this process; what kernels compute is in tests/kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from alexnet_exp.kernels import batch_norm, choice, convolution, dropout
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.choice import ANY, CONVOLUTION, Candidate, Choice, Operator
from alexnet_exp.kernels.native import native
from alexnet_exp.model.stage import FusedStage

DTYPES = (torch.float32, torch.bfloat16)


def kernels(dtype: torch.dtype) -> Choice:
    """Kernels wherever every processor has them: packed windows, and ours for the rest."""
    rows = {each: {ANY: Candidate.PACKED if each in CONVOLUTION else Candidate.NATIVE} for each in Operator}
    return Choice(choice.dtype_name(dtype), "test", rows)


@pytest.fixture(autouse=True)
def _uses_kernels() -> Iterator[None]:
    if library() is None:
        pytest.skip(native().why)
    with choice.using(kernels(torch.float32)), choice.using(kernels(torch.bfloat16)):
        yield


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that ran, in order."""
    names: list[str] = []
    for module, name in (
        (convolution, "convolve"),
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


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return drawn.contiguous(memory_format=torch.channels_last)


def plain_stage(bias: bool = True) -> FusedStage:
    modules = nn.Conv2d(64, 64, 3, padding=1, bias=bias), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2)
    return FusedStage(*modules).to(memory_format=torch.channels_last)


def run(layer: nn.Module, x: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output: Tensor = layer(maps(2, 64, 5, 5) if x is None else x)
    return output


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stage_runs_in_kernels(ran: list[str], dtype: torch.dtype) -> None:
    assert run(plain_stage(), dtype=dtype).dtype == dtype
    assert ran == ["convolve", "batch_norm_relu"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stage_equals_torchs_modules(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = plain_stage(bias=False), maps(3, 64, 9, 9).requires_grad_()
    found = run(layer, x, dtype)
    found.float().square().sum().backward()
    gradients = [x.grad, *(each.grad for each in layer.parameters())]
    wide, wide_x = layer.double(), x.detach().double().requires_grad_()
    wide.zero_grad()
    with choice.using(choice.forced("torch", "float64")):
        wanted = wide(wide_x)
    wanted.square().sum().backward()
    for ours, theirs in zip(
        [found, *gradients], [wanted, wide_x.grad, *(each.grad for each in wide.parameters())], strict=True
    ):
        assert ours is not None
        assert theirs is not None
        error = (ours.double() - theirs).norm() / theirs.norm()
        assert error < (
            1e-5 if dtype == torch.float32 else 1e-1
        )  # bfloat16 rounds every step, and a pool may take another of two close values


@pytest.mark.parametrize("dtype", DTYPES)
def test_torchs_choice_runs_torchs_modules(ran: list[str], dtype: torch.dtype) -> None:
    with choice.using(choice.forced("torch", choice.dtype_name(dtype))):
        found = run(plain_stage(), dtype=dtype)
    assert ran == []
    assert type(found.grad_fn).__name__ == "MaxPool2DWithIndicesBackward0"


@pytest.mark.parametrize("directions", [(0,), (1,), (2,), (0, 2)])
def test_each_direction_has_its_own_candidate(directions: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def note(*args: object) -> Tensor:
        asked.append(tuple(args[-1]))  # type: ignore[arg-type]
        return convolve(*args)  # type: ignore[arg-type]

    convolve = convolution.convolve
    monkeypatch.setattr(convolution, "convolve", note)
    rows = {CONVOLUTION[each]: {ANY: Candidate.PACKED} for each in directions}
    with choice.using(Choice("float32", "test", rows)):
        run(plain_stage())
    assert asked == [tuple("packed" if each in directions else "torch" for each in range(3))]


def test_weights_in_half_precision_run_in_torch(ran: list[str]) -> None:
    layer = plain_stage().bfloat16()
    layer(maps(2, 64, 5, 5, dtype=torch.bfloat16))
    assert ran == []


def test_evaluation_uses_the_running_statistics(ran: list[str]) -> None:
    with torch.no_grad():
        run(plain_stage().eval())
    assert ran == ["convolve", "frozen_norm_relu"]


@pytest.mark.parametrize("name", ["0", "1", "2", "3"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_a_module_with_a_hook_runs_by_itself(ran: list[str], kind: str, name: str) -> None:
    layer, seen = plain_stage(), []
    getattr(layer.get_submodule(name), kind)(lambda module, *_: seen.append(module))
    run(layer).sum().backward()
    assert seen == [layer.get_submodule(name)]
    wanted = {
        "0": ["batch_norm_relu"],
        "1": ["convolve"],
        "2": ["convolve"],
        "3": ["convolve", "batch_norm_relu"],
    }
    assert ran == wanted[name]


def test_global_hooks_disable_the_kernels(ran: list[str]) -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        run(plain_stage())
    finally:
        handle.remove()
    assert ran == []


def test_flop_counters_see_torchs_operators(ran: list[str]) -> None:
    with FlopCounterMode(display=False) as counter:
        run(plain_stage())
    assert counter.get_total_flops() > 0
    assert ran == []


@pytest.mark.parametrize(
    "changed",
    [
        nn.Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(64, 64, 3, stride=2),
        nn.Conv2d(64, 64, 3, padding=3),
        nn.Conv2d(64, 30, 3),
    ],
    ids=str,
)
def test_packed_windows_compute_other_convolutions(ran: list[str], changed: nn.Conv2d) -> None:
    layer, x = FusedStage(changed).to(memory_format=torch.channels_last), maps(2, 64, 5, 5)
    torch.testing.assert_close(run(layer, x), changed(x), rtol=1e-4, atol=1e-4)
    assert ran == ["convolve"]


@pytest.mark.parametrize(
    "changed",
    [
        nn.Conv2d(64, 64, 3, dilation=2),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, (1, 3)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(64, 64, 3)),
        nn.SyncBatchNorm(64),
        nn.BatchNorm2d(64, momentum=None),
        nn.BatchNorm2d(64, affine=False),
        nn.BatchNorm2d(64, track_running_stats=False),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Dropout2d(),
    ],
    ids=str,
)
def test_other_modules_run_in_torch(ran: list[str], changed: nn.Module) -> None:
    layer = FusedStage(changed, *([nn.ReLU()] if isinstance(changed, nn.modules.batchnorm._BatchNorm) else []))
    layer.train(not isinstance(changed, nn.SyncBatchNorm))  # which trains in a group of processes
    for dtype in DTYPES:
        found = run(layer.to(memory_format=torch.channels_last), dtype=dtype)
        assert found.shape == layer(maps(2, 64, 5, 5)).shape
    assert ran == []


def test_maps_that_are_not_channels_last_run_in_torch(ran: list[str]) -> None:
    run(plain_stage().to(memory_format=torch.contiguous_format), maps(2, 64, 5, 5).contiguous())
    assert ran == []


def test_export_sees_torchs_operators(ran: list[str]) -> None:
    layer = plain_stage().eval().requires_grad_(False)
    with torch.no_grad():
        exported = torch.export.export(layer, (maps(2, 64, 5, 5),))
        torch.jit.trace(layer, maps(2, 64, 5, 5), check_trace=False)
    assert ran == []
    assert "conv2d" in str(exported.graph)


def test_a_single_value_per_channel_is_rejected_as_in_torch() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        run(FusedStage(nn.BatchNorm2d(64), nn.ReLU()), maps(1, 64, 1, 1))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_or_all_is_torchs(ran: list[str], p: float) -> None:
    run(FusedStage(nn.ReLU(), nn.Dropout(p)), torch.ones(2, 8, dtype=torch.bfloat16), torch.bfloat16)
    assert ran == []


@pytest.mark.parametrize("chosen", ["native", "torch"])
def test_dropout_of_a_seed_drops_the_same_units_whichever_candidate_runs(ran: list[str], chosen: str) -> None:
    layer, found = FusedStage(nn.ReLU(), nn.Dropout(0.5)), []
    for name in ("native", chosen):
        torch.manual_seed(7)
        with choice.using(choice.forced(name, "bfloat16")):
            found.append(run(layer, torch.ones(9, 300, dtype=torch.bfloat16), torch.bfloat16))
    assert found[0].equal(found[1])
    assert ran == ["relu_dropout"] * 2
