"""Finds the baseline of each arm: the arm that differs from it only in the settings of `--baseline`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from alexnet_exp.compare.arms import (
    Grouping,
    matching_arms,
    one_run_factors,
    parse_settings,
    settings_of,
    unequal_factors,
)
from alexnet_exp.compare.factors import EXPERIMENT, column
from alexnet_exp.compare.options import CompareOptions
from alexnet_exp.compare.result import Arm
from alexnet_exp.compare.select import Condition, check_names, determines, value
from alexnet_exp.compare.verdict import Family, names
from alexnet_exp.errors import UserError, yaml_text
from alexnet_exp.runs.run import Run

_MOST_LISTED_SETTINGS = 5  # in a message
_MOST_LISTED_BASELINE_VALUES = 8


def find_families(
    grouping: Grouping, arms: Sequence[Arm], conditions: Sequence[Condition], options: CompareOptions
) -> tuple[list[Family], list[str]]:
    """Returns each baseline with the arms that differ from it in nothing else, and lines about arms without a partner.

    Raises UserError if no arm, every arm, or more than one arm per family is the baseline, or no arm has a partner.
    """
    first_runs = [[*arm.runs, *arm.uncounted][0] for arm in arms]
    check_names([condition.key for condition in conditions], first_runs, "--baseline")
    base = matching_arms(arms, conditions)
    if not base:
        had = {
            condition.key: dict.fromkeys(yaml_text(value(run, condition.key)) for run in first_runs)
            for condition in conditions
        }
        there = "; ".join(
            f"{key} is {', '.join(list(values)[:_MOST_LISTED_BASELINE_VALUES])}" for key, values in had.items()
        )
        raise UserError(f"--baseline {options.baseline}: no arm has it; {there}")
    if len(base) == len(arms):
        raise UserError(f"--baseline {options.baseline}: every run has it, so there is nothing to compare")
    axis = {factor for condition in conditions for factor in _axis(condition.key, grouping, first_runs)}
    # With --group-by only these settings must match; settings that change with them are named in the labels.
    matched = [*options.group_by, "fingerprint"] if options.group_by else grouping.factors
    rest = [key for key in grouping.factors if key in matched and key not in axis and key not in options.best_of]
    baselines: dict[tuple[str, ...], Arm] = {}
    for arm in base:
        other = baselines.setdefault(settings_of(arm, rest), arm)
        if other is not arm:
            both = " and ".join(names(arm, other))
            raise UserError(
                f"--baseline {options.baseline}: matches both {both}; name one of them{_each_row(grouping)}"
            )
    in_base = {id(arm) for arm in base}
    others = [arm for arm in arms if id(arm) not in in_base]
    images = {id(arm): found for arm, found in zip(grouping.arms, grouping.data, strict=True)}
    found: dict[tuple[str, ...], list[Arm]] = {at: [] for at in baselines}
    unmatched = []
    for arm in others:
        if (at := settings_of(arm, rest)) in found:
            found[at].append(arm)
        else:
            unmatched.append(arm.label)
    families = [
        Family(
            baselines[at], members, [arm for arm in members if _are_unlike(images[id(arm)], images[id(baselines[at])])]
        )
        for at, members in found.items()
        if members
    ]
    if not families:
        raise UserError(f"--baseline {options.baseline}: {_no_partner_text(grouping, base, others, rest, options)}")
    lines = []
    if unmatched:
        lines.append(f"no baseline with otherwise equal settings: {', '.join(unmatched)}")
    left = sum(not members for members in found.values())
    if left:
        lines.append(
            f"{left} more arm{' has' if left == 1 else 's have'} {options.baseline} and no arm to compare with: every "
            "other differs in a further setting"
        )
    return families, lines


def _no_partner_text(
    grouping: Grouping, base: Sequence[Arm], others: Sequence[Arm], rest: Sequence[str], options: CompareOptions
) -> str:
    """Returns why no arm can be compared with the baseline and what to write instead, for the two most similar arms."""
    pairs = [(unequal_factors(arm, other, rest), arm, other) for other in base for arm in others]
    keys, arm, other = min(pairs, key=lambda pair: len(pair[0]))
    some = [
        f"{key} ({yaml_text(arm.settings.get(key))} and {yaml_text(other.settings.get(key))})"
        for key in keys[:_MOST_LISTED_SETTINGS]
    ]
    more = f" and {len(keys) - _MOST_LISTED_SETTINGS} more settings" if len(keys) > _MOST_LISTED_SETTINGS else ""
    start = f"every other arm differs in more than that, {arm.label} in {', '.join(some)}{more}"
    if each := _each_row(grouping):
        return start + each
    if more:
        asked = ",".join(condition.key for condition in parse_settings(options.baseline or ""))
        return f"{start}; add --group-by {shlex.quote(asked)} to compare all of it together"
    also = ",".join(f"{key}={yaml_text(other.settings.get(key))}" for key in keys)
    best_of = ",".join([*options.best_of, *keys])
    baseline = f"{options.baseline},{also}"
    return (
        f"{start}; add --best-of {shlex.quote(best_of)} to give each arm its own best value, or write --baseline "
        f"{shlex.quote(baseline)} to compare all of it together"
    )


def _each_row(grouping: Grouping) -> str:
    """Returns a hint if a column that may not be a setting makes an arm of every run."""
    keys = one_run_factors(grouping)
    listed = ", ".join(keys)
    added = shlex.quote(",".join(keys))
    return f". {listed} differs in every run: if it is not a setting, add --average-over {added}" if keys else ""


def _axis(key: str, grouping: Grouping, runs: Sequence[Run]) -> list[str]:
    """Returns the factors that a key of the baseline stands for.

    These are the key itself, the factor with which it always changes, or its group or node (`model` of model.norm);
    every factor if the key is not a setting of an arm (`run`, `commit`).
    """
    if together := [factor for factor, others in grouping.together.items() if key in others]:
        return together
    around = [factor for factor in grouping.factors if key.startswith(f"{factor.replace('/', '.')}.")]
    had = column(runs, key)
    deciding = [factor for factor in [*around, EXPERIMENT] if factor in grouping.factors]
    deciding = [factor for factor in deciding if determines(column(runs, factor), had)][:1]
    if key in grouping.factors:
        return [key, *deciding]
    return deciding or sorted(around, key=len)[-1:] or list(grouping.factors)


def _are_unlike(images: Any, other: Any) -> bool:
    return images is not None and other is not None and images != other
