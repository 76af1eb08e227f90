"""How often `compare` errs, and how often it sees what it says it can see: simulated sweeps whose truth is known.

    python -m benchmarks.statistics_simulation [--sweeps 2000]

A sweep is some arms of n values drawn from normal distributions, the first of them the baseline. In how many of 100

- "no difference": is any arm called better or worse, though all have the same mean?
- "seen": is a true difference called one that has the size X of "cannot tell below X", for the X that follows from the
  true sds? "As claimed": for the X that follows from the sds that such a sweep measured?
- "margin": is any arm called "no difference above M", though the true difference of each is M?
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

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


def sweeps(sds: Sequence[float], n: int, count: int, shift: float = 0.0, seed: int = 1) -> list[list[st.Sample]]:
    """`count` sweeps; the first arm after the baseline has a mean that is higher by `shift`."""
    values = np.random.default_rng(seed).normal(size=(count, len(sds), n)) * np.asarray(sds, float)[None, :, None]
    values[:, 1] += shift
    return [[st.Sample.of(arm) for arm in sweep] for sweep in values.tolist()]


def decided(drawn: Sequence[Sequence[st.Sample]]) -> np.ndarray:
    """[sweep, arm]: whether the arm is called better or worse than the baseline."""
    tests = [st.against(control, arms)[1] for control, *arms in drawn]
    return np.array([[test is not None and test.decided for test in each] for each in tests])


def false_verdicts(sds: Sequence[float], n: int, count: int) -> float:
    """The share of sweeps without a difference in which any arm gets a verdict."""
    return float(decided(sweeps(sds, n, count)).any(axis=1).mean())


def false_pairs(correlation: float, n: int, count: int) -> float:
    """The same for one arm and --paired, where the seeds shift both arms alike."""
    generator = np.random.default_rng(2)
    common = generator.normal(size=(count, n)) * np.sqrt(correlation)
    own = generator.normal(size=(2, count, n)) * np.sqrt(1 - correlation)
    differences = ((common + own[0]) - (common + own[1])).tolist()
    tests = [st.paired([values])[1][0] for values in differences]
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
        _, tests = st.against(st.Sample.of(control), [st.Sample.of(arm) for arm in others])
        wrong += any(test is not None and test.within(margin) for test in tests)
    return wrong / count


def _claimed(drawn: Sequence[st.Sample]) -> float:
    claim = st.Design(tuple(drawn)).detectable()
    assert claim is not None
    return claim


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=2000)
    count = parser.parse_args().sweeps

    def row(name: str, shares: Sequence[float]) -> None:
        print(f"{name:58}" + "".join(f"{100 * share:8.1f}" for share in shares))

    print(f"{f'% of {count} sweeps':58}" + "".join(f"   n={n:3}" for n in SEEDS))
    for name, sds in SHAPES.items():
        row(f"no difference: {name}", [false_verdicts(sds, n, count) for n in SEEDS])
    row("no difference: paired, correlation 0.5", [false_pairs(0.5, n, count) for n in SEEDS])
    for name, sds in SHAPES.items():
        row(f"seen: {name}", [seen(sds, n, count) for n in SEEDS])
    for name, sds in SHAPES.items():
        row(f"seen, as claimed: {name}", [seen(sds, n, count, estimated=True) for n in SEEDS])
    for arms in (1, 3):
        for margin in (1.0, 3.0):
            row(f"margin of {margin:g} sd, {arms} arm(s)", [false_equality(n, count, margin, arms) for n in SEEDS])


if __name__ == "__main__":
    main()
