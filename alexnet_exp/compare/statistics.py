"""The statistics of a comparison, on plain numbers. SciPy gives the distributions, and is imported when one is needed.

Intervals, p values and verdicts come from one method: Welch's t test for one arm against the baseline; Dunnett's test
for several; Welch's with Holm's steps where the sds differ more than threefold, since Dunnett's pools them, or the
numbers of seeds by more than half: with 80, 80 and 5 seeds and sds of 1, 1 and 2.5, Dunnett's finds a difference that
is not there 27 times in 100. The paired t test on request. No bootstrap over seeds: at three seeds its "95%" interval
holds the truth 76 times in 100.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

Interval = tuple[float, float]

ALPHA = 0.05
POWER = 0.8  # of "could have shown" and of "seeds needed"
FEWEST = 3  # seeds of an arm, below which its spread says nothing
UNEQUAL = 3.0  # sds that differ by more are not pooled
UNBALANCED = 1.5  # nor are those of arms whose numbers of seeds differ by more
MOST_SEEDS = 10_000
# of the integral over what the sds are and what those of a next sweep will be: the power to within a point
_DRAWS = 2048


@dataclass(frozen=True)
class Sample:
    """The values of an arm, summed up. sd: with n - 1, None for one value; 0 where the values differ by rounding."""

    n: int
    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Of at least one value."""
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(1, mean, None)
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return cls(len(values), mean, sd if sd > 1e-12 * abs(mean) else 0.0)

    @property
    def interval(self) -> Interval | None:
        """The 95% t interval of the mean; None below three values or where all are the same."""
        if self.n < FEWEST or not self.sd:
            return None
        half = t_quantile(1 - ALPHA / 2, self.n - 1) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Test:
    """A difference, its standard error with so many degrees of freedom, and the factor of it that makes the interval.

    p: adjusted where several arms are compared; the interval leaves out 0 exactly where it is below alpha, but for the
    rounding of either. decided: whether it is. equivalence: the factor for the two one-sided tests.
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
        """At the level that the tests share between them. Holm's steps may decide where this is still wide: then it
        ends at 0."""
        low, high = self.difference - self.factor * self.error, self.difference + self.factor * self.error
        if self.decided:
            return (max(low, 0.0), high) if self.difference > 0 else (low, min(high, 0.0))
        return low, high

    def within(self, margin: float) -> bool:
        """Whether both one-sided tests reject a difference of `margin` or more."""
        return abs(self.difference) + self.equivalence * self.error < margin


def usable(sample: Sample) -> bool:
    """Whether an arm has seeds enough to be tested."""
    return sample.n >= FEWEST


def unequal(samples: Sequence[Sample]) -> bool:
    """Whether sds, or the numbers of seeds behind them, differ too much to be pooled."""
    sds = [sample.sd or 0.0 for sample in samples]
    return max(sds) > UNEQUAL * min(sds) or _unbalanced([sample.n for sample in samples])


def _unbalanced(sizes: Sequence[int]) -> bool:
    return max(sizes) > UNBALANCED * min(sizes)


def against(control: Sample, arms: Sequence[Sample], alpha: float = ALPHA) -> tuple[str, list[Test | None]]:
    """The method's name, and each arm against the control: any false verdict among them has probability `alpha`.

    All must be `usable`. None where neither the arm nor the control varies: then no probability can be told.
    """
    if len(arms) == 1:
        return "Welch", [_welch(arms[0], control, alpha)]
    if not unequal([control, *arms]):
        if not control.sd:
            return "Dunnett", [None] * len(arms)
        return "Dunnett", list(_dunnett(control, arms, alpha))
    return "Welch with Holm", holm(lambda arm, level: _welch(arm, control, level), arms, alpha)


def paired(differences: Sequence[Sequence[float]], alpha: float = ALPHA) -> tuple[str, list[Test | None]]:
    """Each arm's differences from the control at the seeds they share (at least three), with Holm's steps."""
    name = "paired t" if len(differences) == 1 else "paired t with Holm"
    return name, holm(lambda values, level: _paired(values, level), differences, alpha)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's; None where one of them does not vary."""
    a, b = Sample.of(first), Sample.of(second)
    if not a.sd or not b.sd:
        return None
    products = math.fsum((x - a.mean) * (y - b.mean) for x, y in zip(first, second, strict=True))
    return products / ((a.n - 1) * a.sd * b.sd)


