"""Against SciPy's own tests, published examples and tables, and sweeps whose truth is known."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from alexnet_exp.compare import statistics
from alexnet_exp.compare.statistics import (
    MOST_SEEDS,
    Design,
    Sample,
    against,
    correlation,
    dunnett_factor,
    holm,
    paired,
    pooled_sd,
    power_of,
    sd_interval,
    seeds_for,
)
from benchmarks.statistics_simulation import SEEDS, SHAPES, false_equality, false_pairs, false_verdicts, seen

# Hours of extra sleep with two drugs, the same ten people (Cushny and Peebles 1905, in Student 1908).
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
# Blood counts of three groups of animals (Dunnett 1955).
CONTROL = [7.40, 8.50, 7.20, 8.24, 9.84, 8.32]
DRUG_A = [9.76, 8.80, 7.68, 9.36]
DRUG_B = [12.80, 9.68, 12.16, 9.20, 10.55]


def one(control, arm, alpha=0.05):
    method, (test,) = against(Sample.of(control), [Sample.of(arm)], alpha)
    assert method == "Welch"
    return test


@pytest.mark.parametrize("values", [FIRST, [0.97, 0.98, 0.96], [1e6, 1e6 + 1, 1e6 + 3, 1e6 - 2]])
def test_an_arm_is_summed_up_as_scipy_does(values):
    sample = Sample.of(values)
    assert sample.mean == pytest.approx(np.mean(values))
    assert sample.sd == pytest.approx(np.std(values, ddof=1))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert sample.interval == pytest.approx(tuple(expected))


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.8], [0.9, 0.9, 0.9], [0.1 + 0.2, 0.3, 0.3]])
def test_too_few_or_equal_values_have_no_interval(values):
    assert Sample.of(values).interval is None


@pytest.mark.parametrize(
    ("control", "arm"),
    [(FIRST, SECOND), (CONTROL, DRUG_A), ([0.97, 0.98, 0.96], [0.5, 0.7, 0.9, 0.6]), ([1, 1, 1], [2, 3, 2.5])],
)
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_welch_is_scipys(control, arm, alpha):
    expected = stats.ttest_ind(arm, control, equal_var=False)
    found = one(control, arm, alpha)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.df == pytest.approx(expected.df)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(1 - alpha)))
    assert found.decided == (expected.pvalue < alpha)


def test_welch_of_the_sleep_data_as_published():
    found = one(FIRST, SECOND)
    assert (found.df, found.p) == (pytest.approx(17.776, abs=1e-3), pytest.approx(0.07939, abs=1e-5))
    assert found.interval == pytest.approx((-0.2054832, 3.3654832), abs=1e-7)


def test_pairs_of_the_sleep_data_as_published_and_as_scipy_has_them():
    _, (found,) = paired([[b - a for a, b in zip(FIRST, SECOND, strict=True)]])
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert found.interval == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    expected = stats.ttest_rel(SECOND, FIRST)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert correlation(FIRST, SECOND) == pytest.approx(stats.pearsonr(FIRST, SECOND).statistic)


def test_no_correlation_with_what_does_not_vary():
    assert correlation([1, 1, 1], [1, 2, 3]) is None


@pytest.mark.parametrize(
    ("arms", "df", "published"),
    [
        (1, 10, 2.23),
        (2, 10, 2.57),
        (3, 10, 2.76),
        (2, 20, 2.38),
        (3, 20, 2.54),
        (5, 20, 2.73),
        (2, 30, 2.32),
        (3, 5, 3.29),
    ],
)
def test_dunnetts_factor_is_that_of_his_tables(arms, df, published):
    assert dunnett_factor((4,) * (arms + 1), df, 0.05) == pytest.approx(published, abs=0.0051)


def test_dunnetts_example():
    method, tests = against(Sample.of(CONTROL), [Sample.of(DRUG_A), Sample.of(DRUG_B)])
    assert method == "Dunnett"
    assert [test.p for test in tests] == pytest.approx([0.62004941, 0.0059035], abs=2e-4)
    assert [test.decided for test in tests] == [False, True]
    expected = stats.dunnett(DRUG_A, DRUG_B, control=CONTROL, random_state=1).confidence_interval()
    assert [test.interval for test in tests] == [
        pytest.approx(ends, abs=0.01) for ends in zip(expected.low, expected.high, strict=True)
    ]


@pytest.mark.parametrize("sizes", [(3, 3, 3), (5, 4, 6, 5), (10, 3, 3, 3), (3, 10, 4)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_dunnett_is_scipys(sizes, level, monkeypatch):
    monkeypatch.setattr(statistics, "UNBALANCED", math.inf)
    generator = np.random.default_rng(sum(sizes))
    control, *arms = [place + stats.zscore(generator.normal(size=size)) for place, size in enumerate(sizes)]
    method, tests = against(Sample.of(control), [Sample.of(arm) for arm in arms], 1 - level)
    assert method == "Dunnett"
    expected = stats.dunnett(*arms, control=control, random_state=1)
    assert [test.p for test in tests] == pytest.approx(expected.pvalue, abs=5e-4)
    # SciPy's own interval is searched with random numbers and sometimes not found. Its p of an arm that is moved by an
    # end of the interval must be alpha.
    for place, test in enumerate(tests):
        for end in test.interval:
            moved = [arm - end * (each == place) for each, arm in enumerate(arms)]
            assert stats.dunnett(*moved, control=control, random_state=1).pvalue[place] == pytest.approx(
                1 - level, rel=0.05
            )


def test_holms_steps_by_hand():
    """Of 0.01, 0.04, 0.03, 0.005: times 4, 3, 2, 1 from the smallest on, and never below the one before."""
    made = {0.01: one([0, 1, 2], [5, 6, 7.5])}
    base = made[0.01]

    def test(p, level):
        from dataclasses import replace

        return replace(base, p=p, decided=p < level)

    found = holm(test, [0.01, 0.04, 0.03, 0.005], 0.05)
    assert [each.p for each in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [each.decided for each in found] == [True, False, False, True]


def test_sds_that_differ_more_than_threefold_are_not_pooled():
    control, near, wide = [0, 1, 2], [1, 2, 3.5], [0, 10, 25]
    method, tests = against(Sample.of(control), [Sample.of(near), Sample.of(wide)])
    assert method == "Welch with Holm"
    alone = sorted(stats.ttest_ind(arm, control, equal_var=False).pvalue for arm in (near, wide))
    assert sorted(test.p for test in tests) == pytest.approx([2 * alone[0], max(2 * alone[0], alone[1])])
    at_half = stats.ttest_ind(near, control, equal_var=False).confidence_interval(1 - 0.05 / 2)
    assert tests[0].interval == pytest.approx(tuple(at_half))
    assert against(Sample.of(control), [Sample.of(near), Sample.of([0, 2, 4])])[0] == "Dunnett"


@pytest.mark.parametrize(
    ("sizes", "method"), [((5, 5, 5), "Dunnett"), ((6, 4, 5), "Dunnett"), ((5, 3, 5), "Welch with Holm")]
)
def test_numbers_of_seeds_that_differ_by_more_than_half_are_not_pooled(sizes, method):
    control, *arms = [Sample(size, 0.9, 0.01) for size in sizes]
    assert against(control, arms)[0] == method


def test_more_seeds_of_two_arms_beside_a_few_of_a_third_find_nothing_that_is_not_there():
    """What the printed command leaves behind. Dunnett's test says something in one of four such sweeps."""
    generator = np.random.default_rng(0)
    false = 0
    for _ in range(500):
        arms = [Sample.of(generator.normal(0, sd, n).tolist()) for n, sd in ((80, 1.0), (80, 1.0), (5, 2.5))]
        false += any(test is not None and test.decided for test in against(arms[0], arms[1:])[1])
    assert false <= 0.08 * 500


