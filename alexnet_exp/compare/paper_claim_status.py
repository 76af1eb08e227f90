"""Computes the status of a paper's claim from the interval of the measured difference.

Let d be the difference of the arm minus the baseline, in the metric's units, and [lo, hi] its 95% interval, the one
of the verdict: adjusted if several arms are compared. Of a claim about a ratio, d is the difference of the
means of the logarithms, so exp(d) is the ratio of the geometric means. Let P be the values of d that agree with the
paper: the figure p alone; for "about p" all values that round to p; for "at least p" all values from p up
(`PaperClaim.values`). The interval excludes 0 if and only if the verdict is "better" or "worse". Then the claim is

- reproduced: the interval excludes 0, is on the claimed side, and contains a value of P;
- same direction: it excludes 0, is on the claimed side, and contains no value of P: the effect exists, and is smaller
  or larger than the paper's, which is reported;
- contradicted: it excludes 0 and is on the other side;
- inconclusive: the interval includes 0, or there are too few seeds or no spread between them;
- not run: one of the two arms has no finished run with the metric.

An interval that contains 0 but no value of P is "inconclusive" too. It rules out the paper's size, which is reported
with the status, but it leaves the direction open. The status is about the direction first and the size second:
[0.1, 0.2] against a claim of 1.4 is "same direction, smaller"; [-0.1, 0.2] contains less information and therefore
cannot have the stronger status "contradicted". As an interval moves from the claimed side to the other, its status
changes from reproduced or same direction to inconclusive to contradicted, without a jump. The size of an analogue, on
other data, need not equal the paper's.

The paper's figure is used as printed. It compares one run with one run, and its spread is unknown.
"""

from __future__ import annotations

import math
from typing import Any

from alexnet_exp.compare import statistics as st
from alexnet_exp.compare.arms import matching_arms, parse_settings
from alexnet_exp.compare.result import Arm, Claim, ClaimStatus, Metric
from alexnet_exp.config.paper_claim import PaperClaim, paper_claims
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.runs.metric import difference_text, is_accuracy
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

ANALOGUE = "ANALOGUE"


def read_claims(run: Run) -> list[PaperClaim]:
    """Returns the claims of a run, from its facts or its configuration. Raises Refused if they are invalid."""
    if "paper_claim" in run.facts:
        return paper_claims(run.facts["paper_claim"])
    if "paper_claim" in run.config:
        return paper_claims(run.config["paper_claim"])
    prefix = "paper_claim."
    return paper_claims({key.removeprefix(prefix): had for key, had in run.config.items() if key.startswith(prefix)})


def claim_of(arm: Arm, baseline: Arm, metric: Metric) -> PaperClaim | None:
    """Returns the first claim of the arm's runs about this metric and these arms, as arm minus baseline; None without.

    All runs of an experiment have all of its claims. A claim that names both of its arms is reversed if the baseline is
    the claim's arm: "1.4 points worse without LRN" becomes "1.4 points better with it".
    """
    if baseline is arm:
        return None
    try:
        claims = [one for run in [*arm.runs, *arm.uncounted][:1] for one in read_claims(run)]
    except Refused:
        return None  # reported under "Caveats"
    for paper in claims:
        sides = [paper, paper.turned()] if paper.arm is not None and paper.against is not None else [paper]
        for side in sides:
            if side.metric == metric.key and _matches(arm, side.arm) and _matches(baseline, side.against):
                return side
    return None


def judge_claim(
    paper: PaperClaim, arm: Arm, baseline: Arm, test: st.SignificanceTest | None, why_not: str = ""
) -> Claim:
    """Returns the claim with its status. test: on the scale of the claim; None if there is none, with `why_not`."""
    if not arm.n or not baseline.n:
        return Claim(paper, ClaimStatus.not_run, _unfinished(arm if not arm.n else baseline, paper.metric))
    measured = _measured(paper, arm, baseline, test)
    if test is None:
        return Claim(paper, ClaimStatus.inconclusive, why_not or few_seeds(arm, baseline) or "no spread", measured)
    status, why = status_of(paper, test.interval, test.decided)
    interval = tuple(math.exp(end) for end in test.interval) if paper.is_ratio else test.interval
    lost = _without_value(arm, baseline, paper.metric)
    return Claim(paper, status, "; ".join(filter(None, (why, lost))), measured, (interval[0], interval[1]), test.p)


def status_of(paper: PaperClaim, interval: st.Interval, decided: bool) -> tuple[ClaimStatus, str]:
    """Returns the status by the rules above, and a note on it. interval: on the scale of the claim.

    decided: whether the interval excludes 0. It may end at 0 nevertheless (Holm's later steps).
    """
    (least, most), (low, high) = paper.values, interval
    if paper.sign < 0:
        (least, most), (low, high) = (-most, -least), (-high, -low)
    too_small, too_large = high < least, low > most
    if not decided:
        return ClaimStatus.inconclusive, f"rules out the paper's size: {_at_most(paper, high)}" if too_small else ""
    if high <= 0:
        return ClaimStatus.contradicted, "opposite direction"
    if too_small or too_large:
        return ClaimStatus.same_direction, f"{'smaller' if too_small else 'larger'} than the paper's"
    return ClaimStatus.reproduced, ""


