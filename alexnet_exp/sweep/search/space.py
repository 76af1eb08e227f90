"""Parses a search space from overrides in Hydra's grammar.

    model=lrn,bn                                one of a list; also choice(...), glob(*)
    data.batch_size=range(32,257,32)            numbers in steps, without the end, as in Python
    model.dropout=interval(0,0.8)               any number between two ends, both included
    optim.lr=tag(log,interval(1e-4,1e-1))       the same on a logarithmic scale
    trainer.max_epochs=int(interval(2,20))      integers

Does not import Optuna: an invalid space is rejected without it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.config.compose import compose_run, composer_of
from alexnet_exp.config.composer import parse_override
from alexnet_exp.config.overrides import NO_NUMBERS
from alexnet_exp.config.schema import Config
from alexnet_exp.errors import NO_VALUE, Problem, Refused, UserError, yaml_text

SearchValue = str | int | float
LOG_TAG = "log"
VALUE_DIGITS = 12  # of the values in a range of fractions: range(0,1,0.1) has 0.3, not 0.30000000000000004


# Each dimension has its `key`, its text `typed` in the override, and
#   corners: the texts of the values that are validated in place of all;
#   values: all values in order, or None if they are not countable;
#   text: the text after `key=` from which Hydra reads the value again.


@dataclass(frozen=True)
class Choice:
    """One of a list. The values are the texts themselves, so that lists, null and quoted strings stay as typed."""

    key: str
    typed: str
    texts: tuple[str, ...]

    def corners(self) -> list[str]:
        return list(self.texts)

    def values(self) -> list[SearchValue]:
        return list(self.texts)

    def text(self, value: SearchValue) -> str:
        return str(value)


@dataclass(frozen=True)
class IntegerRange:
    """An integer from low to high, both included, in steps."""

    key: str
    typed: str
    low: int
    high: int
    step: int = 1
    log: bool = False

    def corners(self) -> list[str]:
        return [str(end) for end in dict.fromkeys((self.low, self.high))]

    def values(self) -> list[SearchValue]:
        return list(range(self.low, self.high + 1, self.step))

    def text(self, value: SearchValue) -> str:
        return str(int(value))


@dataclass(frozen=True)
class RealRange:
    """A real number from low to high, both included, in steps; step None: any number between them."""

    key: str
    typed: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def corners(self) -> list[str]:
        return [self.text(end) for end in dict.fromkeys((self.low, self.high))]

    def values(self) -> list[SearchValue] | None:
        if self.step is None:
            return [self.low] if self.low == self.high else None
        count = round((self.high - self.low) / self.step) + 1
        return [_rounded(self.low + index * self.step) for index in range(count)]

    def text(self, value: SearchValue) -> str:
        number = float(value)
        return repr(number if self.step is None else _rounded(number))


Dimension = Choice | IntegerRange | RealRange


@dataclass(frozen=True)
class Space:
    """The dimensions by key, and the overrides that all trials have in common."""

    dimensions: dict[str, Dimension] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()

    def overrides(self, values: Mapping[str, SearchValue]) -> list[str]:
        """Returns the overrides of one trial."""
        return [*self.fixed, *self.varied(values)]

    def varied(self, values: Mapping[str, SearchValue]) -> list[str]:
        """Returns the overrides of one trial in which trials differ."""
        return [f"{key}={dimension.text(values[key])}" for key, dimension in self.dimensions.items()]

    def combinations(self) -> Iterator[dict[str, SearchValue]]:
        """Returns every combination of all values, the last dimension varying fastest, as Hydra's sweeper does.

        Raises `Refused` for dimensions whose values are not countable.
        """
        columns = {key: dimension.values() for key, dimension in self.dimensions.items()}
        uncountable = [self.dimensions[key] for key, column in columns.items() if column is None]
        if uncountable:
            instead = "a grid needs countable values; write a list or range(low,end,step), or sampler=tpe"
            raise Refused([_problem(dimension, instead) for dimension in uncountable])
        counted = [column for column in columns.values() if column is not None]
        return (dict(zip(columns, values, strict=True)) for values in itertools.product(*counted))

    def check(self, config_dir: str | None) -> list[Config]:
        """Returns the configurations at the corners: each choice and end of a dimension, with the first of the others.

        Raises UserError with every problem of any of them, one line each. A combination of values that are valid one by
        one may still be rejected when it is tried.
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
                configs.append(compose_run(overrides, config_dir, composer).config)
            except Refused as refused:
                for problem in refused.problems:
                    identity, line = self._describe(problem)
                    lines.setdefault(identity, line)
            except UserError as error:
                lines |= {line: line for line in str(error).splitlines()}
        if lines:
            raise UserError("\n".join(lines.values()))
        return configs

    def _describe(self, problem: Problem) -> tuple[Any, str]:
        """Returns the identity and the line of a problem; both ends of an interval may have the same problem."""
        dimension = self.dimensions.get(problem.key)
        if dimension is None or isinstance(dimension, Choice) or problem.value is NO_VALUE:
            return str(problem), str(problem)
        start = f"{problem.key}={dimension.typed}: {yaml_text(problem.value)} "
        is_integer = isinstance(dimension, RealRange) and "whole number" in problem.instead
        advice = f"; write int({dimension.typed})" if is_integer else ""
        return (problem.key, problem.instead), f"{start}{problem.instead}{advice}"


