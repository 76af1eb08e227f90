"""Equivalence of paired runs, against SciPy's one-sided t tests."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.precision import KEPT, equivalence, read


def test_it_is_scipys_two_one_sided_tests() -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.normal(62.2, 0.5, 12), random.normal(62.0, 0.5, 12)
    found = equivalence(list(zip(ours, theirs, strict=True)), 0.5)
    above = stats.ttest_1samp(ours - theirs, -0.5, alternative="greater")
    below = stats.ttest_1samp(ours - theirs, 0.5, alternative="less")
    assert found.p == pytest.approx(max(above.pvalue, below.pvalue))
    interval = stats.ttest_1samp(ours - theirs, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.holds == (interval.low > -0.5 and interval.high < 0.5)


def test_the_kept_runs_show_equivalence() -> None:
    """The default on a processor that computes in bf16 stands on this."""
    pairs = read(KEPT)
    assert len(pairs) >= 10
    assert equivalence(pairs, 0.5).holds
