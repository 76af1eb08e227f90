"""How often `compare` errs, and how often it sees what it says it can see: simulated sweeps whose truth is known.

    python -m benchmarks.statistics_simulation [--sweeps 2000] [--out benchmarks/results/statistics.json]

A sweep is some arms of n values drawn from normal distributions, the first of them the baseline. In how many of 100

- "false verdict": is any arm called better or worse, though all have the same mean?
- "coverage": do the intervals of all differences contain the true differences?
- "power": does an arm that differs get a verdict?
- "seen": is a true difference called one that has the size X of "cannot tell below X", for the X that follows from the
  true sds? "As claimed": for the X that follows from the sds that such a sweep measured?
- "margin": is any arm called "no difference above M", though the true difference of each is M?
- "advice": does a sweep that could not tell, and got the seeds that were advised, show the difference then?
- "repeated": is there a false verdict where seeds are added as advised, and all are tested again, until it ends?
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alexnet_exp.compare import statistics as st

SEEDS = (3, 5, 10)
# what the sds of the baseline and of the arms are
SHAPES = {
    "one arm, equal sds": (1, 1),
    "one arm, sds 1 and 4": (1, 4),
    "three arms, equal sds": (1, 1, 1, 1),
    "three arms, sds 1, 2, 1, 2": (1, 2, 1, 2),
    "three arms, sds 1, 4, 1, 4": (1, 4, 1, 4),
    "three arms, sds 3, 1, 1, 1": (3, 1, 1, 1),
}
# the sds and the numbers of seeds, the baseline's first, where tests that pool the sds, or trust few seeds, go wrong
WORST: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "4 arms, equal sds, n=3": ((1, 1, 1, 1, 1), (3,) * 5),
    "4 arms, equal sds, n=10": ((1, 1, 1, 1, 1), (10,) * 5),
    "4 arms, baseline sd 2, n=20": ((2, 1, 1, 1, 1), (20,) * 5),
    "4 arms, baseline sd 2.5 n=10, arms n=15": ((2.5, 1, 1, 1, 1), (10, 15, 15, 15, 15)),
    "4 arms, baseline sd 2.8 n=20, arms n=30": ((2.8, 1, 1, 1, 1), (20, 30, 30, 30, 30)),
    "4 arms, one arm sd 2.5 n=10, others n=15 and 10": ((1, 2.5, 1, 1, 1), (15, 10, 15, 15, 10)),
    "9 arms, baseline sd 2.8, n=30": ((2.8, *(1,) * 9), (30,) * 10),
    "2 arms, one sd 2.5 n=5, others n=80": ((1, 1, 2.5), (80, 80, 5)),
    "4 arms n=3, baseline n=6, equal sds": ((1, 1, 1, 1, 1), (6, 3, 3, 3, 3)),
    "4 arms n=3, baseline n=10, equal sds": ((1, 1, 1, 1, 1), (10, 3, 3, 3, 3)),
    "4 arms n=3 sd 2, baseline n=10 sd 1": ((1, 2, 2, 2, 2), (10, 3, 3, 3, 3)),
    "4 arms n=3 sd 4, baseline n=3 sd 1": ((1, 4, 4, 4, 4), (3,) * 5),
}
# sds, numbers of seeds and true means
INTERVALS: dict[str, tuple[tuple[float, ...], int, tuple[float, ...]]] = {
    "equal sds, n=3": ((1, 1, 1, 1, 1), 3, (0, 0, 0.7, 1.7, 3.3)),
    "equal sds, n=10": ((1, 1, 1, 1, 1), 10, (0, 0, 0.7, 1.7, 3.3)),
    "baseline sd 2, n=10": ((2, 1, 1, 1, 1), 10, (0, 0, 0.7, 1.7, 3.3)),
    "three arms far off, one almost equal, n=10": ((1, 1, 1, 1, 1), 10, (0, 9, 9, 9, -1e-9)),
}


def sweeps(sds: Sequence[float], n: int, count: int, shift: float = 0.0, seed: int = 1) -> list[list[st.Sample]]:
    """`count` sweeps; the first arm after the baseline has a mean that is higher by `shift`."""
    values = np.random.default_rng(seed).normal(size=(count, len(sds), n)) * np.asarray(sds, float)[None, :, None]
    values[:, 1] += shift
    return [[st.Sample.of(arm) for arm in sweep] for sweep in values.tolist()]


def decided(drawn: Sequence[Sequence[st.Sample]]) -> np.ndarray:
    """[sweep, arm]: whether the arm is called better or worse than the baseline."""
    tests = [st.run_welch_tests(control, arms)[1] for control, *arms in drawn]
    return np.array([[test is not None and test.decided for test in each] for each in tests])


def false_verdicts(sds: Sequence[float], n: int, count: int) -> float:
    """The share of sweeps without a difference in which any arm gets a verdict."""
    return float(decided(sweeps(sds, n, count)).any(axis=1).mean())


def drawn_with(
    sds: Sequence[float], sizes: Sequence[int], count: int, means: Sequence[float] | None = None, seed: int = 6
) -> list[list[st.Sample]]:
    """`count` sweeps whose arms have numbers of seeds of their own."""
    generator = np.random.default_rng(seed)
    arms = [
        generator.normal(mean, sd, size=(count, n)).tolist()
        for sd, n, mean in zip(sds, sizes, means or [0.0] * len(sds), strict=True)
    ]
    return [[st.Sample.of(values) for values in sweep] for sweep in zip(*arms, strict=True)]


def false_in_family(name: str, count: int) -> float:
    """The share of sweeps of `WORST` in which any arm gets a verdict."""
    return float(decided(drawn_with(*WORST[name], count)).any(axis=1).mean())


def coverage(name: str, count: int) -> float:
    """The share of sweeps of `INTERVALS` in which every interval contains the true difference."""
    sds, n, means = INTERVALS[name]
    held = []
    for control, *arms in drawn_with(sds, [n] * len(sds), count, means):
        found = [test.interval for test in st.run_welch_tests(control, arms)[1] if test is not None]
        true = [mean - means[0] for mean in means[1:]]
        held.append(all(low <= one <= high for (low, high), one in zip(found, true, strict=True)))
    return float(np.mean(held))


def power(arms: int, n: int, shift: float, count: int) -> float:
    """How often an arm gets a verdict, of `arms` that all differ by `shift` sds."""
    means = [0.0, *[shift] * arms]
    return float(decided(drawn_with([1.0] * (arms + 1), [n] * (arms + 1), count, means)).mean())


def following_advice(n: int, count: int, margin: float | None, *, true: float | None = None, arms: int = 1) -> float:
    """How often a difference shows in sweeps that did not show it with n seeds, and then got the seeds advised.

    margin: what the advice is for, and the true difference; None: the one that was measured, which is also the true one
    unless `true` says another. In sds.
    """
    generator = np.random.default_rng(7)
    shown = []
    for _ in range(count):
        values = generator.normal(size=(arms + 1, n))
        values[1] += true if true is not None else margin or 1.0
        more, difference = _advised(values, margin, arm=1)
        if more is None:
            continue
        new = generator.normal(size=(arms + 1, more))
        new[1] += true if true is not None else margin or difference
        control, *others = (st.Sample.of(arm) for arm in np.concatenate([values, new], axis=1).tolist())
        test = st.run_welch_tests(control, others)[1][0]
        shown.append(test is not None and test.decided)
    return float(np.mean(shown))


def repeated_looks(n: int, count: int, margin: float | None = None, arms: int = 1) -> float:
    """The share of sweeps without a difference that get a verdict where the advice is followed until it ends.

    Each time the seeds are those for the arm that is the most different.
    """
    generator = np.random.default_rng(8)
    wrong = 0
    for _ in range(count):
        values = generator.normal(size=(arms + 1, n))
        while True:
            control, *others = (st.Sample.of(arm) for arm in values.tolist())
            tests = [test for test in st.run_welch_tests(control, others)[1] if test is not None]
            if any(test.decided for test in tests):
                wrong += 1
                break
            arm = 1 + int(np.argmin([test.p for test in tests]))
            more, _ = _advised(values, margin, arm)
            if more is None:
                break
            values = np.concatenate([values, generator.normal(size=(arms + 1, more))], axis=1)
    return wrong / count


def _advised(values: np.ndarray, margin: float | None, arm: int) -> tuple[int | None, float]:
    """The seeds that are advised, None where the arm has a verdict or they are too many; and its difference."""
    control, *others = (st.Sample.of(each) for each in values.tolist())
    several = len(others) > 1
    test = st.run_welch_tests(control, others)[1][arm - 1]
    assert test is not None
    if test.decided or (margin is not None and test.within(margin)):
        return None, test.difference
    design = st.Design(control, others[arm - 1], st.ALPHA / len(others), several)
    needed = design.next_seeds(margin or test.difference, either_way=margin is not None)
    return (needed.number if needed and needed.number <= st.MOST_SEEDS else None), test.difference


def false_pairs(correlation: float, n: int, count: int) -> float:
    """The same for one arm and --paired, where the seeds shift both arms alike."""
    generator = np.random.default_rng(2)
    common = generator.normal(size=(count, n)) * np.sqrt(correlation)
    own = generator.normal(size=(2, count, n)) * np.sqrt(1 - correlation)
    differences = ((common + own[0]) - (common + own[1])).tolist()
    tests = [st.run_paired_tests([values])[1][0] for values in differences]
    return float(np.mean([test is not None and test.decided for test in tests]))


def seen(sds: Sequence[float], n: int, count: int, *, estimated: bool = False) -> float:
    """How often a true difference X is seen, for the X that follows from the true sds.

    estimated: for the X that each of `count` sweeps claims from the sds that it measured, in another sweep like it.
    """
    if not estimated:
        true = [st.Sample(n, 0.0, float(sd)) for sd in sds]
        return float(decided(sweeps(sds, n, count, shift=_claimed(true)))[:, 0].mean())
    claims = [_claimed(drawn) for drawn in sweeps(sds, n, count, seed=3)]
    again = sweeps(sds, n, count, seed=4)
    shifted = [
        [control, st.Sample(arm.n, arm.mean + claim, arm.sd), *rest]
        for claim, (control, arm, *rest) in zip(claims, again, strict=True)
    ]
    return float(decided(shifted)[:, 0].mean())


def false_equality(n: int, count: int, margin: float, arms: int = 1) -> float:
    """How often the two one-sided tests call any arm no different, though the true difference of each is the margin.

    Of a verdict this is more than can happen: a difference that shows is called better or worse first.
    """
    generator = np.random.default_rng(5)
    values = generator.normal(size=(count, arms + 1, n))
    values[:, 1:] += margin
    wrong = 0
    for control, *others in values.tolist():
        _, tests = st.run_welch_tests(st.Sample.of(control), [st.Sample.of(arm) for arm in others])
        wrong += any(test is not None and test.within(margin) for test in tests)
    return wrong / count


def _claimed(drawn: Sequence[st.Sample]) -> float:
    control, arm, *others = drawn
    claim = st.Design(control, arm, st.ALPHA / (1 + len(others)), bool(others)).detectable()
    assert claim is not None
    return claim


def figures(count: int) -> dict[str, Callable[[], float]]:
    """What is measured, by its name."""
    few = max(100, count // 10)  # of what takes longer
    one: dict[str, Callable[[], float]] = {}
    for name in WORST:
        one[f"false verdict: {name}"] = lambda name=name: false_in_family(name, 2 * count)  # type: ignore[misc]
    for name in INTERVALS:
        one[f"coverage: 4 arms, {name}"] = lambda name=name: coverage(name, 2 * count)  # type: ignore[misc]
    for arms, n, shift in ((2, 3, 3.0), (4, 3, 3.0), (4, 5, 2.0), (4, 10, 1.5)):
        one[f"power: {arms} arms, n={n}, difference {shift:g} sd"] = lambda arms=arms, n=n, shift=shift: power(  # type: ignore[misc]
            arms, n, shift, count
        )
    for n in SEEDS:
        for name, sds in SHAPES.items():
            one[f"false verdict: {name}, n={n}"] = lambda sds=sds, n=n: false_verdicts(sds, n, count)  # type: ignore[misc]
            one[f"seen: {name}, n={n}"] = lambda sds=sds, n=n: seen(sds, n, count)  # type: ignore[misc]
            one[f"seen, as claimed: {name}, n={n}"] = lambda sds=sds, n=n: seen(sds, n, few, estimated=True)  # type: ignore[misc]
        one[f"false verdict: paired, correlation 0.5, n={n}"] = lambda n=n: false_pairs(0.5, n, count)  # type: ignore[misc]
        for arms in (1, 3):
            one[f"margin: of 3 sd, {arms} arm(s), n={n}"] = lambda n=n, arms=arms: false_equality(n, count, 3.0, arms)  # type: ignore[misc]
        for arms in (1, 4):
            one[f"advice: margin 1.33 sd, {arms} arm(s), from n={n}"] = lambda n=n, arms=arms: following_advice(  # type: ignore[misc]
                n, 4 * few, 4 / 3, arms=arms
            )
        one[f"advice: the measured difference, if it is the true one, from n={n}"] = lambda n=n: following_advice(  # type: ignore[misc]
            n, 4 * few, None
        )
        one[f"repeated: the measured difference, 1 arm, from n={n}"] = lambda n=n: repeated_looks(n, 4 * few)  # type: ignore[misc]
    for margin in (0.5, 4 / 3):
        one[f"repeated: margin {margin:.2f} sd, 1 arm, from n=3"] = lambda margin=margin: repeated_looks(  # type: ignore[misc]
            3, 4 * few, margin
        )
    one["repeated: the measured difference, 4 arms, from n=3"] = lambda: repeated_looks(3, 4 * few, arms=4)
    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=2000)
    parser.add_argument(
        "--only", default="", metavar="WORD", help="figures whose names begin with it; of several, commas"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="a JSON file that gets, or changes, these figures")
    given = parser.parse_args()
    found: dict[str, float] = {}
    for name, figure in figures(given.sweeps).items():
        if name.startswith(tuple(given.only.split(","))):
            found[name] = round(100 * figure(), 2)
            print(f"{name:72}{found[name]:8.1f}", flush=True)
    if given.out:
        old = json.loads(given.out.read_text()) if given.out.exists() else {}
        sweeps = {name.partition(":")[0]: given.sweeps for name in found}
        new = {key: {**old.get(key, {}), **had} for key, had in (("sweeps", sweeps), ("percent", found))}
        given.out.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    main()
