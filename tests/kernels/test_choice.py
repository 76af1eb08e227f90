"""Which candidate an operator gets: by the nearest measured shape, the environment, or the file of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alexnet_exp.errors import UserError
from alexnet_exp.kernels import choice
from alexnet_exp.kernels.choice import Candidate, Choice, Operator, Shape

SMALL, LARGE = Shape(256, 384, 5, 3), Shape(3, 96, 32, 5)
MEASURED = Choice(
    "float32",
    "measured",
    {
        Operator.FORWARD: {SMALL: Candidate.PACKED, LARGE: Candidate.TORCH},
        Operator.NORM: {Shape(96, 96, 30, 3, 2): Candidate.NATIVE},
    },
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ALEXNET_EXP_NATIVE", raising=False)
    monkeypatch.setattr(choice, "_active", {})


@pytest.mark.parametrize(
    ("shape", "candidate"),
    [
        (SMALL, Candidate.PACKED),
        (Shape(384, 384, 5, 3), Candidate.PACKED),
        (Shape(192, 256, 7, 3), Candidate.PACKED),
        (LARGE, Candidate.TORCH),
        (Shape(1, 64, 28, 5), Candidate.TORCH),
        (Shape(3, 96, 224, 11, 4), Candidate.TORCH),
    ],
)
def test_a_shape_gets_the_candidate_of_the_nearest_measured_one(shape: Shape, candidate: Candidate) -> None:
    assert MEASURED.candidate(Operator.FORWARD, shape) == candidate


def test_an_operator_that_was_not_measured_is_torchs() -> None:
    assert MEASURED.candidate(Operator.LRN, LARGE) == Candidate.TORCH


def test_the_phrase_names_the_candidates() -> None:
    assert str(MEASURED) == "convolution packed+torch/torch/torch, batch norm native, LRN torch, images torch"
    assert str(choice.forced("torch", "float32")) == "torch only"


def test_a_choice_survives_json() -> None:
    read = Choice.of_json(json.loads(json.dumps(MEASURED.to_json())), "measured")
    assert read == MEASURED


@pytest.mark.parametrize(
    "damaged",
    [None, [], {}, {"dtype": "float32", "lrn": {"1-1-1-1-1": "magic"}}, {"dtype": "float32", "lrn": {"1": "torch"}}],
)
def test_anything_else_is_no_choice(damaged: object) -> None:
    with pytest.raises(ValueError, match="not a choice of kernels"):
        Choice.of_json(damaged, "measured")


@pytest.mark.parametrize(("value", "candidate"), [("0", Candidate.TORCH), ("1", Candidate.NATIVE)])
def test_the_environment_decides_for_all_operators(
    value: str, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_EXP_NATIVE", value)
    assert {choice.active("bfloat16").candidate(operator) for operator in Operator} == {candidate}


def test_another_value_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_EXP_NATIVE", "yes")
    with pytest.raises(UserError, match=r"^ALEXNET_EXP_NATIVE=yes: write 0 "):
        choice.active("float32")


def test_the_stored_choice_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice.active("float32").source == "not measured"
    choice._active.clear()
    file = choice.file("float32")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"choice": MEASURED.to_json()}))
    assert choice.active("float32") == MEASURED
    assert choice.stored("bfloat16") is None


def test_each_number_of_threads_has_a_file_of_its_own() -> None:
    before = torch.get_num_threads()
    names = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            names.add(choice.file("float32").name)
    finally:
        torch.set_num_threads(before)
    assert len(names) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"choice": 3}', "\x00"])
def test_an_unreadable_file_counts_as_none(text: str) -> None:
    file = choice.file("float32")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert choice.stored("float32") is None


def test_using_restores_the_choice() -> None:
    with choice.using(MEASURED):
        assert choice.active("float32") is MEASURED
    assert choice.active("float32") is not MEASURED
