"""A paper's claim beside what was measured: one of five statuses, computed from an interval and never typed in.

Let d be the difference of the arm minus the baseline, in the metric's units, and [lo, hi] its 95% interval, the one
that the verdict uses: adjusted where several arms are compared. Of a claim about a ratio, d is the difference of the
means of the logarithms, so exp(d) is the ratio of the geometric means. Let P be what the paper's words allow of d: the
figure p alone; for "about p" all that rounds to p; for "at least p" all from p on (`PaperClaim.values`). The interval
leaves 0 out exactly where the verdict is "better" or "worse". Then the claim is

- reproduced: the interval leaves 0 out, on the claimed side, and holds a value of P;
- same direction: it leaves 0 out, on the claimed side, and holds no value of P: the effect is there, and smaller or
  larger than the paper's, which is said;
- contradicted: it leaves 0 out, on the other side;
- inconclusive: the interval includes 0, or there are too few seeds or no spread between them;
- not run: one of the two has no finished run with the metric.

An interval that holds 0 but nothing of P is "inconclusive" too. It rules out the paper's size, and that is said beside
the status; but which way the effect goes is open. The status is about the direction first and the size second.
[0.1, 0.2] against a claim of 1.4 is "same direction, smaller"; [-0.1, 0.2] knows less, so it cannot be called by the
stronger word, "contradicted". Seen from the claimed side to the other, the statuses go from reproduced or same
direction over inconclusive to contradicted, and never jump. The size of an analogue, on other data, need not be the
paper's at all.

The paper's figure is taken as it is printed. It is one run against one run, and has a spread that nobody knows.
"""

from __future__ import annotations

import math
from typing import Any

from alexnet_exp.compare import statistics as st
from alexnet_exp.compare.arms import matching, parse_settings
from alexnet_exp.compare.result import Arm, Claim, ClaimStatus, Interval, Metric
from alexnet_exp.config.paper_claim import PaperClaim, paper_claims
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.runs.metric import difference_text, is_accuracy
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

ANALOGUE = "ANALOGUE"


def stated(run: Run) -> list[PaperClaim]:
    """A run's `paper_claim`, from what it says of itself or from its configuration. Raises Refused where it is none."""
    if "paper_claim" in run.facts:
        return paper_claims(run.facts["paper_claim"])
    if "paper_claim" in run.config:
        return paper_claims(run.config["paper_claim"])
    prefix = "paper_claim."
    return paper_claims({key.removeprefix(prefix): had for key, had in run.config.items() if key.startswith(prefix)})


def claim_of(arm: Arm, baseline: Arm, metric: Metric) -> PaperClaim | None:
    """The first claim of the arm's runs that is about this metric and these two, told of this arm minus this baseline.

    All runs of an experiment carry all of its claims. One that names both of its arms is turned round where the
    baseline is the claim's arm: "1.4 points worse without LRN" is "1.4 points better with it".
    """
    if baseline is arm:
        return None
    try:
        claims = [one for run in [*arm.runs, *arm.uncounted][:1] for one in stated(run)]
    except Refused:
        return None  # reported under "Caveats"
    for said in claims:
        sides = [said, said.turned()] if said.arm is not None and said.against is not None else [said]
        for side in sides:
            if side.metric == metric.key and _is(arm, side.arm) and _is(baseline, side.against):
                return side
    return None


def judged(said: PaperClaim, arm: Arm, baseline: Arm, test: st.SignificanceTest | None, why_not: str = "") -> Claim:
    """The claim with its status. test: of the two, on the claim's own scale; None for `why_not`, in a few words."""
    if not arm.n or not baseline.n:
        return Claim(said, ClaimStatus.not_run, _unfinished(arm if not arm.n else baseline, said.metric))
    measured = _measured(said, arm, baseline, test)
    if test is None:
        return Claim(said, ClaimStatus.inconclusive, why_not or few_seeds(arm, baseline) or "no spread", measured)
    status, why = status_of(said, test.interval, test.decided)
    interval = tuple(math.exp(end) for end in test.interval) if said.is_ratio else test.interval
    lost = _without_value(arm, baseline, said.metric)
    return Claim(said, status, "; ".join(filter(None, (why, lost))), measured, (interval[0], interval[1]), test.p)


def status_of(said: PaperClaim, interval: Interval, decided: bool) -> tuple[ClaimStatus, str]:
    """The status by the rules above, and what is to be said beside it. interval: on the claim's own scale.

    decided: whether it leaves 0 out. The interval itself may end at 0 there (Holm's later steps).
    """
    (least, most), (low, high) = said.values, interval
    if said.sign < 0:
        (least, most), (low, high) = (-most, -least), (-high, -low)
    too_small, too_large = high < least, low > most
    if not decided:
        return ClaimStatus.inconclusive, f"rules out the paper's size: {_at_most(said, high)}" if too_small else ""
    if high <= 0:
        return ClaimStatus.contradicted, "the other way round"
    if too_small or too_large:
        return ClaimStatus.same_direction, f"{'smaller' if too_small else 'larger'} than the paper's"
    return ClaimStatus.reproduced, ""


