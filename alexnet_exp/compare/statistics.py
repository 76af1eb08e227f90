"""Provides the statistics of a comparison: significance tests, intervals, power and numbers of seeds.

Everything works on plain numbers; SciPy provides the distributions and is imported only when one is needed.
Intervals, p values and verdicts come from one method: Welch's t test for one arm against the baseline; Welch's t tests
with Holm's correction for several; the paired t test on request. Standard deviations are never pooled over arms:
Dunnett's test, which pools them, reports a false difference in 10 to 14 of 100 sweeps if the baseline's standard
deviation is twice that of the arms, and a few seeds cannot show whether it is (benchmarks/results/statistics.json).
Seeds are not bootstrapped: at three seeds such a "95%" interval contains the true mean in 76 of 100 cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

Interval = tuple[float, float]

ALPHA = 0.05
POWER = 0.8  # of the detectable difference and of the number of seeds needed
FEWEST_SEEDS = 3  # of an arm; the spread of fewer seeds is not usable
MOST_SEEDS = 100  # of an arm in a plan; above it neither a number nor a command is given
# The percentage of comparisons without a true difference that get a verdict if seeds are added as advised and all seeds
# are tested again (benchmarks/results/statistics.json).
REPEATED_TEST_PERCENT = "8 to 11"
# Draws of the integral over the true sds and the results of the next seeds: the power is accurate to about one point.
_DRAWS = 2048


@dataclass(frozen=True)
class Sample:
    """Number, mean and sd of an arm's values. sd: with n - 1; None for one value; 0 if they differ only by rounding."""

    n: int
    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Returns the sample of at least one value."""
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(1, mean, None)
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return cls(len(values), mean, sd if sd > 1e-12 * abs(mean) else 0.0)

    @property
    def interval(self) -> Interval | None:
        """The 95% t interval of the mean; None below three values or if all values are equal."""
        if self.n < FEWEST_SEEDS or not self.sd:
            return None
        half = t_quantile(1 - ALPHA / 2, self.n - 1) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class SignificanceTest:
    """The result of a t test of one difference.

    error: the standard error, with `df` degrees of freedom. factor: the interval is the difference plus and minus
    `factor * error`. p: adjusted if several arms are compared; except for rounding, the interval excludes 0 if and only
    if p is below alpha. decided: whether p is below alpha. equivalence: the factor of the two one-sided tests.
    """

    difference: float
    error: float
    df: float
    p: float
    factor: float
    equivalence: float
    decided: bool

    @property
    def interval(self) -> Interval:
        """The interval at the level that the tests share.

        Holm's later steps can decide a difference whose interval includes 0: then the interval ends at 0.
        """
        low, high = self.difference - self.factor * self.error, self.difference + self.factor * self.error
        if self.decided:
            return (max(low, 0.0), high) if self.difference > 0 else (low, min(high, 0.0))
        return low, high

    def within(self, margin: float) -> bool:
        """Returns whether both one-sided tests reject a difference of `margin` or more."""
        return abs(self.difference) + self.equivalence * self.error < margin


def run_welch_tests(
    control: Sample, arms: Sequence[Sample], alpha: float = ALPHA
) -> tuple[str, list[SignificanceTest | None]]:
    """Returns the name of the method and the test of each arm against the control.

    The probability of any false verdict among them is `alpha`. Every sample needs `FEWEST_SEEDS` values. A test is None
    if neither the arm nor the control varies: no probability can be computed then.
    """
    if len(arms) == 1:
        return "Welch", [_welch(arms[0], control, alpha)]
    return "Welch with Holm", correct_holm(lambda arm, level: _welch(arm, control, level, several=True), arms, alpha)


def run_paired_tests(
    differences: Sequence[Sequence[float]], alpha: float = ALPHA
) -> tuple[str, list[SignificanceTest | None]]:
    """Returns the name of the method and the paired test of each arm, with Holm's steps.

    differences: of each arm, its differences from the control at the seeds in common (at least three).
    """
    name = "paired t" if len(differences) == 1 else "paired t with Holm"
    return name, correct_holm(lambda values, level: _paired(values, level), differences, alpha)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Returns Pearson's correlation; None if either sequence does not vary."""
    a, b = Sample.of(first), Sample.of(second)
    if not a.sd or not b.sd:
        return None
    products = math.fsum((x - a.mean) * (y - b.mean) for x, y in zip(first, second, strict=True))
    return products / ((a.n - 1) * a.sd * b.sd)


