"""Tests the difference between each arm and the baseline, and words the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from alexnet_exp.compare import bootstrap
from alexnet_exp.compare import statistics as st
from alexnet_exp.compare.next_seeds import seeds_command
from alexnet_exp.compare.paper_claim_status import claim_of, judge_claim
from alexnet_exp.compare.result import Arm, Claim, Difference, Metric, Verdict
from alexnet_exp.errors import yaml_text
from alexnet_exp.runs.metric import difference_text, unit, value_text

MAX_NAMED_SETTINGS = 3  # common settings of two arms that a sentence names
REPEATED_TEST_NOTE = (
    f"Testing all seeds again afterwards gives a false verdict in {st.REPEATED_TEST_PERCENT} of 100 cases instead of 5"
)


@dataclass(frozen=True)
class Family:
    """Arms compared with one baseline. unlike: those that were measured on other images."""

    baseline: Arm
    arms: list[Arm]
    unlike: list[Arm]

    def is_unlike(self, arm: Arm) -> bool:
        return any(arm is one for one in self.unlike)


@dataclass(frozen=True)
class Judge:
    """Tests the families of one comparison; see `CompareOptions` for margin and paired.

    alpha: the rate of false differences, which the families share.
    """

    metric: Metric
    margin: float | None = None
    paired: bool = False
    seed_key: str = "seed"
    with_images: bool = True
    alpha: float = st.ALPHA

    def judge(self, families: Sequence[Family]) -> list[Difference]:
        """Returns the difference of every arm of every family, in order."""
        answers = bootstrap.Answers(self.metric.key)
        tested = sum(any(_ready(family.baseline, arm) for arm in family.arms) for family in families)
        alpha = self.alpha / max(1, tested)
        found = []
        for family in families:
            ready = [arm for arm in family.arms if not family.is_unlike(arm) and _ready(family.baseline, arm)]
            tests = self._tests(family.baseline, ready, alpha)
            log_tests = self._log_tests(family.baseline, ready, alpha)
            for arm in family.arms:
                unlike, test, log_test = family.is_unlike(arm), tests.get(id(arm)), log_tests.get(id(arm))
                found.append(
                    _Case(self, family.baseline, arm, unlike, test, log_test, alpha, answers, tested).difference()
                )
        return found

    def _log_tests(self, baseline: Arm, arms: Sequence[Arm], alpha: float) -> dict[int, _ArmTest]:
        """Tests the logarithms of the values if a claim is about a ratio, except for arms with values of 0 or less."""
        claims = (claim_of(arm, baseline, self.metric) for arm in arms)
        usable = [arm for arm in arms if min(arm.values) > 0]
        if not any(claim and claim.is_ratio for claim in claims) or min(baseline.values) <= 0:
            return {}
        first, *others = (replace(arm, values=[math.log(value) for value in arm.values]) for arm in [baseline, *usable])
        tests = self._tests(first, others, alpha)
        return {id(arm): tests[id(log)] for arm, log in zip(usable, others, strict=True) if id(log) in tests}

    def _tests(self, baseline: Arm, arms: Sequence[Arm], alpha: float) -> dict[int, _ArmTest]:
        """Returns the test of each arm by its id."""
        if not arms:
            return {}
        control = st.Sample.of(baseline.values)
        if self.paired:
            pairs = [_pairs(arm, baseline) for arm in arms]
            usable = [place for place, values in enumerate(pairs) if len(values) >= st.FEWEST_SEEDS]
            differences = [[a - b for a, b in pairs[place]] for place in usable]
            if not usable:
                return {}
            method, tests = st.run_paired_tests(differences, alpha)
            arm_tests = {}
            for place, test, values in zip(usable, tests, differences, strict=True):
                first, second = zip(*pairs[place], strict=True)
                design = st.Design.of_pairs(st.Sample.of(values), alpha / len(usable))
                arm_tests[id(arms[place])] = _ArmTest(method, test, design, len(usable), st.correlation(first, second))
            return arm_tests
        samples = [st.Sample.of(arm.values) for arm in arms]
        method, tests = st.run_welch_tests(control, samples, alpha)
        return {
            id(arm): _ArmTest(method, test, st.Design(control, sample, alpha / len(arms), len(arms) > 1), len(arms))
            for arm, sample, test in zip(arms, samples, tests, strict=True)
        }


@dataclass(frozen=True)
class _ArmTest:
    """The test of an arm. test: None without variation. together: the number of arms tested together."""

    method: str
    test: st.SignificanceTest | None
    design: st.Design
    together: int
    correlation: float | None = None


@dataclass(frozen=True)
class _Case:
    """One arm against the baseline; words its difference."""

    judge: Judge
    baseline: Arm
    arm: Arm
    unlike: bool
    arm_test: _ArmTest | None
    log_test: _ArmTest | None
    alpha: float
    answers: bootstrap.Answers
    families: int

    def difference(self) -> Difference:
        if self.unlike:
            return self._undecided("not compared", "they were measured on different images")
        if self.arm_test is None:
            return self._too_few()
        if self.arm_test.test is None:
            return self._undecided(self.arm_test.method, self._without_spread())
        return self._tested(self.arm_test, self.arm_test.test)

    def _tested(self, arm_test: _ArmTest, test: st.SignificanceTest) -> Difference:
        margin = self.judge.margin
        gain = test.difference if self.judge.metric.higher_is_better else -test.difference
        bound = needed = runs_more = None
        over_images = self._images()
        if test.decided:
            verdict = Verdict.better if gain > 0 else Verdict.worse
            sentence = self._decided(test, gain, over_images)
        elif margin is not None and test.within(margin):
            verdict, bound = Verdict.no_difference, margin
            sentence = self._equal(test, margin)
        else:
            verdict, bound = Verdict.inconclusive, arm_test.design.detectable()
            sought = test.difference if margin is None else margin
            needed = arm_test.design.next_seeds(sought, either_way=margin is not None)
            runs_more = self._command(needed.number if needed else None)
            sentence = self._open(test, bound, needed, sought)
        return Difference(
            arm=self.arm,
            baseline=self.baseline,
            difference=test.difference,
            interval=test.interval,
            p=test.p,
            method=arm_test.method,
            verdict=verdict,
            bound=bound,
            sentence=sentence,
            images_interval=over_images,
            correlation=arm_test.correlation,
            more_seeds=needed.number if needed and needed.number <= st.MOST_SEEDS else None,
            more_seeds_range=(needed.low, needed.high) if needed and needed.number <= st.MOST_SEEDS else None,
            command=runs_more,
            claim=self._claim(),
        )

    def _decided(self, test: st.SignificanceTest, gain: float, over_images: st.Interval | None) -> str:
        low, high = test.interval
        ends = (low, high) if test.difference > 0 else (-high, -low)
        first, second = names(self.arm, self.baseline)
        verb = "beats" if gain > 0 else "is worse than"
        here = " on these test images" if over_images and includes_zero(over_images) else ""
        text = f"{first} {verb} {second}{here} by {self._amount(abs(test.difference))} ({self._evidence(ends)})"
        margin = self.judge.margin
        if margin is not None and test.within(margin):
            text += f"; this is less than the margin of {self._plain(margin)}"
        return text

    def _equal(self, test: st.SignificanceTest, margin: float) -> str:
        half = test.equivalence * test.error
        first, second = names(self.arm, self.baseline)
        shared = self.families > 1 or (self.arm_test is not None and self.arm_test.together > 1)
        level = "interval of the two one-sided tests, adjusted" if shared else "90% interval"
        ends = (test.difference - half, test.difference + half)
        return (
            f"no difference above {self._amount(margin)} between {first} and {second}: "
            f"{self._number(test.difference)} ({level} {self._range(ends)}; "
            f"{self._seeds()})"
        )

    def _open(self, test: st.SignificanceTest, bound: float | None, needed: st.NextSeeds | None, sought: float) -> str:
        first, second = names(self.arm, self.baseline)
        text = (
            f"inconclusive ({first} against {second}): {self._number(test.difference)} {unit(self.judge.metric.key)} "
            f"({self._evidence(test.interval)})"
        )
        if bound is not None:
            text += f"; detectable difference: {self._plain(bound)}"
        return text + self._needed(needed, sought)

    def _needed(self, needed: st.NextSeeds | None, sought: float) -> str:
        if needed is None:
            return ""
        goal = f"to detect a difference of {self._plain(abs(sought))} with 80% power"
        if self.judge.margin is None:
            goal += ", if that is the true difference"
        if needed.number > st.MOST_SEEDS:
            return f". Even {st.MOST_SEEDS} more seeds per arm are too few {goal}"
        if needed.low == needed.high:
            number = f"{_count(needed.number, 'more seed')} per arm {'is' if needed.number == 1 else 'are'}"
        else:
            high = f"more than {st.MOST_SEEDS}" if needed.high > st.MOST_SEEDS else str(needed.high)
            number = (
                f"{needed.low} to {high} more seeds per arm ({needed.number} on average over the likely spread) are"
            )
        return f". {number} needed {goal}. {REPEATED_TEST_NOTE}"

    def _too_few(self) -> Difference:
        first, second = names(self.arm, self.baseline)
        counts = (self.arm.n, self.baseline.n)
        more = None
        if 0 in counts:
            missing = first if not self.arm.n else second
            reason = f"{missing} has no finished run"
        elif counts == (1, 1):
            reason = f"{self._values()}, one run each, which does not separate the change from chance"
        elif self.judge.paired and min(counts) >= st.FEWEST_SEEDS:
            shared = len(_pairs(self.arm, self.baseline))
            reason = f"they share {_count(shared, 'seed')}; pairs need at least three"
        else:
            reason = f"{self._values()}: an interval needs at least three seeds per arm"
        if 0 not in counts and min(counts) < st.FEWEST_SEEDS:
            more = st.FEWEST_SEEDS - min(counts)
            reason += f". At least {_count(more, 'more seed')} per arm {'is' if more == 1 else 'are'} needed"
        return self._undecided("none", reason, more)

    def _undecided(self, method: str, reason: str, more: int | None = None) -> Difference:
        first, second = names(self.arm, self.baseline)
        a, b = self.arm.mean, self.baseline.mean
        return Difference(
            arm=self.arm,
            baseline=self.baseline,
            difference=math.nan if a is None or b is None else a - b,
            interval=None,
            p=None,
            method=method,
            verdict=Verdict.inconclusive,
            bound=None,
            sentence=f"inconclusive ({first} against {second}): {reason}",
            more_seeds=more,
            command=self._command(more),
            claim=self._claim(),
        )

    def _claim(self) -> Claim | None:
        """Returns the paper's claim about the two arms with its status; None for runs on different images."""
        paper = None if self.unlike else claim_of(self.arm, self.baseline, self.judge.metric)
        if paper is None:
            return None
        arm_test = self.log_test if paper.is_ratio else self.arm_test
        why = ""
        if self.judge.paired and min(self.arm.n, self.baseline.n) >= st.FEWEST_SEEDS and arm_test is None:
            why = f"{_count(len(_pairs(self.arm, self.baseline)), 'seed')} in common"
        elif paper.is_ratio and self.arm_test is not None and arm_test is None:
            why = "a value is not above 0"
        return judge_claim(paper, self.arm, self.baseline, arm_test.test if arm_test else None, why)

    def _without_spread(self) -> str:
        a, b = self.arm.mean, self.baseline.mean
        if a == b:
            return f"every run gave {self._value(a)}: without spread a difference cannot be tested"
        return (
            f"every seed gave the same, {self._value(a)} and {self._value(b)}: "
            "without spread the difference cannot be tested; check that the seed affects training"
        )

    def _command(self, more: int | None) -> str | None:
        if more is None or more > st.MOST_SEEDS:
            return None
        return seeds_command(
            [*self.arm.runs, *self.arm.uncounted],
            [*self.baseline.runs, *self.baseline.uncounted],
            more,
            self.judge.seed_key,
        )

    def _images(self) -> st.Interval | None:
        if not self.judge.with_images:
            return None
        return bootstrap.bootstrap_interval(self.arm.runs, self.baseline.runs, self.answers, self.alpha)

    def _evidence(self, ends: st.Interval) -> str:
        """Returns the text in parentheses: the interval, the number of arms it covers, and the seeds."""
        together = self.arm_test.together if self.arm_test is not None else 1
        shared = f" for {together} arms together" if together > 1 else ""
        if self.families > 1:
            shared = " for all comparisons together"
        pairs = ""
        if self.arm_test is not None and self.arm_test.correlation is not None:
            pairs = f", paired, correlation {self.arm_test.correlation:.2f}"
        return f"95% interval{shared} {self._range(ends)}; {self._seeds()}{pairs}"

    def _seeds(self) -> str:
        a, b = self.arm.n, self.baseline.n
        if self.judge.paired:
            return f"{len(_pairs(self.arm, self.baseline))} seeds in common"
        return f"{_count(a, 'seed')} each" if a == b else f"{a} and {b} seeds"

    def _values(self) -> str:
        """Returns the values of both arms, or their means if there are many."""
        parts = []
        for name, arm in zip(names(self.arm, self.baseline), (self.arm, self.baseline), strict=True):
            few = arm.values if arm.n <= 5 else [arm.mean]
            parts.append(f"{name} {' and '.join(self._value(value) for value in few)}")
        return ", ".join(parts)

    def _value(self, value: float | None) -> str:
        return value_text(self.judge.metric.key, value)

    def _plain(self, difference: float) -> str:
        text = difference_text(self.judge.metric.key, difference)
        return f"{text} points" if self.judge.metric.percent else text

    def _amount(self, difference: float) -> str:
        return f"{difference_text(self.judge.metric.key, difference)} {unit(self.judge.metric.key)}"

    def _number(self, difference: float) -> str:
        return difference_text(self.judge.metric.key, difference, sign=True)

    def _range(self, ends: st.Interval) -> str:
        return " to ".join(difference_text(self.judge.metric.key, end) for end in ends)


