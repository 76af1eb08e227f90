"""Tests of compare --assert-equal."""

import math

import pytest

from alexnet_exp.compare.assert_equal import first_difference
from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import RunFolder

STEPS = [(1, 2.5, 0.1), (2, 0.1 + 0.2, 0.1), (3, 1.0, 0.05)]


def difference(tmp_path, ours, theirs, tolerance=0.0):
    for name, steps in (("a", ours), ("b", theirs)):
        RunFolder(tmp_path / name).append_steps(steps)
    found, equal = first_difference(tmp_path / "a", tmp_path / "b", tolerance)
    return (str(found) if found else None), equal


def test_the_same_steps(tmp_path):
    assert difference(tmp_path, STEPS, STEPS) == (None, 3)


@pytest.mark.parametrize(
    ("theirs", "tolerance", "said", "equal"),
    [
        ([STEPS[0], (2, 0.3, 0.1), STEPS[2]], 0.0, "step 2: loss 0.30000000000000004 and 0.3", 1),
        ([STEPS[0], (2, 0.3, 0.1), STEPS[2]], 1e-12, None, 3),
        ([*STEPS[:2], (3, 1.0, 0.06)], 1e-3, "step 3: lr 0.05 and 0.06", 2),
        (STEPS[:2], 0.0, "step 3: only the first run has it", 2),
        ([*STEPS, (4, 1.0, 1.0)], 1.0, "step 4: only the second run has it", 3),
        ([STEPS[0], STEPS[2]], 0.0, "step 2: only the first run has it", 1),
        ([(3, 1.0, 0.05)], 0.0, "step 1: only the first run has it", 0),
    ],
)
def test_the_first_difference(tmp_path, theirs, tolerance, said, equal):
    assert difference(tmp_path, STEPS, theirs, tolerance) == (said, equal)


def test_nan_equals_nan_only(tmp_path):
    nan = [(1, math.nan, 0.1)]
    assert difference(tmp_path / "same", nan, nan) == (None, 1)
    assert difference(tmp_path / "not", nan, [(1, 1.0, 0.1)], 1.0)[0] == "step 1: loss nan and 1.0"


def test_minus_zero_is_not_zero_to_the_bit(tmp_path):
    assert difference(tmp_path, [(1, 0.0, 1.0)], [(1, -0.0, 1.0)])[0] == "step 1: loss 0.0 and -0.0"


def test_a_run_without_steps_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"b/steps\.csv: has no steps"):
        difference(tmp_path, STEPS, [])
