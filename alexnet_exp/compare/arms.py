"""Groups runs into arms: runs that differ only in the seed."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.compare.factors import column, find_factors
from alexnet_exp.compare.result import Arm
from alexnet_exp.compare.select import FACT_COLUMNS, MISSING, Condition, determines, seed_of, setting, value
from alexnet_exp.compare.statistics import Sample
from alexnet_exp.errors import UserError, suggest_name, yaml_text
from alexnet_exp.runs.metric import is_accuracy
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

_MOST_LISTED_VALUES = 4  # of a setting in a message


@dataclass(frozen=True)
class Grouping:
    """All arms of some runs, and the factors that distinguish them.

    together, partial, places: as in `Factors`. data: the images of the runs of each arm, in the order of `arms`; None
    if they were not recorded. outside: uncounted runs in no arm, which differ from every counted run in more than
    `factors`. averaged: settings over which each seed is averaged. named: keys that the options name as factors.
    """

    arms: list[Arm]
    factors: list[str]
    together: dict[str, list[str]] = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    data: list[Hashable] = field(default_factory=list)
    outside: list[Run] = field(default_factory=list)
    averaged: Sequence[str] = ()
    named: Sequence[str] = ()


def group_runs(
    runs: Sequence[Run],
    metric: str,
    *,
    group_by: Sequence[str] = (),
    best_of: Sequence[str] = (),
    average_over: Sequence[str] = (),
    named: Sequence[str] = (),
    seed_key: str = "seed",
) -> Grouping:
    """Returns the arms of `runs`, each with its values of `metric`, in the order of their first run.

    Only counted and running runs have factors; a failed run adds none, except for a key in `named`. group_by: the first
    factors; arms with equal values of these and of `best_of` must not differ in another factor. average_over: settings
    that make no arm; the value of a seed is the mean over its runs. Runs on different images (the fingerprint of the
    data, the number of test images) are never in one arm: if no other factor separates them, the fingerprint does.

    Raises UserError if runs of one arm would differ in a setting.
    """
    counted = [is_counted(run, metric) for run in runs]
    known = [run for run, one in zip(runs, counted, strict=True) if one or run.status == Status.RUNNING]
    if not any(counted):
        known = list(runs)
    found = find_factors(known, seed_key, [*best_of, *average_over])
    factors = list(dict.fromkeys([*group_by, *(best_of if group_by else ()), *found.keys]))
    factors = _with_named(factors, named, runs, known, None if group_by else seed_key)
    factors = [factor for factor in factors if factor not in average_over]
    outside = _outside(runs, known, factors, seed_key)
    columns = {factor: column(runs, factor) for factor in factors}
    data = [images_of(run) for run in runs]
    groups: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
    for place in range(len(runs)):
        if place not in outside:
            groups[tuple(columns[factor][place] for factor in factors)].append(place)
    pools = [pool for places in groups.values() for pool in _split_by_images(places, data, counted)]
    split = len(pools) > len(groups)
    arms = []
    for places, images in pools:
        settings = {factor: setting(runs[places[0]], factor) for factor in factors}
        if split:
            settings["fingerprint"] = _data_text(images)
        members = [runs[place] for place in places]
        arms.append(_arm(members, settings, metric, seed_key, average_over))
    if group_by:
        _check_mixture([arm for arm in arms if arm.n], group_by, best_of)
    return Grouping(
        arms=arms,
        factors=[*factors, "fingerprint"] if split else factors,
        together=found.together,
        partial=found.partial,
        places=[key for key in found.places if key not in factors],
        data=[images for _, images in pools],
        outside=[runs[place] for place in sorted(outside)],
        averaged=average_over,
        named=[*group_by, *named],
    )


def _with_named(
    factors: Sequence[str], named: Sequence[str], runs: Sequence[Run], known: Sequence[Run], seed_key: str | None
) -> list[str]:
    """Returns the factors and those of `named` that differ only in uncounted runs, or within an arm.

    seed_key: None if a difference within an arm makes no factor.
    """
    found = list(factors)
    found += [
        key
        for key in named
        if key not in found and len(set(column(known, key))) == 1 and len(set(column(runs, key))) > 1
    ]
    if seed_key is not None:
        found += [key for key in named if key not in found and _varies_within(known, key, found, seed_key)]
    return found


def _split_by_images(
    places: Sequence[int], data: Sequence[Hashable], counted: Sequence[bool]
) -> list[tuple[list[int], Hashable]]:
    """Returns the indexes of the runs of an arm by their images; an uncounted run on unknown images is in the first."""
    known = list(dict.fromkeys(data[place] for place in places if counted[place]))
    if len(known) <= 1:
        return [(list(places), next(iter(known), None))]
    return [
        ([p for p in places if data[p] == images or (images == known[0] and data[p] not in known)], images)
        for images in known
    ]


def _varies_within(runs: Sequence[Run], key: str, factors: Sequence[str], seed_key: str) -> bool:
    """Returns whether runs with equal factors differ in a setting or a fact such as the commit."""
    if key == seed_key or key in FACT_COLUMNS or any(key in run.metrics for run in runs):
        return False
    rest = list(zip(*(column(runs, factor) for factor in factors), strict=True)) or [()] * len(runs)
    return not determines(rest, column(runs, key))


def _outside(runs: Sequence[Run], known: Sequence[Run], factors: Sequence[str], seed_key: str) -> set[int]:
    """Returns the indexes of the uncounted runs that differ from every counted run in more than `factors`."""
    if len(known) == len(runs):
        return set()
    others = [key for key in find_factors(runs, seed_key).keys if key not in factors]
    rows = list(zip(*(column(runs, key) for key in others), strict=True)) if others else [()] * len(runs)
    inside = {id(run) for run in known}
    there = {row for row, run in zip(rows, runs, strict=True) if id(run) in inside}
    return {place for place, row in enumerate(rows) if row not in there}


def _check_mixture(arms: Sequence[Arm], group_by: Sequence[str], best_of: Sequence[str]) -> None:
    """Raises UserError if arms with equal values of the named settings differ in another setting."""
    mixed: dict[str, dict[str, None]] = {}
    groups: dict[tuple[str, ...], list[Arm]] = defaultdict(list)
    for arm in arms:
        groups[tuple(yaml_text(arm.settings[key]) for key in (*group_by, *best_of))].append(arm)
    for members in groups.values():
        for key in members[0].settings:
            had = dict.fromkeys(yaml_text(arm.settings[key]) for arm in members)
            if len(had) > 1:
                mixed.setdefault(key, had)
    if not mixed:
        return
    differences = ", ".join(f"{key} ({_values(list(had))})" for key, had in mixed.items())
    keys, one = shlex.quote(",".join(mixed)), shlex.quote(f"{next(iter(mixed))}=VALUE")
    raise UserError(
        f"--group-by {','.join(group_by)}: runs of one arm differ in {differences}; add --best-of {keys} to give each "
        f"arm its own best value, --where {one} to keep one value, or --average-over {keys} to count the "
        "mean per seed"
    )


def one_run_factors(grouping: Grouping) -> list[str]:
    """Returns the factors that differ in every counted run, if therefore each arm has only one run."""
    runs = [run for arm in grouping.arms for run in arm.runs]
    if len(runs) < 3 or any(arm.n > 1 for arm in grouping.arms):
        return []
    unnamed = [factor for factor in grouping.factors if factor not in grouping.named]
    return [factor for factor in unnamed if len(set(column(runs, factor))) == len(runs)]


def _values(had: Sequence[Any]) -> str:
    some = ", ".join("nothing" if one is MISSING else yaml_text(one) for one in had[:_MOST_LISTED_VALUES])
    return f"{some} and {len(had) - _MOST_LISTED_VALUES} more" if len(had) > _MOST_LISTED_VALUES else some


def mean_of(arm: Arm, key: str) -> float | None:
    """Returns the mean over the arm's counted runs of any numeric column; None if a run has no finite number."""
    found = [value(run, key) for run in arm.runs]
    if not found or not all(isinstance(one, int | float) and math.isfinite(one) for one in found):
        return None
    return math.fsum(found) / len(found)