def correct_holm(
    test: Callable[[Any, float], SignificanceTest | None], samples: Sequence[Any], alpha: float
) -> list[SignificanceTest | None]:
    """Returns the test of each sample with Holm's correction.

    The smallest p must be below alpha/m, the next below alpha/(m-1), and so on until one is not. The intervals are
    Bonferroni's, at alpha/m each; an interval of a difference that only a later step decided ends at 0. `test` computes
    the test of a sample at a level.
    """
    m = len(samples)
    tests = [test(sample, alpha / m) for sample in samples]
    order = sorted((place for place in range(m) if tests[place]), key=lambda place: tests[place].p)  # type: ignore[union-attr]
    adjusted = 0.0
    for step, place in enumerate(order):
        found = tests[place]
        assert found is not None
        adjusted = min(1.0, max(adjusted, found.p * (m - step)))
        tests[place] = replace(found, p=adjusted, decided=adjusted < alpha)
    return tests


def t_quantile(probability: float, df: float) -> float:
    """Returns the quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def power_of(difference: float, sd: float, arm: int, baseline: int, alpha: float = ALPHA) -> float:
    """Returns the power of the two-sided t test with so many seeds of each arm, both with the standard deviation `sd`.

    It is exact, by the noncentral t distribution, which assumes that the sd is known. Use it to choose a size before a
    sweep. For an existing sweep use `Design`, which accounts for the few seeds from which the sd was estimated.
    """
    from scipy.special import nctdtr

    df = arm + baseline - 2
    shift = abs(difference) / (sd * math.sqrt(1 / arm + 1 / baseline))
    limit = t_quantile(1 - alpha / 2, df)
    return float(1 - nctdtr(df, shift, limit) + nctdtr(df, shift, -limit))


def seeds_for(difference: float, sd: float, times: int = 1, alpha: float = ALPHA) -> int:
    """Returns the seeds of an arm that detect a difference with 80% power if the baseline has `times` as many.

    The number is at least two; `MOST_SEEDS + 1` stands for every larger number. `sd` must be greater than 0.
    """
    low, high = 1, 2
    while power_of(difference, sd, high, times * high, alpha) < POWER:
        if high > MOST_SEEDS:
            return MOST_SEEDS + 1
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if power_of(difference, sd, middle, times * middle, alpha) >= POWER else (middle, high)
        )
    return min(high, MOST_SEEDS + 1)


@dataclass(frozen=True)
class NextSeeds:
    """How many more seeds each arm needs; `MOST_SEEDS + 1` stands for every larger number.

    number: for 80% power, averaged over the likely values of the true sds. low, high: if the true sds are at either end
    of their 80% interval.
    """

    number: int
    low: int
    high: int


@dataclass(frozen=True)
class Design:
    """An arm and its control before more seeds are run.

    alpha: the level of this one test, Bonferroni's share if several arms are tested. several: whether several are.
    """

    control: Sample
    arm: Sample
    alpha: float = ALPHA
    several: bool = False

    @classmethod
    def of_pairs(cls, differences: Sample, alpha: float = ALPHA) -> Design:
        """Returns the design of a paired test, which is Welch's test against a control that does not vary."""
        return cls(Sample(differences.n, 0.0, 0.0), differences, alpha)

    def detectable(self) -> float | None:
        """Returns the true difference that another sweep of this size detects with 80% power; None if nothing varied.

        Few seeds give only estimates of the true sds. Therefore the power of the test is averaged over the likely true
        sds and over the sds that will be measured. The noncentral t distribution treats the estimates as the true sds,
        and overstates the power at few seeds.
        """
        import numpy as np
        from scipy.special import ndtr, stdtrit

        if not self._varies:
            return None
        arm, control = ((side.sd or 0.0) ** 2 * self._scales for side in (self.arm, self.control))  # true variances
        a, b = arm * _chi2(1, self.arm.n - 1), control * _chi2(2, self.control.n - 1)  # measured variances
        error = np.sqrt(arm / self.arm.n + control / self.control.n)
        df = _freedom(a, self.arm.n, b, self.control.n, self.several)
        limit = stdtrit(df, 1 - self.alpha / 2) * np.sqrt(a / self.arm.n + b / self.control.n)

        def power(true: float) -> float:
            return float((ndtr((true - limit) / error) + ndtr((-true - limit) / error)).mean())

        low, high = 0.0, float(limit.mean())
        while power(high) < POWER:
            low, high = high, 2 * high
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if power(middle) < POWER else (low, middle)
        return high

    def next_seeds(self, difference: float, *, either_way: bool = False) -> NextSeeds | None:
        """Returns how many more seeds each arm needs for all seeds together to detect a difference with 80% power.

        The existing seeds stay in the test with their values. either_way: the true difference may have either sign;
        the existing seeds determine how likely each sign is. None if nothing varied or the difference is 0.
        """
        from scipy.special import chdtri

        if difference == 0 or not self._varies:
            return None
        df = _welch_error(self.arm, self.control)[1]
        # the argument of chdtri is the upper tail probability
        likely = [df / float(chdtri(df, above)) for above in (0.1, 0.9)]
        low, number, high = (
            self._fewest(lambda more, scale=scale: self.power(difference, more, either_way, scale))  # type: ignore[misc]
            for scale in (likely[0], None, likely[1])
        )
        return NextSeeds(number, min(low, number), max(number, high))

    def power(self, difference: float, more: int, either_way: bool = False, scale: float | None = None) -> float:
        """Returns the power of `more` seeds in each arm, tested together with the existing seeds.

        scale: the ratio of the true variances to the measured ones; None: averaged over its likely values.
        """
        import numpy as np
        from scipy.special import stdtr

        scales = self._scales if scale is None else scale
        arm, control = ((side.sd or 0.0) ** 2 * scales for side in (self.arm, self.control))  # true variances
        of_arm, of_control = arm / self.arm.n, control / self.control.n  # variances of the means
        total = of_arm + of_control
        measured, size = self.arm.mean - self.control.mean, abs(difference)
        sign: Any = math.copysign(1.0, difference)
        if either_way:
            # by Bayes' rule; both signs are equally likely before the seeds are known
            odds = np.exp(np.clip(-2 * measured * size / total, -700, 700))
            sign = np.where(_uniform(1) < 1 / (1 + odds), 1.0, -1.0)
        true = sign * size
        # The error of the measured difference is known given the true one; how it divides between the two means is not.
        off, share = measured - true, of_arm / total
        apart = np.sqrt(of_arm * of_control / total) * _normal(2)
        means, variances = [], []
        for column, side, variance, shift in (
            (3, self.arm, arm, off * share + apart),
            (5, self.control, control, -off * (1 - share) + apart),
        ):
            new = np.sqrt(variance / more) * _normal(column)
            squares = (side.n - 1) * (side.sd or 0.0) ** 2 + side.n * more / (side.n + more) * (shift - new) ** 2
            if more > 1:
                squares = squares + variance * (more - 1) * _chi2(column + 1, more - 1)
            means.append((side.n * shift + more * new) / (side.n + more))
            variances.append(squares / (side.n + more - 1))
        n, m = self.arm.n + more, self.control.n + more
        error = np.sqrt(variances[0] / n + variances[1] / m)
        df = _freedom(variances[0], n, variances[1], m, self.several)
        found = true + means[0] - means[1]
        return float((2 * stdtr(df, -np.abs(found) / error) < self.alpha).mean())

    @property
    def _varies(self) -> bool:
        return bool(self.arm.sd or self.control.sd)

    @property
    def _scales(self) -> Any:
        """Draws of one unknown factor of both variances, with Welch's degrees of freedom."""
        return 1 / _chi2(0, _welch_error(self.arm, self.control)[1])

    @staticmethod
    def _fewest(power: Callable[[int], float]) -> int:
        low, high = 0, MOST_SEEDS + 1
        if power(MOST_SEEDS) < POWER:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if power(middle) >= POWER else (middle, high)
        return high