def holm(test: Callable[[Any, float], Test | None], samples: Sequence[Any], alpha: float) -> list[Test | None]:
    """Holm's steps: the smallest p must be below alpha/m, the next below alpha/(m-1), and so on until one is not.

    The intervals are Bonferroni's, at alpha/m each; what only a later step decided ends at 0. `test` makes one at its
    level.
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
    """Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def power_of(difference: float, sd: float, arm: int, baseline: int, alpha: float = ALPHA) -> float:
    """How often the two-sided t test of so many seeds shows a true difference, where both sds are `sd`: exactly.

    By the noncentral t, which takes the sd for known. It is for choosing a size before a sweep; of a sweep that was
    made, `Design` says more, since it knows from how few seeds the sd comes.
    """
    from scipy.special import nctdtr

    df = arm + baseline - 2
    shift = abs(difference) / (sd * math.sqrt(1 / arm + 1 / baseline))
    limit = t_quantile(1 - alpha / 2, df)
    return float(1 - nctdtr(df, shift, limit) + nctdtr(df, shift, -limit))


def seeds_for(difference: float, sd: float, times: int = 1, alpha: float = ALPHA) -> int:
    """The seeds of an arm with which such a difference shows 80 times in 100, the baseline having `times` as many.

    At least two; more than 10,000 is 10,001. sd above 0.
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


@lru_cache(maxsize=256)
def dunnett_factor(sizes: tuple[int, ...], df: int, alpha: float) -> float:
    """Dunnett's two-sided critical value. sizes: of the control first, then of the arms."""
    # between Student's quantile for one arm and Bonferroni's for all it is nearly straight: regula falsi, Illinois' way
    low, high = t_quantile(1 - alpha / 2, df), t_quantile(1 - alpha / 2 / (len(sizes) - 1), df) + 1e-6
    over, under = _beyond(low, sizes, df) - alpha, _beyond(high, sizes, df) - alpha
    for _ in range(60):
        if over <= 0 or high - low < 1e-9:
            break
        middle = (low * under - high * over) / (under - over)
        miss = _beyond(middle, sizes, df) - alpha
        if abs(miss) < 1e-10:
            return middle
        if miss > 0:
            low, over, under = middle, miss, under / 2
        else:
            high, over, under = middle, over / 2, miss
    return low


