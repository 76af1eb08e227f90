"""Compares the steps of two runs, to check that a change of the code changes no result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from alexnet_exp.errors import UserError
from alexnet_exp.runs.reader import read_steps

STEP_COLUMNS = ("step", "loss", "lr")


@dataclass(frozen=True)
class StepDifference:
    """The first difference, in `what` (step, loss, lr) at `step`; a value is None if the run does not have the step."""

    step: int
    what: str
    first: float | None
    second: float | None

    def __str__(self) -> str:
        if self.first is None or self.second is None:
            return f"step {self.step}: only the {'second' if self.first is None else 'first'} run has it"
        return f"step {self.step}: {self.what} {self.first!r} and {self.second!r}"


def first_difference(first: Path, second: Path, tolerance: float = 0.0) -> tuple[StepDifference | None, int]:
    """Returns the first difference between the runs in two folders, and the number of equal steps.

    tolerance: the relative and absolute tolerance of losses and learning rates, as in `math.isclose`; with 0 the bits
    must be equal, and NaN equals NaN. Raises UserError if a run recorded no step.
    """
    ours, theirs = read_steps(first), read_steps(second)
    for run, rows in ((first, ours), (second, theirs)):
        if not rows:
            raise UserError(f"{run / 'steps.csv'}: has no steps to compare")
    for equal, (one, other) in enumerate(zip_longest(ours, theirs)):
        if one is None or other is None or one[0] != other[0]:
            # the earlier step is missing in the other run
            if other is None or (one is not None and one[0] < other[0]):
                return StepDifference(one[0], "step", one[0], None), equal
            return StepDifference(other[0], "step", None, other[0]), equal
        for name, a, b in zip(STEP_COLUMNS[1:], one[1:], other[1:], strict=True):
            if not _same(a, b, tolerance):
                return StepDifference(one[0], name, a, b), equal
    return None, len(ours)


def _same(a: float, b: float, tolerance: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if tolerance == 0:
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
