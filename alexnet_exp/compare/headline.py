"""Provides the first sentence of a comparison: the main verdict, or the ranking of the arms without a baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from alexnet_exp.compare.arms import mean_of
from alexnet_exp.compare.paper_claim_status import figure_text, status_text
from alexnet_exp.compare.result import Arm, Difference, Metric, Verdict
from alexnet_exp.compare.select import metric_keys, statuses_text
from alexnet_exp.compare.tables import MOST_LISTED_SEEDS
from alexnet_exp.runs.metric import direction_text, label, value_text
from alexnet_exp.runs.status import Status

_MOST_LISTED_METRICS = 10  # in a message
# The verb for one arm and for several, and the rest of the sentence.
_VERDICT_WORDS = {
    Verdict.better: ("is", "are", "better"),
    Verdict.worse: ("is", "are", "worse"),
    Verdict.no_difference: ("is", "are", "no different"),
    Verdict.inconclusive: ("is", "are", "inconclusive"),
}


def headline(
    metric: Metric, arms: Sequence[Arm], differences: Sequence[Difference], rank: str, best_of: Sequence[str]
) -> str:
    """Returns the first sentence.

    differences: of all arms, empty without a baseline. best_of: the keys whose best value was selected for each arm.
    """
    counted = [arm for arm in arms if arm.n]
    if not arms:
        return "There are no runs here."
    if not counted:
        others = _other_metrics(arms)
        if others:
            return f"No run that is done has {metric.label}; {others}."
        statuses = statuses_text(run.status for arm in arms for run in arm.uncounted)
        return f"No run with {metric.label} is done: {statuses}."
    text = _verdicts(metric, differences) if differences else _ranking(metric, counted, rank)
    is_undirected = text.startswith(("inconclusive", "no "))
    if len(counted) > 1 and not is_undirected:
        # a ranking is by `rank`, a verdict by the metric
        direction = direction_text(metric.key if differences else rank)
        text += f". {direction}" if direction else ""
    if best_of:
        text += f". Each arm is at its own best {', '.join(best_of)} by {label(rank)}"
    return f"{text[0].upper()}{text[1:]}." if is_undirected else f"{text}."


def _other_metrics(arms: Sequence[Arm]) -> str:
    """Returns a hint at the other metrics of done runs, or else at settings that are numbers and could be metrics."""
    done = [run for arm in arms for run in arm.uncounted if run.status == Status.DONE]
    if not done:
        return ""
    known = metric_keys(done)
    numeric = dict.fromkeys(
        key
        for run in done
        for key, had in (run.config | run.facts).items()
        if key != "seed" and isinstance(had, int | float) and not isinstance(had, bool)
    )
    names = known or list(numeric)
    if not names:
        return "they have no other metric, and no other number"
    listed = f"{', '.join(names[:_MOST_LISTED_METRICS])}{' ...' if len(names) > _MOST_LISTED_METRICS else ''}"
    return f"choose {'another metric' if known else 'a column of numbers'} with --metric: {listed}"


def _ranking(metric: Metric, arms: Sequence[Arm], rank: str) -> str:
    """Returns the first arm. Without a baseline there is no verdict: the order of the arms is partly chance."""
    best = arms[0]
    result = f"{metric.label} {_mean_text(metric, best)}"
    if len(arms) == 1:
        return f"{best.label}: {result}"
    level = sum(mean_of(arm, rank) == mean_of(best, rank) for arm in arms) - 1
    leaders = f"{best.label} and {level} more are first" if level else f"{best.label} is first"
    first = f"{leaders} of {len(arms)} by {label(rank)}: {result}"
    if all(arm.n == 1 for arm in arms):
        return f"{first}; one run each, which does not separate the change from chance"
    return f"{first}. No verdict: run compare with --baseline KEY=VALUE"


def _mean_text(metric: Metric, arm: Arm) -> str:
    if arm.n == 1:
        return f"{value_text(metric.key, arm.mean)} (one run)"
    if arm.interval is None:
        values = arm.values if arm.n <= MOST_LISTED_SEEDS else [arm.mean]
        return f"{' and '.join(value_text(metric.key, one) for one in values)} ({arm.n} seeds)"
    low, high = (value_text(metric.key, end) for end in arm.interval)
    return f"{value_text(metric.key, arm.mean)} (95% interval {low} to {high}; {arm.n} seeds)"


def _verdicts(metric: Metric, differences: Sequence[Difference]) -> str:
    """Returns the sentence of the main difference, and the number of others with each verdict.

    The main difference has the first verdict in `Verdict`'s order. Of several that are better or worse it is the
    largest, of several with another verdict the one with the smallest p.
    """
    order, decided = list(Verdict), (Verdict.better, Verdict.worse)

    def place(one: Difference) -> tuple[int, float]:
        within = -abs(one.difference) if one.verdict in decided else one.p
        return order.index(one.verdict), 2.0 if within is None else within

    first = min(differences, key=place)
    text = first.sentence
    if first.claim is not None:
        text += f"; the paper claims {figure_text(first.claim.paper)}: {status_text(first.claim)}"
    others = Counter(one.verdict for one in differences if one is not first)
    if not others:
        return text

    def words(verdict: Verdict, number: int, subject: str) -> str:
        singular, plural, rest = _VERDICT_WORDS[verdict]
        less = ", by less" if verdict is first.verdict and verdict in decided else ""
        return f"{subject} {singular if number == 1 else plural} {rest}{less}"

    number = len(differences) - 1
    if len(others) == 1:
        return (
            f"{text}. {words(*next(iter(others.items())), 'The other one' if number == 1 else f'The other {number}')}"
        )
    return f"{text}. Of the others " + ", ".join(
        words(verdict, others[verdict], str(others[verdict])) for verdict in order if others[verdict]
    )