def _welch(arm: Sample, control: Sample, alpha: float, several: bool = False) -> SignificanceTest | None:
    from scipy.special import stdtr

    error, df = _welch_error(arm, control, several)
    if error == 0:
        return None
    difference = arm.mean - control.mean
    return _t_test(difference, error, df, float(2 * stdtr(df, -abs(difference) / error)), alpha)


def _welch_error(arm: Sample, control: Sample, several: bool = False) -> tuple[float, float]:
    """Returns the standard error of the difference and its degrees of freedom."""
    a, b = (arm.sd or 0.0) ** 2, (control.sd or 0.0) ** 2
    if a + b == 0:
        return 0.0, 0.0
    return math.sqrt(a / arm.n + b / control.n), float(_freedom(a, arm.n, b, control.n, several))


def _freedom(a: Any, n: int, b: Any, m: int, several: bool) -> Any:
    """Returns the degrees of freedom of Welch and Satterthwaite for two measured variances (numbers or arrays).

    several: at the small levels of several arms the side with fewer seeds matters most. If its variance is small by
    chance, the error is too small and the degrees of freedom are too many: with 4 arms of 3 seeds against a baseline of
    10, 9 of 100 sweeps would have a false verdict. Therefore the side with fewer seeds counts as varying at least as
    much as the other.
    """
    import numpy as np

    df = (a / n + b / m) ** 2 / ((a / n) ** 2 / (n - 1) + (b / m) ** 2 / (m - 1))
    if several and n != m:
        most = np.maximum(a, b)
        df = np.minimum(df, _freedom(most if n < m else a, n, most if m < n else b, m, several=False))
    return df