def few_seeds(arm: Arm, baseline: Arm) -> str:
    """`1 seed` where that is why there is no interval, else nothing."""
    fewest = min(arm.n, baseline.n)
    return "" if fewest >= st.FEWEST_SEEDS else f"{fewest} seed{'' if fewest == 1 else 's'}"


def figure_text(said: PaperClaim) -> str:
    """The paper's figure for people, with its unit: `+1.40 points`, `about 6 times`, `at least 1 point`, `higher`."""
    about = "about " if said.about else ""
    if said.ratio is not None:
        return f"{about}{said.ratio:.3g} times"
    bound = said.at_least if said.at_least is not None else said.at_most
    if bound is not None:
        word = "higher" if said.sign > 0 else "lower"
        words = "at least" if said.sign > 0 else "at most"
        return f"{words} {_amount(said.metric, bound)}" if bound else word
    assert said.difference is not None
    return about + _amount(said.metric, said.difference)


def measured_text(claim: Claim) -> str:
    """What was measured for people, on the claim's own scale; a dash for nothing."""
    if claim.measured is None:
        return "-"
    return f"{claim.measured:.3g} times" if claim.said.is_ratio else _amount(claim.said.metric, claim.measured)


def interval_text(claim: Claim) -> str:
    """The interval without its unit; a dash where there is none."""
    if claim.interval is None:
        return "-"
    if claim.said.is_ratio:
        return " to ".join(f"{end:.3g}" for end in claim.interval)
    return " to ".join(difference_text(claim.said.metric, end, sign=True) for end in claim.interval)


def status_text(claim: Claim) -> str:
    """`inconclusive (1 seed)`, `same direction (smaller than the paper's)`, `reproduced`."""
    return claim.status.value + (f" ({claim.why})" if claim.why else "")


def sentence(claim: Claim) -> str:
    """All of it in one line: what the paper says and where, what became of it, and whether this is an analogue."""
    said = claim.said
    text = f"{said.text.rstrip('.')}{f' ({said.source})' if said.source else ''}"
    here = f"here, an {ANALOGUE} of it" if said.analogue else "here"
    found = f", {measured_text(claim)} ({interval_text(claim)})" if claim.interval else ""
    return f"{text}; {here}: {status_text(claim)}{found}"


def _measured(said: PaperClaim, arm: Arm, baseline: Arm, test: st.SignificanceTest | None) -> float | None:
    if test is not None:
        return math.exp(test.difference) if said.is_ratio else test.difference
    assert arm.mean is not None
    assert baseline.mean is not None
    if not said.is_ratio:
        return arm.mean - baseline.mean
    logs = [[math.log(value) for value in one.values if value > 0] for one in (arm, baseline)]
    if any(len(had) < one.n for had, one in zip(logs, (arm, baseline), strict=True)):
        return None
    first, second = (math.fsum(had) / len(had) for had in logs)
    return math.exp(first - second)


def _at_most(said: PaperClaim, end: float) -> str:
    """The farthest end of an interval that was turned to the claimed side."""
    if said.is_ratio:
        return f"at most {math.exp(end):.3g} times" if said.sign > 0 else f"at least {math.exp(-end):.3g} times"
    return f"at most {_amount(said.metric, end)}" if said.sign > 0 else f"at least {_amount(said.metric, -end)}"


def _amount(metric: str, difference: float) -> str:
    text = difference_text(metric, difference, sign=True)
    return f"{text} points" if is_accuracy(metric) else text


def _unfinished(arm: Arm, metric: str) -> str:
    done = [run for run in arm.uncounted if run.status == Status.DONE]
    return f"no finished run of {arm.label}" + (f" has {metric}" if done else "")


def _without_value(arm: Arm, baseline: Arm, metric: str) -> str:
    """That finished runs are missing in the interval, such as those that never got to 25% training error."""
    lost = sum(run.status == Status.DONE for one in (arm, baseline) for run in one.uncounted)
    return f"{lost} finished run{'' if lost == 1 else 's'} without {metric} not counted" if lost else ""


def _is(arm: Arm, settings: str | None) -> bool:
    try:
        return settings is None or bool(matching([arm], parse_settings(settings)))
    except UserError:
        return False


def plain(claim: Claim) -> dict[str, Any]:
    """For a program."""
    said = claim.said
    figure = {key: getattr(said, key) for key in ("difference", "at_least", "at_most", "ratio")}
    return {
        "text": said.text,
        "source": said.source,
        "analogue": said.analogue,
        "metric": said.metric,
        "arm": said.arm,
        "against": said.against,
        **{key: had for key, had in figure.items() if had is not None},
        "about": said.about,
        "status": claim.status,
        "why": claim.why,
        "measured": claim.measured,
        "interval": claim.interval,
        "p": claim.p,
    }