def settings_of(arm: Arm, factors: Sequence[str]) -> tuple[str, ...]:
    """Returns the arm's values of `factors` as text, so that arms can be matched by them."""
    return tuple(yaml_text(arm.settings.get(factor)) for factor in factors)


def unequal_factors(arm: Arm, other: Arm, factors: Sequence[str]) -> list[str]:
    """Returns those of `factors` in which two arms differ."""
    return [key for key in factors if yaml_text(arm.settings.get(key)) != yaml_text(other.settings.get(key))]


def is_counted(run: Run, metric: str) -> bool:
    """Returns whether the run is done and has a finite value of `metric`."""
    found = run.metrics.get(metric)
    return run.status == Status.DONE and found is not None and math.isfinite(found)


def images_of(run: Run) -> Hashable:
    """Returns the fingerprint and the number of test images of a run; None if neither was recorded."""
    fingerprint, images = run.facts.get("fingerprint"), run.facts.get("test_images")
    return None if fingerprint is None and images is None else (fingerprint, images)


def parse_settings(text: str) -> list[Condition]:
    """Parses settings such as `model.norm=none,optim.lr=0.1`; a comma without a following `=` belongs to the value."""
    parts: list[str] = []
    for part in text.split(","):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    return [Condition.parse(part) for part in parts]