@dataclass(frozen=True)
class Design:
    """What is known before more seeds are run. samples: of all arms that are tested together, the baseline's first.

    place: of the arm in question among them. differences: of the paired test of so many `arms`, instead.
    """

    samples: tuple[Sample, ...] = ()
    place: int = 1
    alpha: float = ALPHA
    differences: Sample | None = None
    arms: int = 1

    def detectable(self, more: int = 0) -> float | None:
        """The true difference that a sweep of this size, with `more` seeds in each arm, shows 80 times in 100.

        The true sds are not known, only estimates from few seeds. So the power is that of the test which would be
        made, averaged over what the true sds may be and over the sds that will be measured. The noncentral t takes the
        estimates for the truth, and promises too much at few seeds. None where nothing varied.
        """
        limits = self._limits(more)
        if limits is None:
            return None
        low, high = 0.0, float(limits[1].mean())
        while _chance(high, limits) < POWER:
            low, high = high, 2 * high
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if _chance(middle, limits) < POWER else (low, middle)
        return high

    def seeds_to_see(self, difference: float) -> int | None:
        """How many more seeds each arm needs to see a true difference of this size 80 times in 100.

        0: none. More than 10,000 is 10,001. None where nothing varied, or for a difference of 0.
        """
        low, high = 0, 1
        first = self._limits(0)
        if difference == 0 or first is None:
            return None
        if _chance(abs(difference), first) >= POWER:
            return 0
        while not self._shows(difference, high):
            if high > MOST_SEEDS:
                return MOST_SEEDS + 1
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._shows(difference, middle) else (middle, high)
        return min(high, MOST_SEEDS + 1)

    def _shows(self, difference: float, more: int) -> bool:
        limits = self._limits(more)
        return limits is not None and _chance(abs(difference), limits) >= POWER

    def _limits(self, more: int) -> tuple[Any, Any] | None:
        """In many draws of sds: the size that an observed difference must have, and its true standard error."""
        if self.differences is not None:
            return self._limits_of_pairs(self.differences, more)
        import numpy as np
        from scipy.special import stdtrit

        control, arm = self.samples[0], self.samples[self.place]
        if not control.sd and not arm.sd:
            return None
        # one unknown factor on all sds, as uncertain as Welch's degrees of freedom say
        scale = 1 / _chi2(0, _welch_error(arm, control)[1])
        sizes = tuple(sample.n + more for sample in self.samples)
        true = [(sample.sd or 0.0) ** 2 * scale for sample in self.samples]
        measured = [
            variance * _chi2(place, n - 1) for place, (variance, n) in enumerate(zip(true, sizes, strict=True), 1)
        ]
        n, m, arms = sizes[self.place], sizes[0], len(sizes) - 1
        error = np.sqrt(true[self.place] / n + true[0] / m)
        a, b = measured[self.place] / n, measured[0] / m
        df = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
        limit = stdtrit(df, 1 - self.alpha / arms / 2) * np.sqrt(a + b)
        if arms > 1 and not _unbalanced(sizes):
            # which of the two methods it will be depends on the sds too
            every = np.array(measured)
            pooled = every.max(axis=0) <= UNEQUAL**2 * every.min(axis=0)
            weights = np.array(sizes)[:, None] - 1
            sd = np.sqrt((every * weights).sum(axis=0) / weights.sum())
            factor = dunnett_factor(sizes, int(weights.sum()), self.alpha) if pooled.any() else math.inf
            limit = np.where(pooled, factor * sd * math.sqrt(1 / n + 1 / m), limit)
        return limit, error

    def _limits_of_pairs(self, differences: Sample, more: int) -> tuple[Any, Any] | None:
        import numpy as np

        if not differences.sd:
            return None
        known, n = differences.n - 1, differences.n + more
        true = differences.sd / np.sqrt(_chi2(0, known) * n)
        return t_quantile(1 - self.alpha / self.arms / 2, n - 1) * true * np.sqrt(_chi2(1, n - 1)), true


def _chance(true: float, limits: tuple[Any, Any]) -> float:
    """How often a true difference shows, given what `Design._limits` says."""
    from scipy.special import ndtr

    limit, error = limits
    return float((ndtr((true - limit) / error) + ndtr((-true - limit) / error)).mean())


def _welch(arm: Sample, control: Sample, alpha: float) -> Test | None:
    from scipy.special import stdtr

    error, df = _welch_error(arm, control)
    if error == 0:
        return None
    difference = arm.mean - control.mean
    return _t_test(difference, error, df, float(2 * stdtr(df, -abs(difference) / error)), alpha)


def _welch_error(arm: Sample, control: Sample) -> tuple[float, float]:
    """The standard error of the difference, and its degrees of freedom by Welch and Satterthwaite."""
    a, b = (arm.sd or 0.0) ** 2 / arm.n, (control.sd or 0.0) ** 2 / control.n
    if a + b == 0:
        return 0.0, 0.0
    return math.sqrt(a + b), (a + b) ** 2 / (a**2 / (arm.n - 1) + b**2 / (control.n - 1))


def _paired(differences: Sequence[float], alpha: float) -> Test | None:
    from scipy.special import stdtr

    sample = Sample.of(differences)
    if not sample.sd:
        return None
    error = sample.sd / math.sqrt(sample.n)
    p = float(2 * stdtr(sample.n - 1, -abs(sample.mean) / error))
    return _t_test(sample.mean, error, sample.n - 1, p, alpha)