def test_what_a_later_step_of_holm_decides_has_an_interval_that_ends_at_zero():
    # p = 0.041 alone: below 0.05 in the last step, but Bonferroni's interval at 0.025 holds 0
    control, sure, late = [0, 0.1, 0.2], [9.0, 9.1, 9.2], [2.2, 3.1, 4.5]
    _, tests = against(Sample.of(control), [Sample.of(sure), Sample.of(late)])
    bonferroni = stats.ttest_ind(late, control, equal_var=False).confidence_interval(1 - 0.05 / 2)
    assert tests[1].decided
    assert bonferroni.low < 0 == tests[1].interval[0]
    assert tests[1].interval[1] == pytest.approx(bonferroni.high)


def test_nothing_is_told_where_nothing_varies():
    same, other = Sample.of([0.9] * 3), Sample.of([0.8] * 3)
    assert against(same, [other]) == ("Welch", [None])
    assert against(same, [other, other])[1] == [None, None]
    assert paired([[0.1, 0.1, 0.1]])[1] == [None]
    assert Design((same, other)).detectable() is None
    assert Design((same, other)).seeds_to_see(0.1) is None


def test_two_one_sided_tests_are_scipys():
    generator = np.random.default_rng(3)
    control, arm = generator.normal(0, 1, 8), generator.normal(0.2, 2, 6)
    found = one(control, arm)

    def larger(margin):
        """The larger p of the two one-sided Welch tests."""
        above = stats.ttest_ind(arm + margin, control, equal_var=False, alternative="greater").pvalue
        below = stats.ttest_ind(arm - margin, control, equal_var=False, alternative="less").pvalue
        return max(above, below)

    margins = np.linspace(0.1, 5, 60)
    assert [found.within(margin) for margin in margins] == [larger(margin) < 0.05 for margin in margins]
    assert {found.within(margin) for margin in margins} == {True, False}


def test_what_many_seeds_can_show_is_the_textbooks_number():
    """With sds that are known well: 2 * (1.96 + 0.84)^2 / n is the difference's square, in sds."""
    arm = Sample(400, 0.0, 1.0)
    assert Design((arm, arm)).detectable() == pytest.approx((2 / 400) ** 0.5 * 2.8016, rel=0.01)


