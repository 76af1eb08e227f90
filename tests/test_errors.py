"""Errors of settings: text, values, several at once."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_exp.errors import NO_VALUE, Checks, Problem, Refused, UserError, nearest_name, suggest_name, yaml_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (0.1, "0.1"),
        ("relu", "relu"),
        ([1, None, ["a", False]], "[1, null, [a, false]]"),
        ({"a": [1], "b": None}, "{a: [1], b: null}"),
    ],
)
def test_values_are_formatted_as_yaml(value: Any, text: str) -> None:
    assert yaml_text(value) == text
    assert str(Problem("key", value, "words")) == f"key={text}: words"


def test_problem_without_a_value_has_no_equals_sign() -> None:
    assert str(Problem("callbacks.ema", NO_VALUE, "is not chosen")) == "callbacks.ema: is not chosen"


def test_problem_under_a_prefix_has_the_full_key() -> None:
    assert str(Problem("lr", -1, "words").under("optim")) == "optim.lr=-1: words"
    assert Problem("", 3, "words").under("optim").key == "optim"


@pytest.mark.parametrize(
    ("word", "names", "meant"),
    [
        ("lnr", ["bn", "lrn", "none"], "lrn"),
        ("modle", ["module", "model", "mode"], "model"),  # transposed letters come before an omitted one
        ("max_epoch", ["max_steps", "max_epochs"], "max_epochs"),
        ("zebra", ["bn", "lrn"], None),
    ],
)
def test_nearest_name(word: str, names: list[str], meant: str | None) -> None:
    assert nearest_name(word, names) == meant


def test_suggest_name_starts_with_the_nearest_name() -> None:
    assert suggest_name("bnn", ["lrn", "bn"]) == "did you mean bn? one of lrn, bn"
    assert suggest_name("zebra", ["lrn", "bn"]) == "one of lrn, bn"


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (lambda checks: checks.above("x", 0), [1e-9, None], [0, -1, math.nan, math.inf]),
        (lambda checks: checks.at_least("x", 1), [1, 2.5, None], [0, math.nan, math.inf]),
        (lambda checks: checks.between("x", 0, 1), [0, 1, None], [-0.1, 1.1, math.nan]),
        (lambda checks: checks.below("x", 0, 1), [0, 0.99, None], [1, -0.1, math.nan]),
        (lambda checks: checks.one_of("x", ["a", "b"]), ["a", None], ["c", 1]),
    ],
)
def test_checks_accept_values_in_range_and_null(check: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good + bad:
        checks = Checks(SimpleNamespace(x=value))
        check(checks)
        assert bool(checks.problems) == any(value is other for other in bad), value


def test_all_problems_of_a_node_are_raised_together() -> None:
    checks = Checks(SimpleNamespace(lr=-1, momentum=2))
    checks.above("lr", 0)
    checks.between("momentum", 0, 1)
    with pytest.raises(Refused) as refused:
        checks.done()
    assert str(refused.value).splitlines() == ["lr=-1: must be greater than 0", "momentum=2: must be from 0 to 1"]


def test_valid_settings_raise_nothing() -> None:
    Checks(SimpleNamespace()).done()


def test_refused_is_a_user_error_and_a_value_error() -> None:
    """OmegaConf passes on a ValueError of a dataclass; the command line catches a UserError."""
    assert issubclass(Refused, UserError)
    assert issubclass(Refused, ValueError)
