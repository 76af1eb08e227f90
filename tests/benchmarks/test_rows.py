"""Rows: their figures by hand-made turns, what is measured in which order, and the way through JSON."""

import json
import math

import pytest

from benchmarks.rows import Goal, Row, alternate, in_turn
from benchmarks.table import amount, digits, figure, wanted

# ours 2, 4, 5; theirs 4, 12, 10: ratios 2, 3, 2
TURNS = [(2.0, 4.0), (4.0, 12.0), (5.0, 10.0)]


def row(turns=TURNS, **more):
    return Row("name", "what", "against", "s", turns, **more)


def test_how_many_times_faster_is_the_median_of_the_turns_not_of_the_sides() -> None:
    faster = row(target=2)
    assert (faster.ours, faster.peer) == (4, 10)
    assert faster.figures == [2, 3, 2]
    assert faster.ratio == 2  # the sides' medians would give 2.5
    assert faster.spread == (2, 2.5)
    assert faster.met is True
    assert row(target=2.01).met is False
    assert row().met is None


def test_a_rate_counts_the_other_way_round() -> None:
    assert row(higher_is_better=True).figures == [0.5, 1 / 3, 0.5]


def test_a_ratio_and_a_difference_with_an_upper_bound() -> None:
    ratio = row(goal=Goal.at_most_ratio, target=0.5)
    assert (ratio.ratio, ratio.met) == (0.5, True)
    assert row(goal=Goal.at_most_ratio, target=0.49).met is False
    more = row([(1.5, 1.0), (1.2, 1.0), (0.9, 1.0)], goal=Goal.at_most_more, target=0.2)
    assert more.ratio == pytest.approx(0.2)
    assert more.spread == pytest.approx((0.05, 0.35))
    assert row([(1.5, 1.0)], goal=Goal.at_most_more, target=0.4).met is False


def test_one_turn_has_no_spread() -> None:
    assert row([(1.0, 3.0)]).spread == (3, 3)


@pytest.mark.parametrize("turns", [[], [(1.0, math.nan)], [(0.0, 1.0)], [(1.0, -1.0)]])
def test_what_was_not_measured_is_no_row(turns: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="name"):
        row(turns)


def test_a_difference_may_be_of_nothing() -> None:
    assert row([(0.0, 0.0)], goal=Goal.at_most_more, target=0).met is True


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("target", [None, 1.25])
def test_json_and_back(goal: Goal, target: float | None) -> None:
    one = row(goal=goal, target=target, higher_is_better=True, note="a note")
    written = json.loads(json.dumps(one.to_json()))
    assert Row.from_json(written) == one
    assert (written["ratio"], written["met"], written["spread"]) == (one.ratio, one.met, list(one.spread))


def test_both_sides_in_turn_the_order_swapped_every_other_time() -> None:
    called = []

    def side(name: str, value: float):
        def measure() -> float:
            called.append(name)
            return value + len(called)

        return measure

    turns = alternate(side("ours", 10), side("peer", 20), turns=3, warmup=1)
    assert called == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    # the first pair is dropped; ours stays ours whichever came first
    assert turns == [(14, 23), (15, 26), (18, 27)]


def test_seconds_are_those_of_one_call() -> None:
    calls = []
    turns = in_turn(lambda: calls.append("ours"), lambda: calls.append("peer"), turns=2, warmup=1, repeats=5)
    assert len(turns) == 2
    assert calls.count("ours") == calls.count("peer") == 15
    assert all(0 < seconds < 0.01 for turn in turns for seconds in turn)


def test_how_figures_are_written() -> None:
    assert figure(row(target=2)) == "2x (2 to 2.5)"
    assert wanted(row(target=2)) == "at least 2x"
    share = row([(70.0, 100.0)], higher_is_better=True, goal=Goal.share, target=0.72)
    assert (figure(share), wanted(share)) == ("70.0% (70.0% to 70.0%)", "at least 72%")
    more = row([(1.0012, 1.0)], goal=Goal.at_most_more, target=0.001)
    assert (figure(more), wanted(more)) == ("+1.2 ms (+1.2 ms to +1.2 ms)", "at most 1 ms more")
    assert wanted(row(goal=Goal.at_most_ratio, target=1.25)) == "at most 1.25x"
    assert wanted(row()) == "-"


def test_how_amounts_are_written() -> None:
    assert [amount(value, "s") for value in (700.4, 1.5, 0.0123, 0.0000451, 0.0)] == [
        *("700 s", "1.5 s", "12.3 ms", "45.1 µs", "0 µs")
    ]
    assert amount(1234.5, "images/s") == "1,234 images/s"
    assert [digits(value) for value in (0.5151, 2.345, 99.94, 100.4)] == ["0.515", "2.35", "99.9", "100"]