def parse(overrides: Iterable[str], config_loader: Any = None) -> Space:
    """Returns the space that overrides in Hydra's grammar describe; the last override of a key counts.

    config_loader: Hydra's, for the options of a group in `glob`. Raises `Refused` with every invalid override.
    """
    dimensions: dict[str, Dimension] = {}
    fixed: dict[str, str] = {}
    problems: list[Problem] = []
    for text in overrides:
        try:
            key, parsed = _parse_override(text, config_loader)
        except Refused as refused:
            problems += refused.problems
            continue
        for earlier in (dimensions, fixed):
            earlier.pop(key, None)
        if isinstance(parsed, str):
            fixed[key] = parsed
        else:
            dimensions[key] = parsed
    if not problems and not dimensions:
        instead = "no setting has several values; write a list, range() or interval(): optim.lr=interval(0.001,0.1)"
        problems.append(Problem("hydra/sweeper", "optuna", instead))
    if problems:
        raise Refused(problems)
    return Space(dimensions, tuple(fixed.values()))


def _parse_override(text: str, config_loader: Any) -> tuple[str, Dimension | str]:
    """Returns the key of an override and its dimension, or its own text if it has a single value."""
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    parsed = parse_override(text, config_loader)
    key = parsed.get_key_element()
    if not parsed.is_sweep_override():
        return key, text
    typed, sweep = text.partition("=")[2], parsed.value()
    tags = {str(tag) for tag in getattr(sweep, "tags", ())}
    if tags - {LOG_TAG}:
        raise Refused([Problem(key, typed, f"the tag {min(tags - {LOG_TAG})} is unknown; the only tag is log")])
    if isinstance(sweep, IntervalSweep):
        return key, _interval(key, typed, sweep.start, sweep.end, LOG_TAG in tags)
    if isinstance(sweep, RangeSweep):
        return key, _range(key, typed, (sweep.start, sweep.stop, sweep.step), LOG_TAG in tags)
    texts = tuple(dict.fromkeys(parsed.sweep_string_iterator()))
    if LOG_TAG in tags:
        raise Refused([Problem(key, typed, "tag(log, ...) applies to an interval or a range; leave it out for a list")])
    if not texts:
        raise Refused([Problem(key, typed, "the list is empty; write at least one value")])
    return key, Choice(key, typed, texts)


def _interval(key: str, typed: str, low: Any, high: Any, log: bool) -> Dimension:
    is_integer = isinstance(low, int) and isinstance(high, int)
    if is_integer:
        return _checked(IntegerRange(key, typed, low, high, log=log))
    return _checked(RealRange(key, typed, float(low), float(high), log=log))


def _range(key: str, typed: str, ends: Sequence[Any], log: bool) -> Dimension:
    """Returns the dimension with the values of a range, which may be decreasing and does not include its end."""
    start, stop, step = ends
    if not step:
        raise Refused([Problem(key, typed, "the step is 0; write another step")])
    if all(isinstance(end, int) for end in ends):
        numbers: Sequence[Any] = sorted(range(start, stop, step))
        dimension_class: Any = IntegerRange
    else:
        # The values below the end; a value that differs from the end by rounding alone is the end itself.
        count = max(0, math.ceil((stop - start) / step - 1e-9))
        numbers = sorted(_rounded(start + index * step) for index in (range(count) if count < 3 else (0, count - 1)))
        dimension_class = RealRange
    if not numbers:
        raise Refused([Problem(key, typed, NO_NUMBERS)])
    if log and (dimension_class is RealRange or abs(step) != 1):
        raise Refused([Problem(key, typed, "a logarithmic scale has no step; write tag(log,interval(low,high))")])
    return _checked(dimension_class(key, typed, numbers[0], numbers[-1], abs(step), log))


def _checked(dimension: IntegerRange | RealRange) -> Dimension:
    if not (math.isfinite(dimension.low) and math.isfinite(dimension.high)):
        raise Refused([_problem(dimension, "both ends must be finite")])
    if dimension.low > dimension.high:
        raise Refused([_problem(dimension, "the first end is greater than the second; write the lower end first")])
    if dimension.log and dimension.low <= 0:
        raise Refused([_problem(dimension, "the lower end of a logarithmic scale must be above 0")])
    return dimension


def _problem(dimension: Dimension, instead: str) -> Problem:
    return Problem(dimension.key, dimension.typed, instead)


def _rounded(value: float) -> float:
    return float(f"{value:.{VALUE_DIGITS}g}")