def _paired(differences: Sequence[float], alpha: float) -> SignificanceTest | None:
    from scipy.special import stdtr

    sample = Sample.of(differences)
    if not sample.sd:
        return None
    error = sample.sd / math.sqrt(sample.n)
    p = float(2 * stdtr(sample.n - 1, -abs(sample.mean) / error))
    return _t_test(sample.mean, error, sample.n - 1, p, alpha)


def _t_test(difference: float, error: float, df: float, p: float, alpha: float) -> SignificanceTest:
    return SignificanceTest(
        difference,
        error,
        df,
        p,
        t_quantile(1 - alpha / 2, df),
        equivalence=t_quantile(1 - alpha, df),
        decided=p < alpha,
    )


def pooled_sd(samples: Sequence[Sample]) -> tuple[float, int]:
    """Returns the pooled sd of the samples and its degrees of freedom."""
    df = sum(sample.n - 1 for sample in samples)
    return math.sqrt(math.fsum((sample.n - 1) * (sample.sd or 0.0) ** 2 for sample in samples) / df), df


def sd_interval(sd: float, df: int) -> Interval:
    """Returns the 95% interval of the true sd of normal values, measured with `df` degrees of freedom."""
    from scipy.special import chdtri

    # the argument of chdtri is the upper tail probability
    return sd * math.sqrt(df / chdtri(df, ALPHA / 2)), sd * math.sqrt(df / chdtri(df, 1 - ALPHA / 2))


@lru_cache(maxsize=256)
def _chi2(column: int, df: float) -> Any:
    """Returns evenly spaced quantiles of chi-squared over its degrees of freedom, in the column's own order.

    The columns are independent, cover the distribution evenly, and are the same in every call (a Latin hypercube).
    """
    return _quantiles(df)[_order(column)]


@lru_cache(maxsize=256)
def _quantiles(df: float) -> Any:
    import numpy as np
    from scipy.special import gammaincinv

    return gammaincinv(df / 2, (np.arange(_DRAWS) + 0.5) / _DRAWS) * 2 / df


@lru_cache(maxsize=256)
def _order(column: int) -> Any:
    import numpy as np

    return np.random.default_rng(column).permutation(_DRAWS)


@lru_cache(maxsize=64)
def _normal(column: int) -> Any:
    """Returns evenly spaced quantiles of the standard normal distribution, in the column's own order."""
    from scipy.special import ndtri

    return ndtri(_uniform(column))


def _uniform(column: int) -> Any:
    return (_order(column) + 0.5) / _DRAWS