def _t_test(difference: float, error: float, df: float, p: float, alpha: float) -> Test:
    return Test(
        difference,
        error,
        df,
        p,
        t_quantile(1 - alpha / 2, df),
        equivalence=t_quantile(1 - alpha, df),
        decided=p < alpha,
    )


def pooled_sd(samples: Sequence[Sample]) -> tuple[float, int]:
    """The sd that all share, and its degrees of freedom."""
    df = sum(sample.n - 1 for sample in samples)
    return math.sqrt(math.fsum((sample.n - 1) * (sample.sd or 0.0) ** 2 for sample in samples) / df), df


def sd_interval(sd: float, df: int) -> Interval:
    """The 95% interval of a true sd, of normal values, from one measured with `df` degrees of freedom."""
    from scipy.special import chdtri

    # chdtri takes the probability above
    return sd * math.sqrt(df / chdtri(df, ALPHA / 2)), sd * math.sqrt(df / chdtri(df, 1 - ALPHA / 2))


def _dunnett(control: Sample, arms: Sequence[Sample], alpha: float) -> list[Test]:
    sd, df = pooled_sd([control, *arms])
    sizes = (control.n, *(arm.n for arm in arms))
    factor = dunnett_factor(sizes, df, alpha)
    equivalence = t_quantile(1 - alpha / len(arms), df)
    tests = []
    for arm in arms:
        difference, error = arm.mean - control.mean, sd * math.sqrt(1 / arm.n + 1 / control.n)
        t = abs(difference) / error
        tests.append(Test(difference, error, df, _beyond(t, sizes, df), factor, equivalence, decided=t > factor))
    return tests


def _beyond(t: float, sizes: tuple[int, ...], df: int) -> float:
    """The probability that the largest of the |t| of all arms is beyond `t` when no arm differs from the control.

    Given the control's mean and the pooled sd the arms are independent, which leaves an integral over these two
    (Dunnett 1955). SciPy's `dunnett` draws random numbers for it, and so answers a little differently each time.
    """
    import numpy as np
    from scipy.special import ndtr

    shares = [math.sqrt(size / (size + sizes[0])) for size in sizes[1:]]
    # the more seeds an arm has beside the control's, the steeper it is in the control's mean
    steep = math.sqrt(1 - max(shares) ** 2)
    z, s, weights = _nodes(df, 48 if steep > 0.5 else min(1024, round(32 / steep)))
    inside = np.ones_like(weights)
    for share, times in Counter(shares).items():
        rest = math.sqrt(1 - share**2)
        inside *= (ndtr((share * z + t * s) / rest) - ndtr((share * z - t * s) / rest)) ** times
    return max(0.0, 1 - float((inside * weights).sum()))


@lru_cache(maxsize=64)
def _nodes(df: int, across: int) -> tuple[Any, Any, Any]:
    """Where the integral is evaluated: the control's mean, the pooled sd over the true one, and the weights."""
    import numpy as np
    from scipy.special import gammaincinv, gammaln

    points, weight = _legendre(across)
    z, z_weight = 8 * points, 8 * weight * np.exp(-((8 * points) ** 2) / 2) / math.sqrt(2 * math.pi)
    low, high = (math.sqrt(2 * gammaincinv(df / 2, tail) / df) for tail in (1e-13, 1 - 1e-13))
    points, weight = _legendre(32)
    s = low + (high - low) * (points + 1) / 2
    density = (
        (df - 1) * np.log(s) - df * s**2 / 2 + df / 2 * math.log(df) - (df / 2 - 1) * math.log(2) - gammaln(df / 2)
    )
    s_weight = weight * (high - low) / 2 * np.exp(density)
    return z[:, None], s[None, :], z_weight[:, None] * s_weight[None, :]


@lru_cache(maxsize=4)
def _legendre(count: int) -> tuple[Any, Any]:
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(count)
    return points, weights


@lru_cache(maxsize=256)
def _chi2(column: int, df: float) -> Any:
    """Chi-squared over its degrees of freedom: evenly spread quantiles, in an order that is the column's own.

    So columns vary independently, each without gaps, and the same every time (a Latin hypercube).
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
