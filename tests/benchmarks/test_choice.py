"""`benchmarks choice`: which sides a row has, which of them is the best, and rows that are measured again."""

from __future__ import annotations

from typing import Any

import pytest

from alexnet_exp.kernels.choice import Candidate, Choice, Operator, forced
from benchmarks import choice
from benchmarks.machine import Load
from benchmarks.rows import Row
from benchmarks.table import Result


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rows that were measured; each step of the candidates takes 1, 2, ... s, the default's 1.25 s."""
    names: list[str] = []

    def measure(network: str, dtype: str, batch: int, chosen: Choice, turns: int | None) -> dict[str, list[float]]:
        names.append(f"{network}/{dtype}/{batch}")
        assert chosen.dtype == dtype
        return {"default": [1.25] * 2} | {name: [n + 1.0] * 2 for n, name in enumerate(choice.candidates(dtype))}

    monkeypatch.setattr(choice, "measure", measure)
    monkeypatch.setattr(choice, "calibrated", lambda dtype: forced(Candidate.NATIVE, dtype))
    monkeypatch.setattr(choice, "cpu_computes_in_bf16", lambda: True)
    return names


def test_rows_are_chosen_by_the_beginning_of_their_name(measured: list[str]) -> None:
    found = choice.rows(only=["paper", "fast/float32/128"])
    assert measured == ["fast/float32/128", *(f"paper/{kind}/{n}" for kind in choice.PRECISIONS for n in (16, 32))]
    assert [row.name for row in found.rows] == measured
    assert {"fast/float32/128", "bfloat16", "float32"} <= {*found.data}


def test_the_figure_is_the_throughput_as_a_multiple_of_the_best_candidates(measured: list[str]) -> None:
    (row,) = choice.rows(only=["bn/float32/32"]).rows
    assert (row.ours, row.peer, row.ratio, row.met) == (32 / 1.25, 32, 0.8, False)
    assert "best: torch;" in row.note


def test_candidates_force_one_implementation_at_every_shape() -> None:
    found = choice.candidates("bfloat16")
    kinds = {name: {each.candidate(operator) for operator in Operator} for name, each in found.items()}
    assert kinds["torch"] == {Candidate.TORCH}
    assert kinds["native"] == {Candidate.NATIVE}
    assert kinds["packed"] == {Candidate.PACKED, Candidate.NATIVE}
    assert "native" not in choice.candidates("float32")


@pytest.mark.slow
def test_a_row_is_measured() -> None:
    seconds = choice.measure("fast", "float32", 8, forced(Candidate.TORCH, "float32"), 2)
    assert {name: len(each) for name, each in seconds.items()} == dict.fromkeys(
        ("default", "torch", "torch+native", "packed"), 2
    )


def test_rows_that_were_measured_again_replace_those_of_the_file() -> None:
    def result(date: str, data: dict[str, Any], **seconds: float) -> Result:
        rows = [Row(name, name, "other", "s", [(value, 1.0)]) for name, value in seconds.items()]
        return Result("choice", rows, {"date": date}, Load(0, 0, 0, 0), 1.0, data)

    old, new = result("old", {"a": 1, "b": 1}, a=1, b=2), result("new", {"b": 2}, b=3)
    both = new.beside(old)
    assert [(row.name, row.ours) for row in both.rows] == [("a", 1), ("b", 3)]
    assert (both.data, both.machine) == ({"a": 1, "b": 2}, {"date": "new"})
    assert new.beside(None) == new