def few_seeds(arm: Arm, baseline: Arm) -> str:
    """Returns `1 seed` if too few seeds are why there is no interval, else an empty text."""
    fewest = min(arm.n, baseline.n)
    return "" if fewest >= st.FEWEST_SEEDS else f"{fewest} seed{'' if fewest == 1 else 's'}"


def figure_text(paper: PaperClaim) -> str:
    """Returns the paper's figure with its unit: `+1.40 points`, `about 6 times`, `at least 1 point`, `higher`."""
    about = "about " if paper.about else ""
    if paper.ratio is not None:
        return f"{about}{paper.ratio:.3g} times"
    bound = paper.at_least if paper.at_least is not None else paper.at_most
    if bound is not None:
        word = "higher" if paper.sign > 0 else "lower"
        words = "at least" if paper.sign > 0 else "at most"
        return f"{words} {_amount(paper.metric, bound)}" if bound else word
    assert paper.difference is not None
    return about + _amount(paper.metric, paper.difference)


def measured_text(claim: Claim) -> str:
    """Returns the measured value on the scale of the claim; a dash if there is none."""
    if claim.measured is None:
        return "-"
    return f"{claim.measured:.3g} times" if claim.paper.is_ratio else _amount(claim.paper.metric, claim.measured)


def interval_text(claim: Claim) -> str:
    """Returns the interval without its unit; a dash if there is none."""
    if claim.interval is None:
        return "-"
    if claim.paper.is_ratio:
        return " to ".join(f"{end:.3g}" for end in claim.interval)
    return " to ".join(difference_text(claim.paper.metric, end, sign=True) for end in claim.interval)


def status_text(claim: Claim) -> str:
    """Returns the status with its note: `inconclusive (1 seed)`, `same direction (smaller than the paper's)`."""
    return claim.status.value + (f" ({claim.why})" if claim.why else "")


def sentence(claim: Claim) -> str:
    """Returns one line with the claim, its source, its status, and whether this is an analogue."""
    paper = claim.paper
    text = f"{paper.text.rstrip('.')}{f' ({paper.source})' if paper.source else ''}"
    here = f"here, an {ANALOGUE} of it" if paper.analogue else "here"
    found = f", {measured_text(claim)} ({interval_text(claim)})" if claim.interval else ""
    return f"{text}; {here}: {status_text(claim)}{found}"


def _measured(paper: PaperClaim, arm: Arm, baseline: Arm, test: st.SignificanceTest | None) -> float | None:
    if test is not None:
        return math.exp(test.difference) if paper.is_ratio else test.difference
    assert arm.mean is not None
    assert baseline.mean is not None
    if not paper.is_ratio:
        return arm.mean - baseline.mean
    logs = [[math.log(value) for value in one.values if value > 0] for one in (arm, baseline)]
    if any(len(had) < one.n for had, one in zip(logs, (arm, baseline), strict=True)):
        return None
    first, second = (math.fsum(had) / len(had) for had in logs)
    return math.exp(first - second)


def _at_most(paper: PaperClaim, end: float) -> str:
    """Returns the bound at the end of an interval that was mirrored to the claimed side."""
    if paper.is_ratio:
        return f"at most {math.exp(end):.3g} times" if paper.sign > 0 else f"at least {math.exp(-end):.3g} times"
    return f"at most {_amount(paper.metric, end)}" if paper.sign > 0 else f"at least {_amount(paper.metric, -end)}"


def _amount(metric: str, difference: float) -> str:
    text = difference_text(metric, difference, sign=True)
    return f"{text} points" if is_accuracy(metric) else text


def _unfinished(arm: Arm, metric: str) -> str:
    done = [run for run in arm.uncounted if run.status == Status.DONE]
    return f"no finished run of {arm.label}" + (f" has {metric}" if done else "")


def _without_value(arm: Arm, baseline: Arm, metric: str) -> str:
    """Returns how many finished runs are missing from the interval, such as those that did not reach a target error."""
    lost = sum(run.status == Status.DONE for one in (arm, baseline) for run in one.uncounted)
    return f"{lost} finished run{'' if lost == 1 else 's'} without {metric} not counted" if lost else ""


def _matches(arm: Arm, settings: str | None) -> bool:
    try:
        return settings is None or bool(matching_arms([arm], parse_settings(settings)))
    except UserError:
        return False


def claim_values(claim: Claim) -> dict[str, Any]:
    """Returns the claim as plain values for JSON and CSV."""
    paper = claim.paper
    figure = {key: getattr(paper, key) for key in ("difference", "at_least", "at_most", "ratio")}
    return {
        "text": paper.text,
        "source": paper.source,
        "analogue": paper.analogue,
        "metric": paper.metric,
        "arm": paper.arm,
        "against": paper.against,
        **{key: had for key, had in figure.items() if had is not None},
        "about": paper.about,
        "status": claim.status,
        "why": claim.why,
        "measured": claim.measured,
        "interval": claim.interval,
        "p": claim.p,
    }