def matching_arms(arms: Iterable[Arm], conditions: Sequence[Condition]) -> list[Arm]:
    """Returns the arms all of whose runs fulfil every condition."""
    return [
        arm
        for arm in arms
        if all(condition.holds(run) for condition in conditions for run in arm.runs or arm.uncounted)
    ]


def label_of(settings: Mapping[str, Any], factors: Iterable[str] | None = None) -> str:
    """Returns the label of settings, such as `model=lrn optim.lr=0.1`; only of `factors` if they are given."""
    keys = settings if factors is None else [key for key in factors if key in settings]
    return " ".join(f"{key}={yaml_text(settings[key])}" for key in keys)


def check_group(keys: Iterable[str], factors: Sequence[str], option: str) -> None:
    """Raises UserError if one of `keys` is not a factor."""
    for key in keys:
        if key not in factors:
            varied = suggest_name(key, factors) if factors else "the runs differ in no setting"
            raise UserError(f"{option}: {key} does not vary between the arms; {varied}")


def _arm(
    runs: Sequence[Run], settings: dict[str, Any], metric: str, seed_key: str, average_over: Sequence[str] = ()
) -> Arm:
    """Returns the arm of `runs`: the first run of each seed counts, and every run without a seed.

    With `average_over` the value of a seed is the mean over its runs. Raises UserError if these settings do not have
    the same values at every seed.
    """
    done = sorted((run for run in runs if is_counted(run, metric)), key=lambda run: str(run.facts.get("start", "")))
    averaged = list(zip(*(column(done, key) for key in average_over), strict=True)) or [()] * len(done)
    by_seed: dict[Hashable, dict[tuple[Hashable, ...], Run]] = defaultdict(dict)
    repeated = []
    for place, run in enumerate(done):
        seed = seed_of(run, seed_key)
        of_seed = by_seed[("unknown", place) if seed is None else seed]
        if averaged[place] in of_seed:
            repeated.append(run)
        else:
            of_seed[averaged[place]] = run
    if average_over:
        _check_balance(by_seed, average_over, label_of(settings))
    # the seeds in order, then the runs without a seed
    ordered = sorted(by_seed.items(), key=lambda pair: (isinstance(pair[0], tuple), pair[0]))
    values = [math.fsum(run.metrics[metric] for run in of_seed.values()) / len(of_seed) for _, of_seed in ordered]
    sample = Sample.of(values) if values else None
    interval = sample.interval if sample else None
    if interval and is_accuracy(metric):
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    return Arm(
        settings=settings,
        label=label_of(settings) or "all runs",
        runs=[run for _, of_seed in ordered for run in of_seed.values()],
        values=values,
        seeds=[seed if isinstance(seed, int) else None for seed, _ in ordered],
        mean=sample.mean if sample else None,
        sd=sample.sd if sample else None,
        interval=interval,
        uncounted=[run for run in runs if not is_counted(run, metric)],
        repeated=repeated,
    )


def _check_balance(
    by_seed: Mapping[Hashable, Mapping[tuple[Hashable, ...], Run]], keys: Sequence[str], label: str
) -> None:
    """Raises UserError if the means over `keys` would be over different values at different seeds.

    One run per seed, each with a value of its own, is accepted: it is not a sweep of these settings.
    """
    found = [frozenset(of_seed) for of_seed in by_seed.values()]
    if len(set(found)) <= 1 or (all(len(one) == 1 for one in found) and len(set(found)) == len(found)):
        return
    first, other = next((one, other) for one in found for other in found if one != other)
    values = " and ".join(_values([" ".join(map(yaml_text, one)) for one in each]) for each in (first, other))
    raise UserError(
        f"--average-over {','.join(keys)}: {label or 'one arm'} does not have the same values at every "
        f"seed ({values}); use --where to keep values that all seeds have"
    )


def _data_text(images: Hashable) -> str:
    fingerprint, count = images if isinstance(images, tuple) else (None, None)
    return f"{str(fingerprint or 'unknown')[:8]}" + (f" ({count} test images)" if count is not None else "")
