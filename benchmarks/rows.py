"""A row of the table: what was measured against what, in turn, and whether that reaches what was to be reached.

from benchmarks.rows import Goal, Row, in_turn

turns = in_turn(lambda: ours(maps), lambda: peer(maps), turns=9, warmup=2)
Row("lrn 32x96x55x55 fp32", "LRN forward + backward", "F.local_response_norm", "s", turns, target=10)
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Goal(StrEnum):
    """What a row's figure is, and on which side of the target it has to be."""

    at_least = "at_least"  # how many times better than the peer; at least the target
    share = "share"  # the same, as a part of what the peer is the whole of
    at_most_ratio = "at_most_ratio"  # ours / peer; at most the target
    at_most_more = "at_most_more"  # ours - peer, in the row's unit; at most the target


@dataclass(frozen=True)
class Row:
    """One comparison: `turns` holds (ours, peer), both in `unit`, of each turn in which both were measured.

    Its figure is the median over the turns of each turn's ratio or difference, not the ratio of two medians: what slows
    the machine down for a while slows both sides of a turn. Without a target it is told and not judged.

    Raises ValueError when there are no turns, when a measurement is not finite, or a ratio needs one above 0.
    """

    name: str  # one in its group, and the same in every version: figures are followed by it
    what: str
    against: str
    unit: str
    turns: list[tuple[float, float]]
    higher_is_better: bool = False
    target: float | None = None
    goal: Goal = Goal.at_least
    note: str = ""

    def __post_init__(self) -> None:
        values = [value for turn in self.turns for value in turn]
        if not values:
            raise ValueError(f"{self.name}: no turn was measured")
        lowest = -math.inf if self.goal == Goal.at_most_more else 0.0
        if not all(math.isfinite(value) and value > lowest for value in values):
            raise ValueError(f"{self.name}: {self.turns} are not all measurements in {self.unit}")

    @property
    def ours(self) -> float:
        """The median of our side, in `unit`."""
        return statistics.median(ours for ours, _ in self.turns)

    @property
    def peer(self) -> float:
        """The median of the other side, in `unit`."""
        return statistics.median(peer for _, peer in self.turns)

    @property
    def figures(self) -> list[float]:
        """Of each turn what the goal is about: how many times better, ours / peer, or ours - peer."""
        if self.goal == Goal.at_most_more:
            return [ours - peer for ours, peer in self.turns]
        if self.goal == Goal.at_most_ratio or self.higher_is_better:
            return [ours / peer for ours, peer in self.turns]
        return [peer / ours for ours, peer in self.turns]

    @property
    def ratio(self) -> float:
        """The median of `figures`: what the row says (of `at_most_more` a difference)."""
        return statistics.median(self.figures)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of `figures`; of a single turn that figure, twice."""
        if len(self.turns) == 1:
            return (self.ratio, self.ratio)
        low, _, high = statistics.quantiles(self.figures, n=4, method="inclusive")
        return (low, high)

    @property
    def met(self) -> bool | None:
        """Whether `ratio` reaches the target; None without one."""
        if self.target is None:
            return None
        least = self.goal in (Goal.at_least, Goal.share)
        return self.ratio >= self.target if least else self.ratio <= self.target

    def to_json(self) -> dict[str, Any]:
        """What was measured, and what follows from it for whoever reads only the file."""
        return {
            "name": self.name,
            "what": self.what,
            "against": self.against,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "goal": self.goal.value,
            "target": self.target,
            "note": self.note,
            "ours": self.ours,
            "peer": self.peer,
            "ratio": self.ratio,
            "spread": list(self.spread),
            "met": self.met,
            "turns": [list(turn) for turn in self.turns],
        }

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> Row:
        """A row as it was; what follows from the turns is computed anew."""
        return cls(
            name=read["name"],
            what=read["what"],
            against=read["against"],
            unit=read["unit"],
            turns=[(float(ours), float(peer)) for ours, peer in read["turns"]],
            higher_is_better=read["higher_is_better"],
            target=read["target"],
            goal=Goal(read["goal"]),
            note=read["note"],
        )


@dataclass(frozen=True)
class Measured:
    """What a group may give in place of its rows alone: those, and what its pictures are drawn from (plain JSON)."""

    rows: list[Row]
    data: dict[str, Any]


class Missing(Exception):  # noqa: N818 (`raise Missing` says what it is)
    """What a group cannot be measured without is not here; the message says what, and how to get it."""


def in_turn(
    ours: Callable[[], object], peer: Callable[[], object], turns: int, warmup: int = 1, repeats: int = 1
) -> list[tuple[float, float]]:
    """Seconds of one call of `ours` and of `peer` in each of `turns`, the mean of `repeats` calls one after another."""
    return alternate(timed(ours, repeats), timed(peer, repeats), turns, warmup)


def alternate(
    ours: Callable[[], float], peer: Callable[[], float], turns: int, warmup: int = 1
) -> list[tuple[float, float]]:
    """What both measured themselves (a rate, seconds of a process, bytes) in each turn, after `warmup` turns dropped.

    Which goes first is swapped every other turn: the second finds warmer caches and a warmer processor.
    """
    measured = []
    for turn in range(warmup + turns):
        if turn % 2 == 0:
            first = ours()
            measured.append((first, peer()))
        else:
            second = peer()
            measured.append((ours(), second))
    return measured[warmup:]


def timed(call: Callable[[], object], repeats: int = 1) -> Callable[[], float]:
    """A callable that gives the seconds of one call, as the mean of `repeats`."""

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    return measure
