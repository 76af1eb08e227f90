"""Which operators of a network have candidates, which of them the network runs, and the report on them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from alexnet_exp.bench.candidates import layer_operators, phrases
from alexnet_exp.bench.candidates import rows as candidate_rows
from alexnet_exp.bench.report import lines
from alexnet_exp.kernels import batch_norm, convolution
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.choice import ANY, Candidate, Choice, Operator, Shape, forced, using
from alexnet_exp.model.lrn import LRN
from alexnet_exp.model.stage import FusedStage

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels")


def network() -> nn.Module:
    first = FusedStage(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2, 2))
    second = FusedStage(nn.Conv2d(8, 16, 3, padding=1, groups=2), nn.ReLU(), LRN(), nn.Conv2d(16, 4, (1, 3)))
    made = nn.Sequential(first, second, nn.Flatten(), nn.Linear(4 * 7 * 5, 10))
    return made.to(memory_format=torch.channels_last)


def mixed() -> Choice:
    kinds = {each: {ANY: Candidate.NATIVE} for each in Operator}
    kinds |= {Operator.FORWARD: {ANY: Candidate.PACKED}, Operator.WEIGHT_GRADIENT: {ANY: Candidate.TORCH}}
    return Choice("float32", "test", kinds)


def test_operators_have_the_layers_names_shapes_and_the_candidates_that_run() -> None:
    with using(mixed()):
        found = layer_operators(network(), 3, 16, bf16=False)
    conv1, conv2, norm = Shape(3, 8, 16, 3), Shape(8, 16, 7, 3), Shape(8, 8, 14, 2, 2)
    packed, native, torchs = Candidate.PACKED, Candidate.NATIVE, Candidate.TORCH
    expected = [
        ("0.0", Operator.FORWARD, conv1, packed, 0, 1),
        ("0.0", Operator.WEIGHT_GRADIENT, conv1, torchs, 0, 1),
        ("0.1+2+3", Operator.NORM, norm, native, 0, 1),
        ("1.0+1", Operator.FORWARD, conv2, packed, 1, 2),
        ("1.0+1", Operator.INPUT_GRADIENT, conv2, torchs, 1, 2),  # our kernel has no float32
        ("1.0+1", Operator.WEIGHT_GRADIENT, conv2, torchs, 1, 2),
        ("1.2", Operator.LRN, Shape(16, 16, 7), native, 0, 1),
    ]
    assert [(each.layer, each.operator, each.shape, each.chosen, each.pad, each.groups) for each in found] == expected
    assert phrases(found) == {
        "0.0": "packed/torch",
        "0.1+2+3": "native",
        "1.0+1": "packed/torch/torch",
        "1.2": "native",
    }


def test_listing_changes_nothing_of_the_network() -> None:
    made = network()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    state = torch.random.get_rng_state()
    layer_operators(made, 3, 16, bf16=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    for key, value in made.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_candidates_named_are_those_that_a_step_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    called: Counter[str] = Counter()

    def counted(module: object, name: str) -> None:
        call = getattr(module, name)

        def noted(candidate: str, *given: object, **more: object) -> object:
            called.update([f"{name} {candidate}"])
            return call(candidate, *given, **more)

        monkeypatch.setattr(module, name, noted)

    for name in ("forward", "input_gradient", "weight_gradient"):
        counted(convolution, name)
    norm = batch_norm.batch_norm_relu
    monkeypatch.setattr(batch_norm, "batch_norm_relu", lambda *given: (called.update(["norm"]), norm(*given))[1])
    with using(mixed()):
        made = network()
        layer_operators(made, 3, 16, bf16=False)
        called.clear()
        images = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
        made(images).sum().backward()
    assert called == {"forward packed": 2, "input_gradient torch": 1, "weight_gradient torch": 2, "norm": 1}


def test_a_network_without_stages_has_none() -> None:
    assert layer_operators(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), 3, 16, bf16=False) == []


def test_each_candidate_is_measured_and_the_report_marks_the_one_that_runs() -> None:
    with using(forced(Candidate.PACKED, "float32")):
        found = candidate_rows(layer_operators(network(), 3, 16, bf16=False), 2)
    assert [sorted(row["ms"]) for row in found] == [
        *([["packed", "torch"]] * 2),
        ["native", "torch"],
        *([["packed", "torch"]] * 3),
        ["native", "torch"],
    ]
    assert all(ms > 0 for row in found for ms in row["ms"].values())
    found[0]["ms"], found[2]["ms"] = {"torch": 1.0, "packed": 2.5}, {"torch": 3.0, "native": 4.0}
    report = [*lines(bench_result(candidates=[found[0], found[2]]))]
    at = report.index(next(line for line in report if line.startswith("candidates, ms")))
    assert [line.split() for line in report[at : at + 3]] == [
        ["candidates,", "ms", "direction", "torch", "packed", "native"],
        ["0.0", "forward", "1.00", "2.50*", "-"],
        ["0.1", "forward", "and", "backward", "3.00*", "-", "4.00"],
    ]
    assert report[at + 3] == "* used by the run: 5.50 ms in all; the fastest of each: 4.00 ms"
    assert "No operator of this network has another candidate here." in [*lines(bench_result(candidates=[]))]


def bench_result(**more: object) -> dict[str, object]:
    """What `bench` found, as far as the report needs it."""
    names = dict.fromkeys(("model", "data", "optim", "device", "why", "kernels", "data_note", "bound", "dtype"), "")
    none = dict.fromkeys(("compile", "gflops", "ceiling_gflops", "mfu"))
    numbers = dict.fromkeys(("images_per_step", "parameters", "steps", "images_per_s", "peak_memory_bytes"), 1)
    step = {"median": 1.0, "q1": 1.0, "q3": 1.0}
    warm_up = {"steps": 1, "seconds": 1.0, "first_step_seconds": 1.0}
    rest = {"ranks": 1, "left_out": [], "parts": [], "layers": [], "accelerator": "cpu"}
    return {**names, **none, **numbers, **rest, "step_ms": step, "warm_up": warm_up, **more}
