"""Caveats about arms that are each at their own best value of a setting (`--best-of`): how many values each had."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_exp.compare.arms import label_of
from alexnet_exp.compare.result import Arm
from alexnet_exp.compare.select import frozen
from alexnet_exp.errors import yaml_text

_NAMED = 4  # arms, or values, of one line


def tuning_caveats(
    every: Sequence[Arm], chosen: Sequence[Arm], factors: Sequence[str], keys: Sequence[str]
) -> list[str]:
    """A line where the arms had unequal numbers of values to choose from, and one where a best value is at the edge.

    every: all arms, also those without a finished run. chosen: one of each group of arms that differ in `keys` alone.
    """
    rest = [factor for factor in factors if factor not in keys]
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in every:
        groups.setdefault(_at(arm, rest), []).append(arm)
    tried = {id(arm): groups[_at(arm, rest)] for arm in chosen}
    return [
        *_unequal_budget(chosen, tried, rest, keys),
        *(line for key in keys for line in _at_an_edge(chosen, tried, rest, [k for k in keys if k != key], key)),
    ]


def _unequal_budget(
    chosen: Sequence[Arm], tried: dict[int, list[Arm]], rest: Sequence[str], keys: Sequence[str]
) -> list[str]:
    counts: dict[int, list[str]] = {}
    for arm in chosen:
        number = len({tuple(frozen(one.settings.get(key)) for key in keys) for one in tried[id(arm)]})
        counts.setdefault(number, []).append(_name(arm, rest))
    if len(counts) < 2:
        return []
    told = "; ".join(f"{number} for {_listed(arms)}" for number, arms in sorted(counts.items(), reverse=True))
    values = "values of " if len(keys) == 1 else "combinations of "
    return [
        f"unequal tuning: {values}{', '.join(keys)} to choose from: {told}. The arm with more looks better than it is; "
        "give each arm as many"
    ]


def _at_an_edge(
    chosen: Sequence[Arm], tried: dict[int, list[Arm]], rest: Sequence[str], others: Sequence[str], key: str
) -> list[str]:
    found: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for arm in chosen:
        values = [one.settings.get(key) for one in tried[id(arm)] if _at(one, others) == _at(arm, others)]
        numbers = sorted({value for value in values if isinstance(value, int | float) and not isinstance(value, bool)})
        if not arm.n or len(numbers) < 2 or not all(value in numbers for value in values):
            continue
        best = arm.settings[key]
        for end, word in ((numbers[0], "lowest"), (numbers[-1], "highest")):
            if best == end:
                found.setdefault((word, tuple(numbers)), []).append(_name(arm, rest))
    return [
        f"the best {key} is the {word} of the {len(values)} tried ({_listed([yaml_text(value) for value in values])}) "
        f"for {_listed(arms)}: one beyond it may be better"
        for (word, values), arms in found.items()
    ]


def _at(arm: Arm, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(yaml_text(arm.settings.get(key)) for key in keys)


def _name(arm: Arm, rest: Sequence[str]) -> str:
    return label_of(arm.settings, rest) or "all runs"


def _listed(parts: Sequence[str]) -> str:
    if len(parts) <= _NAMED:
        return ", ".join(parts)
    return ", ".join(parts[: _NAMED - 1]) + f" and {len(parts) - _NAMED + 1} more"
