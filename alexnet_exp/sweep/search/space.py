"""The space of a search in Hydra's grammar, as dimensions: where a trial's values come from, and how one types them.

    model=lrn,bn                                one of a list; also choice(...), glob(*)
    data.batch_size=range(32,257,32)            steps, without the end, as in Python
    model.dropout=interval(0,0.8)               any number between, both ends included
    optim.lr=tag(log,interval(1e-4,1e-1))       the same, every power of ten as often as the next
    trainer.max_epochs=int(interval(2,20))      whole numbers

No Optuna here: a wrong space is told without it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.config.compose import composed, composer_of
from alexnet_exp.config.composer import parsed_override
from alexnet_exp.config.overrides import NO_NUMBERS
from alexnet_exp.config.schema import Config
from alexnet_exp.errors import NO_VALUE, Problem, Refused, UserError, yaml_text

Value = str | int | float
LOG = "log"
FIGURES = 12  # of the values in a range of fractions: range(0,1,0.1) has 0.3 in it, and not 0.30000000000000004


# Each dimension has its `key` and how it was `typed`, and
#   corners: the texts of the values whose validity speaks for all the others;
#   values: all of them, in order, or None where they cannot be counted;
#   text: what stands behind `key=` for Hydra to read a value again.


@dataclass(frozen=True)
class Choice:
    """One of a list. Its values are the texts themselves: lists, null and quoted strings come back as they were."""

    key: str
    typed: str
    texts: tuple[str, ...]

    def corners(self) -> list[str]:
        return list(self.texts)

    def values(self) -> list[Value]:
        return list(self.texts)

    def text(self, value: Value) -> str:
        return str(value)


@dataclass(frozen=True)
class Whole:
    """A whole number from low to high, both included, in steps."""

    key: str
    typed: str
    low: int
    high: int
    step: int = 1
    log: bool = False

    def corners(self) -> list[str]:
        return [str(end) for end in dict.fromkeys((self.low, self.high))]

    def values(self) -> list[Value]:
        return list(range(self.low, self.high + 1, self.step))

    def text(self, value: Value) -> str:
        return str(int(value))


@dataclass(frozen=True)
class Real:
    """A number from low to high, both included; in steps, or any (step None)."""

    key: str
    typed: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def corners(self) -> list[str]:
        return [self.text(end) for end in dict.fromkeys((self.low, self.high))]

    def values(self) -> list[Value] | None:
        if self.step is None:
            return [self.low] if self.low == self.high else None
        count = round((self.high - self.low) / self.step) + 1
        return [_rounded(self.low + index * self.step) for index in range(count)]

    def text(self, value: Value) -> str:
        number = float(value)
        return repr(number if self.step is None else _rounded(number))


Dimension = Choice | Whole | Real


@dataclass(frozen=True)
class Space:
    """The dimensions by key, and the overrides that every trial has."""

    dimensions: dict[str, Dimension] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """The command line of one trial."""
        return [*self.fixed, *self.varied(values)]

    def varied(self, values: Mapping[str, Value]) -> list[str]:
        """Of one trial, the overrides that are searched over."""
        return [f"{key}={dimension.text(values[key])}" for key, dimension in self.dimensions.items()]

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Every combination of all values, the last dimension changing fastest, as Hydra's own sweeper orders them.

        Raises `Refused` for dimensions whose values cannot be counted.
        """
        columns = {key: dimension.values() for key, dimension in self.dimensions.items()}
        endless = [self.dimensions[key] for key, column in columns.items() if column is None]
        if endless:
            instead = "a grid needs values that can be counted; write a list or range(low,end,step), or sampler=tpe"
            raise Refused([_problem(dimension, instead) for dimension in endless])
        counted = [column for column in columns.values() if column is not None]
        return (dict(zip(columns, values, strict=True)) for values in itertools.product(*counted))

    def check(self, config_dir: str | None) -> list[Config]:
        """The configurations at the corners: each dimension's ends and choices, the others at their first.

        Raises UserError with every problem of any of them, one line each. A combination of values that are each fine
        may still be refused when its turn comes.
        """
        home = {key: dimension.corners()[0] for key, dimension in self.dimensions.items()}
        jobs = [home] + [
            {**home, key: text} for key, dimension in self.dimensions.items() for text in dimension.corners()[1:]
        ]
        configs: list[Config] = []
        lines: dict[Any, str] = {}
        composer = composer_of(config_dir)
        for job in jobs:
            overrides = [*self.fixed, *(f"{key}={text}" for key, text in job.items())]
            try:
                configs.append(composed(overrides, config_dir, composer)[0])
            except Refused as refused:
                for problem in refused.problems:
                    told, line = self._told(problem)
                    lines.setdefault(told, line)
            except UserError as error:
                lines |= {line: line for line in str(error).splitlines()}
        if lines:
            raise UserError("\n".join(lines.values()))
        return configs

    def _told(self, problem: Problem) -> tuple[Any, str]:
        """A problem's line, and what makes it the same as another: both ends of an interval may be wrong alike."""
        dimension = self.dimensions.get(problem.key)
        if dimension is None or isinstance(dimension, Choice) or problem.value is NO_VALUE:
            return str(problem), str(problem)
        of = f"{problem.key}={dimension.typed}: {yaml_text(problem.value)} "
        whole = isinstance(dimension, Real) and "whole number" in problem.instead
        advice = f"; write int({dimension.typed})" if whole else ""
        return (problem.key, problem.instead), f"{of}{problem.instead}{advice}"