def test_what_pairs_can_show_is_at_least_the_noncentral_ts():
    """The noncentral t takes the measured sd for the true one, so it promises more; at many seeds they agree."""

    def textbook(n):
        at = np.linspace(0.01, 6, 6000)
        power = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, at * n**0.5)
        return at[np.searchsorted(power, 0.8)]

    few, many = (Design(differences=Sample(n, 0.0, 1.0)).detectable() for n in (5, 200))
    assert 1.1 * textbook(5) < few < 2 * textbook(5)
    assert many == pytest.approx(textbook(200), rel=0.02)


@pytest.mark.parametrize("more", [0, 3, 40])
@pytest.mark.parametrize("kind", ["welch", "several", "paired"])
def test_seeds_to_see_and_what_can_be_seen_agree(kind, more):
    arm, baseline = Sample(4, 0.0, 1.0), Sample(5, 0.0, 1.5)
    design = {
        "welch": Design((baseline, arm)),
        "several": Design((baseline, arm, Sample(4, 0.0, 1.2)), place=2),
        "paired": Design(differences=Sample(4, 0.0, 1.0), arms=2),
    }[kind]
    shown = design.detectable(more)
    assert design.seeds_to_see(shown * 1.001) <= more
    if more:
        assert design.seeds_to_see(design.detectable(more - 1) * 0.999) == more
    assert design.seeds_to_see(-shown) == design.seeds_to_see(shown)


def test_a_tiny_difference_needs_more_seeds_than_anybody_runs():
    arm = Sample(3, 0.0, 1.0)
    assert Design((arm, arm)).seeds_to_see(1e-5) == MOST_SEEDS + 1
    assert Design((arm, arm)).seeds_to_see(0.0) is None


def test_the_pooled_sd_weighs_by_degrees_of_freedom():
    sd, df = pooled_sd([Sample(3, 0, 1.0), Sample(5, 0, 2.0)])
    assert (sd, df) == (pytest.approx(((2 * 1 + 4 * 4) / 6) ** 0.5), 6)


@pytest.mark.slow
@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sweeps_without_a_difference_rarely_get_a_verdict(shape, n):
    """At most 6 in 100, where the sds differ fourfold hardly more; 2,000 sweeps tell it to within half of one."""
    assert false_verdicts(SHAPES[shape], n, 2000) <= (0.06 if "equal" in shape else 0.066)


@pytest.mark.slow
@pytest.mark.parametrize("n", SEEDS)
def test_pairs_without_a_difference_rarely_get_a_verdict(n):
    assert false_pairs(0.5, n, 2000) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_difference_of_the_size_that_can_be_seen_is_seen(shape, n):
    assert seen(SHAPES[shape], n, 1000) >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("shape", ["one arm, equal sds", "three arms, equal sds"])
def test_it_is_seen_too_where_the_size_comes_from_measured_sds(shape, n):
    assert seen(SHAPES[shape], n, 300, estimated=True) >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("arms", [1, 3])
@pytest.mark.parametrize("n", SEEDS)
def test_a_difference_of_the_margin_is_rarely_called_none(n, arms):
    assert false_equality(n, 2000, 3.0, arms) <= 0.06


def test_scipy_is_not_imported_before_it_is_needed():
    code = (
        "import sys, alexnet_exp.compare.compare as c\n"
        "c.compare([])\n"
        "print([m for m in ('scipy', 'torch', 'pytorch_lightning', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("sd", "even", "twice"), [(0.15, 4, 3), (0.2, 6, 4), (0.3, 10, 8), (0.4, 17, 13)])
def test_the_seeds_that_a_margin_of_0_4_needs(sd, even, twice):
    """The numbers of the even design are those of any table of the t test's power; one seed fewer is too few."""
    assert (seeds_for(0.4, sd), seeds_for(0.4, sd, 2)) == (even, twice)
    for arm, baseline in ((even, even), (twice, 2 * twice)):
        assert simulated_power(0.4 / sd, arm, baseline) == pytest.approx(power_of(0.4, sd, arm, baseline), abs=0.01)
        assert power_of(0.4, sd, arm, baseline) >= 0.8
    assert power_of(0.4, sd, even - 1, even - 1) < 0.8
    assert power_of(0.4, sd, twice - 1, 2 * twice - 2) < 0.8


def simulated_power(difference, arm, baseline, sweeps=20_000):
    rng = np.random.default_rng(1)
    first, second = rng.normal(difference, 1, (sweeps, arm)), rng.normal(0, 1, (sweeps, baseline))
    return float((stats.ttest_ind(first, second, axis=1).pvalue < 0.05).mean())


def test_more_seeds_than_anyone_runs():
    assert seeds_for(0.4, 100.0) == MOST_SEEDS + 1


def test_the_interval_of_an_sd_by_simulation():
    """In 95 of 100 samples of five it holds the true one."""
    sds = np.random.default_rng(2).normal(0, 3, (4000, 5)).std(axis=1, ddof=1)
    held = [low <= 3 <= high for low, high in (sd_interval(sd, 4) for sd in sds)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