def includes_zero(interval: st.Interval) -> bool:
    """Returns whether an interval of a difference includes zero."""
    return interval[0] <= 0 <= interval[1]


def images_text(metric: Metric, difference: Difference) -> str:
    """Returns the interval over new test images as text."""
    assert difference.images_interval is not None
    ends = " to ".join(difference_text(metric.key, end, sign=True) for end in difference.images_interval)
    first, second = names(difference.arm, difference.baseline)
    return f"{first} against {second}, over new test images as well as new seeds: {ends}" + (
        " points" if metric.percent else ""
    )


def names(arm: Arm, baseline: Arm) -> tuple[str, str]:
    """Returns names of the two arms: the settings that differ, or only their values if these are words.

    `lrn` and `none`; `optim.lr=0.1` and `optim.lr=0.01`. The common settings follow: `lrn at optim.lr=0.1`, or
    their number if there are more than three settings.
    """
    keys = [key for key in arm.settings if yaml_text(arm.settings[key]) != yaml_text(baseline.settings.get(key))]
    same = [key for key in arm.settings if key not in keys]
    if len(keys) == 1 and all(_is_word(one.settings.get(keys[0])) for one in (arm, baseline)):
        first, second = (str(one.settings[keys[0]]) for one in (arm, baseline))
    else:
        first, second = (
            " ".join(f"{key}={yaml_text(one.settings.get(key))}" for key in keys) or one.label
            for one in (arm, baseline)
        )
    if len(same) > MAX_NAMED_SETTINGS and keys:
        first += f" with {len(same)} other settings equal"
    elif same and keys:
        first += " at " + " ".join(f"{key}={yaml_text(arm.settings[key])}" for key in same)
    return first, second


def _ready(baseline: Arm, arm: Arm) -> bool:
    return min(baseline.n, arm.n) >= st.FEWEST_SEEDS


def _pairs(arm: Arm, baseline: Arm) -> list[tuple[float, float]]:
    """Returns the values of both arms at their common seeds."""
    other = {seed: value for seed, value in zip(baseline.seeds, baseline.values, strict=True) if seed is not None}
    return [
        (value, other[seed])
        for seed, value in zip(arm.seeds, arm.values, strict=True)
        if seed is not None and seed in other
    ]


def _is_word(had: Any) -> bool:
    """Returns whether a value is a word, such as `lrn`, and not 0.1, true or null."""
    if not isinstance(had, str) or not had or had.lower() in ("true", "false", "null"):
        return False
    try:
        float(had)
    except ValueError:
        return True
    return False


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
