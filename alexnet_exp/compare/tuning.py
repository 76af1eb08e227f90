"""Selects each arm's own best value of a setting (`--best-of`), and lists the caveats of this selection."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_exp.compare.arms import label_of, mean_of, settings_of, unequal_factors
from alexnet_exp.compare.result import Arm
from alexnet_exp.compare.select import as_hashable
from alexnet_exp.errors import yaml_text
from alexnet_exp.runs.metric import label

_MOST_LISTED = 4  # arms or values of one line


def best_arms(arms: Sequence[Arm], factors: Sequence[str], best_of: Sequence[str], rank: str) -> list[Arm]:
    """Returns the best arm by rank of each group of arms that differ only in `best_of`. `arms` are sorted by rank.

    An arm with fewer than half the seeds of the largest is skipped, because one lucky seed would win.
    """
    rest = [factor for factor in factors if factor not in best_of]
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        groups.setdefault(settings_of(arm, rest), []).append(arm)
    selected = []
    for members in groups.values():
        most = max(arm.n for arm in members)
        ranked = [arm for arm in members if 2 * arm.n >= most and (mean_of(arm, rank) is not None or not most)]
        selected.append((ranked or members)[0])
    ids = {id(arm) for arm in selected}
    return [arm for arm in arms if id(arm) in ids]


def selection_caveats(
    every: Sequence[Arm],
    selected: Sequence[Arm],
    factors: Sequence[str],
    best_of: Sequence[str],
    rank: str,
    metric: str,
) -> list[str]:
    """Returns that the selection is optimistic, or why there was nothing to select."""
    keys, was = ", ".join(best_of), "was" if len(best_of) == 1 else "were"
    if len(selected) == len(every):
        lines = [f"--best-of {','.join(best_of)} had nothing to select: no two arms differ in {keys} alone"]
        pairs = [
            unequal_factors(arm, other, [factor for factor in factors if factor not in best_of])
            for place, arm in enumerate(every)
            for other in every[:place]
            if unequal_factors(arm, other, best_of)
        ]
        if nearest := min(pairs, key=len, default=[]):
            lines[0] += f"; those that differ in it differ in {', '.join(nearest)} too"
        return lines
    notes = [
        f"{keys} {was} selected for each arm by {label(rank)} of the same runs, so the selected arm looks slightly "
        "better than it is; confirm it with fresh seeds (sweep confirm)"
    ]
    if rank.startswith("test/") or rank == metric:
        notes.append(
            f"{keys} {was} selected by {label(rank)}, the metric of the verdict; select by a validation metric"
        )
    return notes


def tuning_caveats(
    every: Sequence[Arm], selected: Sequence[Arm], factors: Sequence[str], keys: Sequence[str]
) -> list[str]:
    """Returns lines about arms with unequal numbers of values, and about best values at an edge.

    every: all arms, including those without a finished run. selected: the selected arm of each group.
    """
    rest = [factor for factor in factors if factor not in keys]
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in every:
        groups.setdefault(settings_of(arm, rest), []).append(arm)
    tried = {id(arm): groups[settings_of(arm, rest)] for arm in selected}
    return [
        *_unequal_budget(selected, tried, rest, keys),
        *(line for key in keys for line in _at_an_edge(selected, tried, rest, [k for k in keys if k != key], key)),
    ]


def _unequal_budget(
    selected: Sequence[Arm], tried: dict[int, list[Arm]], rest: Sequence[str], keys: Sequence[str]
) -> list[str]:
    counts: dict[int, list[str]] = {}
    for arm in selected:
        number = len({tuple(as_hashable(one.settings.get(key)) for key in keys) for one in tried[id(arm)]})
        counts.setdefault(number, []).append(_name(arm, rest))
    if len(counts) < 2:
        return []
    budgets = "; ".join(f"{number} for {_listed(arms)}" for number, arms in sorted(counts.items(), reverse=True))
    values = "values of " if len(keys) == 1 else "combinations of "
    return [
        f"unequal tuning: {values}{', '.join(keys)} to select from: {budgets}. The arm with more looks better than "
        "it is; give each arm the same number"
    ]


def _at_an_edge(
    selected: Sequence[Arm], tried: dict[int, list[Arm]], rest: Sequence[str], others: Sequence[str], key: str
) -> list[str]:
    found: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for arm in selected:
        values = [
            one.settings.get(key) for one in tried[id(arm)] if settings_of(one, others) == settings_of(arm, others)
        ]
        numbers = sorted({value for value in values if isinstance(value, int | float) and not isinstance(value, bool)})
        if not arm.n or len(numbers) < 2 or not all(value in numbers for value in values):
            continue
        best = arm.settings[key]
        for end, word in ((numbers[0], "lowest"), (numbers[-1], "highest")):
            if best == end:
                found.setdefault((word, tuple(numbers)), []).append(_name(arm, rest))
    return [
        f"the best {key} is the {word} of the {len(values)} tried ({_listed([yaml_text(value) for value in values])}) "
        f"for {_listed(arms)}: a value beyond it may be better"
        for (word, values), arms in found.items()
    ]


def _name(arm: Arm, rest: Sequence[str]) -> str:
    return label_of(arm.settings, rest) or "all runs"


def _listed(parts: Sequence[str]) -> str:
    if len(parts) <= _MOST_LISTED:
        return ", ".join(parts)
    return ", ".join(parts[: _MOST_LISTED - 1]) + f" and {len(parts) - _MOST_LISTED + 1} more"