def parse(overrides: Iterable[str], config_loader: Any = None) -> Space:
    """The space that overrides in Hydra's grammar describe; of two for one key the last counts.

    config_loader: Hydra's, which a `glob` asks for a group's options. Raises `Refused` with each that cannot be used.
    """
    dimensions: dict[str, Dimension] = {}
    fixed: dict[str, str] = {}
    problems: list[Problem] = []
    for text in overrides:
        try:
            key, meaning = _parsed(text, config_loader)
        except Refused as refused:
            problems += refused.problems
            continue
        for earlier in (dimensions, fixed):
            earlier.pop(key, None)
        if isinstance(meaning, str):
            fixed[key] = meaning
        else:
            dimensions[key] = meaning
    if not problems and not dimensions:
        instead = "nothing is searched over; write a list, range() or interval(), as in optim.lr=interval(0.001,0.1)"
        problems.append(Problem("hydra/sweeper", "optuna", instead))
    if problems:
        raise Refused(problems)
    return Space(dimensions, tuple(fixed.values()))


def _parsed(text: str, config_loader: Any) -> tuple[str, Dimension | str]:
    """The key of an override and the dimension it describes, or its own text where it is one value."""
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    parsed = parsed_override(text, config_loader)
    key = parsed.get_key_element()
    if not parsed.is_sweep_override():
        return key, text
    typed, sweep = text.partition("=")[2], parsed.value()
    tags = {str(tag) for tag in getattr(sweep, "tags", ())}
    if tags - {LOG}:
        raise Refused([Problem(key, typed, f"the tag {min(tags - {LOG})} means nothing here; there is log")])
    if isinstance(sweep, IntervalSweep):
        return key, _interval(key, typed, sweep.start, sweep.end, LOG in tags)
    if isinstance(sweep, RangeSweep):
        return key, _range(key, typed, (sweep.start, sweep.stop, sweep.step), LOG in tags)
    texts = tuple(dict.fromkeys(parsed.sweep_string_iterator()))
    if LOG in tags:
        raise Refused([Problem(key, typed, "a list has no scale; leave out tag(log, ...)")])
    if not texts:
        raise Refused([Problem(key, typed, "there is nothing to choose from")])
    return key, Choice(key, typed, texts)


def _interval(key: str, typed: str, low: Any, high: Any, log: bool) -> Dimension:
    whole = isinstance(low, int) and isinstance(high, int)
    found = Whole(key, typed, low, high, log=log) if whole else Real(key, typed, float(low), float(high), log=log)
    return _checked(found)


def _range(key: str, typed: str, ends: Sequence[Any], log: bool) -> Dimension:
    """A range leaves its end out, and may go down: what counts here is which values it has."""
    start, stop, step = ends
    if not step:
        raise Refused([Problem(key, typed, "the step must not be 0")])
    if all(isinstance(end, int) for end in ends):
        numbers: Sequence[Any] = sorted(range(start, stop, step))
        build: Any = Whole
    else:
        # as many as are below the end; one that differs from it by rounding alone is the end itself
        count = max(0, math.ceil((stop - start) / step - 1e-9))
        numbers = sorted(_rounded(start + index * step) for index in (range(count) if count < 3 else (0, count - 1)))
        build = Real
    if not numbers:
        raise Refused([Problem(key, typed, NO_NUMBERS)])
    if log and (build is Real or abs(step) != 1):
        raise Refused([Problem(key, typed, "a scale of powers takes no step; write tag(log,interval(low,high))")])
    return _checked(build(key, typed, numbers[0], numbers[-1], abs(step), log))


def _checked(found: Whole | Real) -> Dimension:
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise Refused([_problem(found, "both ends must be finite")])
    if found.low > found.high:
        raise Refused([_problem(found, "the lower end comes first")])
    if found.log and found.low <= 0:
        raise Refused([_problem(found, "a scale of powers starts above 0")])
    return found


def _problem(dimension: Dimension, instead: str) -> Problem:
    return Problem(dimension.key, dimension.typed, instead)


def _rounded(value: float) -> float:
    return float(f"{value:.{FIGURES}g}")
