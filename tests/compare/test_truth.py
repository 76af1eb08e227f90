"""Tests the rate of false statements over many generated sweeps, which are confounded and incomplete."""

import pytest
from scipy import stats

from tests.compare.sweeps import tried


@pytest.mark.parametrize("numbers", [range(40), pytest.param(range(2000), marks=pytest.mark.slow)], ids=len)
def test_no_setting_is_hidden_and_no_more_verdicts_are_wrong_than_stated(numbers):
    """Each comparison holds its verdicts and intervals to 5% together; settings it does not name may not differ."""
    count = tried(numbers)
    assert count.hidden == []
    allowed = stats.binom.ppf(0.999, count.answered, 0.05)
    assert count.families <= allowed, f"{count.families} of {count.answered} with a wrong verdict"
    assert count.missed <= allowed, f"{count.missed} of {count.answered} with an interval beside the truth"
    # the questions are such that most can be answered, and answers are such that they could be wrong
    assert count.answered > 0.5 * count.sweeps
    assert count.verdicts > 0.3 * count.differences
