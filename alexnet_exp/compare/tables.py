"""Provides the table of arms and the words of its cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from alexnet_exp.compare.arms import mean_of
from alexnet_exp.compare.paper_claim_status import ANALOGUE, figure_text
from alexnet_exp.compare.result import Arm, Claim, ComparisonTable, Difference, Metric, Verdict
from alexnet_exp.compare.select import MISSING, metric_keys, statuses_text, title, value
from alexnet_exp.compare.verdict import includes_zero
from alexnet_exp.errors import yaml_text
from alexnet_exp.runs.metric import difference_text

MOST_LISTED_SEEDS = 5  # the values of an arm with more seeds are not listed
# The columns of an arm other than settings and metrics, with their headings.
ARM_COLUMNS = {
    "n": "seeds",
    "values": "values",
    "sd": "sd",
    "interval": "95% interval",
    "difference": "difference",
    "difference_interval": "its interval",
    "verdict": "verdict",
    "claim": "paper",
    "claim_status": "the claim",
    "images_per_s": "images/s",
    "minutes": "minutes",
    "status": "runs",
}


def arms_table(
    arms: Sequence[Arm],
    differences: Sequence[Difference],
    factors: Sequence[str],
    metric: Metric,
    rank: str,
    columns: Sequence[str],
) -> ComparisonTable:
    """Returns a table with one row per arm. columns: instead of the default ones.

    A cell is a number, a text, a list (`values`), a pair of numbers (the intervals), or None if there is no value.
    """
    by_arm = {id(difference.arm): difference for difference in differences}
    own_cells: dict[str, Callable[[Arm], Any]] = {
        "n": lambda arm: arm.n,
        "values": lambda arm: arm.values if arm.n <= MOST_LISTED_SEEDS else None,
        "sd": lambda arm: arm.sd,
        "interval": lambda arm: arm.interval,
        "status": lambda arm: statuses_text(run.status for run in [*arm.runs, *arm.repeated, *arm.uncounted]),
    }

    def cell(arm: Arm, key: str) -> Any:
        if key in own_cells:
            return own_cells[key](arm)
        difference = by_arm.get(id(arm))
        if key in ("difference", "difference_interval", "verdict", "claim", "claim_status"):
            return None if difference is None else _of_difference(difference, key, metric)
        if key in arm.settings:
            return arm.settings[key]
        mean = mean_of(arm, key)
        if mean is not None:
            return mean
        found = {yaml_text(value(run, key)) for run in arm.runs if value(run, key) is not MISSING}
        return found.pop() if len(found) == 1 else None

    of_differences = ["difference", "difference_interval", "verdict"] if differences else []
    claims = ["claim", "claim_status"] if any(difference.claim for difference in differences) else []
    few = ["values"] if any(1 < arm.n <= MOST_LISTED_SEEDS for arm in arms) else []
    ranked = [rank] if rank != metric.key else []
    default = [*factors, "n", metric.key, "sd", "interval", *few, *of_differences, *claims, *ranked]
    keys = list(columns) or [*default, "images_per_s", "minutes", "status"]
    metrics = metric_keys([run for arm in arms for run in arm.runs])
    return ComparisonTable(
        keys,
        [ARM_COLUMNS.get(key) or title(key, metrics) for key in keys],
        [[cell(arm, key) for key in keys] for arm in arms],
    )


def _of_difference(difference: Difference, key: str, metric: Metric) -> Any:
    if key == "difference":
        return None if math.isnan(difference.difference) else difference.difference
    if key == "difference_interval":
        return difference.interval
    if key in ("claim", "claim_status"):
        return _of_claim(difference.claim, key) if difference.claim else None
    return verdict_text(difference, metric)


def _of_claim(claim: Claim, key: str) -> Any:
    """Returns the paper's figure, as a number if it is in the metric's units, or the status of the claim."""
    if key == "claim":
        paper = claim.paper
        return figure_text(paper) if paper.difference is None or paper.about else paper.difference
    return f"{claim.status.value}{f', {ANALOGUE}' if claim.paper.analogue else ''}"


def verdict_text(difference: Difference, metric: Metric) -> str:
    """Returns the verdict in a few words:

    `better`, `worse on these images`, `inconclusive (detectable difference: 0.9 points)`.
    """
    word = difference.verdict.value
    if difference.verdict in (Verdict.better, Verdict.worse):
        return f"{word} on these images" if is_limited_to_images(difference) else word
    if difference.bound is None:
        return word
    bound = f"{difference_text(metric.key, difference.bound)}{' points' if metric.percent else ''}"
    inconclusive = difference.verdict is Verdict.inconclusive
    return f"{word} (detectable difference: {bound})" if inconclusive else f"{word} {bound}"


def is_limited_to_images(difference: Difference) -> bool:
    """Returns whether a verdict holds for other seeds, but perhaps not for other test images."""
    return (
        difference.verdict in (Verdict.better, Verdict.worse)
        and difference.images_interval is not None
        and includes_zero(difference.images_interval)
    )
