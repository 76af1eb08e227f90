"""Groups runs into arms: runs that differ in nothing but the seed; and names what differs between the arms.

A setting is named as it was typed where the runs record that. The option of a group stands for its own settings:
`model=lrn` against `model=bn` changes a dozen settings and is one difference. Every other one that differs is named.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.compare.result import Arm
from alexnet_exp.compare.select import (
    FACTS,
    GLOBAL_GROUPS,
    KEPT,
    MISSING,
    NOT_SETTINGS,
    Condition,
    decides,
    differing,
    differing_choices,
    frozen,
    is_alias,
    setting,
    value,
)
from alexnet_exp.compare.statistics import Sample
from alexnet_exp.errors import UserError, suggest_name, yaml_text
from alexnet_exp.runs.import_foreign import PERCENT_KEY
from alexnet_exp.runs.metric import is_accuracy
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

(EXPERIMENT,) = GLOBAL_GROUPS
# So many settings of one node that always change together are named one by one; of more, the first stands for all.
TOGETHER = 3
VALUES = 4  # of a setting, in a message
# Where a run computes and lies, not what it computes: the same experiment. Differences in it are reported under
# "Caveats".
PLACEMENT = (
    *("trainer.gpus", "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes"),
    *("trainer.benchmark", "trainer.profiler", "trainer.detect_anomaly", "trainer.num_sanity_val_steps"),
    *("trainer.inference_mode", "trainer.max_time", "data.workers"),
)
# The last parts of keys that other projects give to such settings.
_NAMES = re.compile(r"(.*_)?(run_name|task_name|num_workers|pin_memory|workers)")
_PLACES = re.compile(r"(.*_)?(dir|dirpath|path|folder)")
# Of these keys our configurations know what they are. In a table of another project they are settings or, the last,
# names of runs or of models.
_OURS = ("objective", "checkpoint", "resume", "extras", "logger", "paths", "local")
_OUR_NAMES = ("name", "run_name", "task_name")
_SEEDS = re.compile(r"(.*_)?(seed|random_state)(_.*)?")


@dataclass(frozen=True)
class Factors:
    """What tells arms apart.

    keys: groups and dotted keys, in the order typed; runs that agree in them agree in every setting that makes an arm.
    together: settings that differ but are not in `keys`, under the key with which they always change. partial: settings
    that only some runs recorded, with the same value in all of those; they make no arm. places: second seeds and
    folders (`data.split_seed`, `data_dir`) that differ, with values that several runs share; they make no arm either.
    """

    keys: list[str]
    together: dict[str, list[str]] = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Folded:
    """All arms of some runs, and how they were made.

    data: the images of each arm's runs, by the arm's place; None where nobody recorded them. outside: runs that do not
    count and differ from every run that counts in more than `factors`: they are in no arm. named: keys that were typed
    to tell arms apart.
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


def fold(
    runs: Sequence[Run],
    metric: str,
    *,
    group_by: Sequence[str] = (),
    best_of: Sequence[str] = (),
    average_over: Sequence[str] = (),
    named: Sequence[str] = (),
    seed_key: str = "seed",
) -> Folded:
    """The arms of `runs`, each with its values of `metric`, in the order in which they first appear.

    Factors are found among the runs that count or still run; a failed one adds none, except for a key in `named`.
    group_by: factors, the first; the others may not differ between arms that are equal in these and in those of
    `best_of`. average_over: settings that make no arm: the
    mean over the runs of one seed counts. Runs on different images (the data's fingerprint, the number of test images)
    are never in one arm: where nothing else tells them apart, the fingerprint does.

    Raises UserError where runs of one arm would differ in a setting.
    """
    counted = [counts(run, metric) for run in runs]
    known = [run for run, one in zip(runs, counted, strict=True) if one or run.status == Status.RUNNING]
    if not any(counted):
        known = list(runs)
    found = find_factors(known, seed_key, [*best_of, *average_over])
    factors = list(dict.fromkeys([*group_by, *(best_of if group_by else ()), *found.keys]))
    factors += [
        key
        for key in named
        if key not in factors and len(set(column(known, key))) == 1 and len(set(column(runs, key))) > 1
    ]
    if not group_by:
        factors += [key for key in named if key not in factors and _varies_within(known, key, factors, seed_key)]
    factors = [factor for factor in factors if factor not in average_over]
    outside = _outside(runs, known, factors, seed_key)
    columns = {factor: column(runs, factor) for factor in factors}
    data = [images_of(run) for run in runs]
    groups: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
    for place in range(len(runs)):
        if place not in outside:
            groups[tuple(columns[factor][place] for factor in factors)].append(place)
    pools: list[tuple[list[int], Hashable, bool]] = []
    for places in groups.values():
        known_data = dict.fromkeys(data[place] for place in places if counted[place])
        if len(known_data) <= 1:
            pools.append((places, next(iter(known_data), None), False))
            continue
        # a run that ended before it knew its images goes to the first
        first = next(iter(known_data))
        for one in known_data:
            mine = [p for p in places if data[p] == one or (one == first and data[p] not in known_data)]
            pools.append((mine, one, True))
    split = any(apart for *_, apart in pools)
    arms = []
    for places, images, _ in pools:
        settings = {factor: setting(runs[places[0]], factor) for factor in factors}
        if split:
            settings["fingerprint"] = _data_text(images)
        members = [runs[place] for place in places]
        arms.append(_arm(members, settings, metric, seed_key, average_over))
    if group_by:
        _check_mixture([arm for arm in arms if arm.n], group_by, best_of)
    return Folded(
        arms=arms,
        factors=[*factors, "fingerprint"] if split else factors,
        together=found.together,
        partial=found.partial,
        places=[key for key in found.places if key not in factors],
        data=[images for _, images, _ in pools],
        outside=[runs[place] for place in sorted(outside)],
        averaged=average_over,
        named=[*group_by, *named],
    )


def find_factors(runs: Sequence[Run], seed_key: str = "seed", wanted: Sequence[str] = ()) -> Factors:
    """What tells the arms of `runs` apart: no setting is left out because others happen to determine it.

    First what was typed and varies, then the groups whose option varies, then every other setting that differs. Left
    out are the settings of a group or node that it determines (`model` those of `model.*`), and what `Factors.together`
    and `Factors.partial` name. `experiment` is a bundle of settings over all nodes: it is named where nothing else was
    typed, or where it alone changes more than `TOGETHER` settings; elsewhere they are named. wanted: keys that are
    factors wherever they vary.
    """
    typed = [key for key in _typed(runs) if not _is_no_arm(key, seed_key)]
    typed = [key for key in typed if len(set(column(runs, key))) > 1 and _is_felt(runs, key, seed_key)]
    groups = [
        group
        for group in differing_choices(runs)
        if not _is_no_arm(group, seed_key) and _is_felt(runs, group, seed_key)
    ]
    seeds = column(runs, seed_key)
    varying = differing(runs)
    settings = {key: column(runs, key) for key in varying if not _is_no_arm(key, seed_key)}
    in_table = all(PERCENT_KEY in run.facts and not run.facts.get("overrides") for run in runs)
    unsure = {key: column(runs, key) for key in varying if in_table and key in (*_OURS, *_OUR_NAMES)}
    # as a setting's values do; of a few runs nobody can say
    unsure = {key: had for key, had in unsure.items() if not settings or len(set(had)) <= len(runs) / 2}
    settings |= {key: had for key, had in unsure.items() if key in _OURS}
    # `${seed}` in another setting, or a column that happens to count with the seed: no arms, but it is named
    repeats = [key for key, had in settings.items() if had == seeds]
    settings = {key: had for key, had in settings.items() if key not in repeats}
    if EXPERIMENT not in [*typed, *groups]:
        found = _factors(runs, typed, groups, settings)
    else:
        others = [key for key in typed if key != EXPERIMENT]
        whole = _factors(runs, [EXPERIMENT, *others], groups, settings)
        found = (
            _factors(runs, others, [group for group in groups if group != EXPERIMENT], settings) if others else whole
        )
        if len([key for key in _all(found) if key not in others and key not in _all(whole)]) > TOGETHER:
            found = whole
    keys = [*found.keys, *(key for key in wanted if key not in found.keys and len(set(column(runs, key))) > 1)]
    for key in _OUR_NAMES:
        rest = list(zip(*(column(runs, one) for one in keys), strict=True)) or [()] * len(runs)
        if key in unsure and not decides(rest, unsure[key]) and not is_alias(seeds, unsure[key]):
            keys.append(key)
    # second seeds and folders: mostly they follow the seed, or say where a run lies
    seconds = [key for key in varying if key != seed_key and (key == "seed" or not _is_label(key))]
    of_seeds = [key for key in seconds if _SEEDS.fullmatch(key.rpartition(".")[2])]
    folders = [key for key in seconds if _PLACES.fullmatch(key.rpartition(".")[2])]
    shared = [key for key in [*of_seeds, *folders] if len(set(column(runs, key))) <= len(runs) / 2]
    keys += _repeating(runs, list(dict.fromkeys([*of_seeds, *shared])), keys, seed_key)
    together = found.together | ({seed_key: repeats} if repeats else {})
    return Factors(keys, together, found.partial, [key for key in shared if key not in keys])


def _all(factors: Factors) -> list[str]:
    return [*factors.keys, *(key for others in factors.together.values() for key in others)]


def _factors(
    runs: Sequence[Run], typed: Sequence[str], groups: Sequence[str], settings: Mapping[str, list[Hashable]]
) -> Factors:
    chosen: dict[str, list[Hashable]] = {}

    def is_explained(key: str, had: Sequence[Hashable], *, by_experiment: bool = True) -> bool:
        above = [
            one
            for name, one in chosen.items()
            if name != key and (key.startswith(f"{name.replace('/', '.')}.") or (name == EXPERIMENT and by_experiment))
        ]
        return bool(above) and decides(list(zip(*above, strict=True)), had)

    for key in typed:
        had = column(runs, key)
        # `model=lrn model.norm=lrn`: the group says it already
        if not is_explained(key, had, by_experiment=False):
            chosen[key] = had
    for group in groups:
        had = column(runs, group)
        own = [key for key in settings if key.startswith(f"{group.replace('/', '.')}.") and decides(had, settings[key])]
        if group not in chosen and not is_explained(group, had) and not all(is_explained(k, settings[k]) for k in own):
            chosen[group] = had
    for key in typed:  # a group that was typed after its own setting
        if key in chosen and is_explained(key, chosen[key], by_experiment=False):
            del chosen[key]
    together: dict[str, list[str]] = defaultdict(list)
    for key in typed:
        around = [name for name in chosen if key.startswith(f"{name.replace('/', '.')}.")]
        if key not in chosen and around and _typed_throughout(runs, key, around[0]):
            together[around[0]].append(key)
    partial = []
    recorded = any(run.facts.get("overrides") for run in runs)
    bundles: dict[Hashable, list[str]] = defaultdict(list)
    for key in sorted(settings, key=lambda key: key.count(".")):
        had = settings[key]
        if key in chosen or is_explained(key, had):
            continue
        if len({one for one in had if one is not MISSING}) < 2:
            partial.append(key)
        elif recorded and (same := next((name for name, one in chosen.items() if one == had), None)):
            together[same].append(key)  # a setting that refers to another: `${data.random_crop}`
        else:
            bundles[key.partition(".")[0], _pattern(had)].append(key)
    for bundle in bundles.values():
        for key in bundle:
            if is_explained(key, settings[key]):
                continue
            if len(bundle) > TOGETHER and key != bundle[0]:
                together[bundle[0]].append(key)
            else:
                chosen[key] = settings[key]
    return Factors(list(chosen), dict(together), partial)


def _typed_throughout(runs: Sequence[Run], key: str, group: str) -> bool:
    """Whether some option of the group was never run without this override: its value may not be the option's own."""
    plain = {
        value(run, group)
        for run in runs
        if not any(str(text).lstrip("+~").startswith(f"{key}=") for text in run.facts.get("overrides") or ())
    }
    return any(value(run, group) not in plain for run in runs)


def _varies_within(runs: Sequence[Run], key: str, factors: Sequence[str], seed_key: str) -> bool:
    """Whether runs that agree in the factors differ in a setting or fact, such as the commit."""
    if key == seed_key or key in FACTS or any(key in run.metrics for run in runs):
        return False
    rest = list(zip(*(column(runs, factor) for factor in factors), strict=True)) or [()] * len(runs)
    return not decides(rest, column(runs, key))


def _pattern(had: Sequence[Hashable]) -> tuple[int, ...]:
    """Which runs have equal values, whatever these are: the same for two settings that always change together."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(one, len(numbers)) for one in had)


def _repeating(runs: Sequence[Run], others: Sequence[str], factors: Sequence[str], seed_key: str) -> list[str]:
    """Of `others` those that differ between runs of one arm with one seed: they are settings here."""
    if not others:
        return []
    had = {key: column(runs, key) for key in others}
    columns = [column(runs, factor) for factor in [*factors, seed_key]]
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        if seed_of(run, seed_key) is not None:
            places[tuple(one[place] for one in columns)].append(place)
    repeated = [members for members in places.values() if len(members) > 1]
    return [key for key in others if any(len({had[key][place] for place in members}) > 1 for members in repeated)]


def _outside(runs: Sequence[Run], known: Sequence[Run], factors: Sequence[str], seed_key: str) -> set[int]:
    """The places of runs that do not count and differ from all that do in more than `factors`."""
    if len(known) == len(runs):
        return set()
    others = [key for key in find_factors(runs, seed_key).keys if key not in factors]
    rows = list(zip(*(column(runs, key) for key in others), strict=True)) if others else [()] * len(runs)
    inside = {id(run) for run in known}
    there = {row for row, run in zip(rows, runs, strict=True) if id(run) in inside}
    return {place for place, row in enumerate(rows) if row not in there}


def _check_mixture(arms: Sequence[Arm], group_by: Sequence[str], best_of: Sequence[str]) -> None:
    """Raises UserError where arms that are equal in the settings that were named differ in another one."""
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
    told = ", ".join(f"{key} ({_values(list(had))})" for key, had in mixed.items())
    keys, one = shlex.quote(",".join(mixed)), shlex.quote(f"{next(iter(mixed))}=VALUE")
    raise UserError(
        f"--group-by {','.join(group_by)}: runs of one arm differ in {told}; add --best-of {keys} to give each arm its "
        f"own best value, --where {one} to keep one value, or --average-over {keys} to count the "
        "mean per seed"
    )


def own_arm_each(folded: Folded) -> list[str]:
    """The factors that differ in every run that counts, where that leaves one run in each of several arms."""
    runs = [run for arm in folded.arms for run in arm.runs]
    if len(runs) < 3 or any(arm.n > 1 for arm in folded.arms):
        return []
    unnamed = [factor for factor in folded.factors if factor not in folded.named]
    return [factor for factor in unnamed if len(set(column(runs, factor))) == len(runs)]


def _values(had: Sequence[Any]) -> str:
    some = ", ".join("nothing" if one is MISSING else yaml_text(one) for one in had[:VALUES])
    return f"{some} and {len(had) - VALUES} more" if len(had) > VALUES else some


def counts(run: Run, metric: str) -> bool:
    """Whether the run is done and has a number under `metric`."""
    found = run.metrics.get(metric)
    return run.status == Status.DONE and found is not None and math.isfinite(found)


def column(runs: Sequence[Run], key: str) -> list[Hashable]:
    """What each run has under `key`, as something that can be compared and hashed; KEPT for a node others dropped."""
    had = [frozen(value(run, key)) for run in runs]
    if MISSING in had and None in had:
        kept = [setting(run, key) == KEPT for run in runs]
        return [KEPT if here and one is MISSING else one for here, one in zip(kept, had, strict=True)]
    return had


def images_of(run: Run) -> Hashable:
    """On which images a run's metrics were measured, as far as it says: fingerprint and number of test images."""
    fingerprint, images = run.facts.get("fingerprint"), run.facts.get("test_images")
    return None if fingerprint is None and images is None else (fingerprint, images)


def parse_settings(text: str) -> list[Condition]:
    """`model.norm=none,optim.lr=0.1`: several settings; a comma without a `=` behind it belongs to the value."""
    parts: list[str] = []
    for part in text.split(","):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    return [Condition.parse(part) for part in parts]


def matching(arms: Iterable[Arm], conditions: Sequence[Condition]) -> list[Arm]:
    """The arms all of whose runs fulfil every condition."""
    return [
        arm
        for arm in arms
        if all(condition.holds(run) for condition in conditions for run in arm.runs or arm.uncounted)
    ]


def label_of(settings: Mapping[str, Any], factors: Iterable[str] | None = None) -> str:
    """For people: `model=lrn optim.lr=0.1`. factors: only these."""
    keys = settings if factors is None else [key for key in factors if key in settings]
    return " ".join(f"{key}={yaml_text(settings[key])}" for key in keys)


def check_group(keys: Iterable[str], factors: Sequence[str], option: str) -> None:
    """Raises UserError where one of `keys` does not tell the arms apart."""
    for key in keys:
        if key not in factors:
            varied = suggest_name(key, factors) if factors else "the runs differ in no setting"
            raise UserError(f"{option}: {key} does not vary between the arms; {varied}")


def _arm(
    runs: Sequence[Run], settings: dict[str, Any], metric: str, seed_key: str, average_over: Sequence[str] = ()
) -> Arm:
    """Of runs with one seed the one that was started first counts; runs that do not say their seed all count.

    With `average_over` each seed's value is the mean over its runs, which must have the same values of these settings
    at every seed. Raises UserError where they do not.
    """
    done = sorted((run for run in runs if counts(run, metric)), key=lambda run: str(run.facts.get("start", "")))
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
    # the seeds in order, then the runs that do not say theirs
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
        uncounted=[run for run in runs if not counts(run, metric)],
        repeated=repeated,
    )


def _check_balance(
    by_seed: Mapping[Hashable, Mapping[tuple[Hashable, ...], Run]], keys: Sequence[str], label: str
) -> None:
    """Raises UserError where means over `keys` would be over other values at one seed than at another.

    One run a seed and a value of its own for each run is no sweep of these settings, and passes.
    """
    found = [frozenset(of_seed) for of_seed in by_seed.values()]
    if len(set(found)) <= 1 or (all(len(one) == 1 for one in found) and len(set(found)) == len(found)):
        return
    first, other = next((one, other) for one in found for other in found if one != other)
    told = " and ".join(_values([" ".join(map(yaml_text, one)) for one in each]) for each in (first, other))
    raise UserError(
        f"--average-over {','.join(keys)}: {label or 'one arm'} has not the same values at every seed ({told}); "
        "use --where to keep values that all seeds have"
    )


def seed_of(run: Run, seed_key: str = "seed") -> int | None:
    """The seed, where a whole number was recorded under `seed_key`."""
    seed = run.config.get(seed_key)
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _typed(runs: Sequence[Run]) -> list[str]:
    """The keys of what was typed, in order, without `+` and `~`."""
    keys: dict[str, None] = {}
    seen: set[str] = set()
    for run in runs:
        for text in run.facts.get("overrides") or ():
            if isinstance(text, str) and text not in seen:
                seen.add(text)
                keys[text.partition("=")[0].lstrip("+~").partition("@")[0]] = None
    return list(keys)


def _is_no_arm(key: str, seed_key: str) -> bool:
    """Whether a setting makes no arm, whatever it is: the seed and what repeats it, names, places."""
    last = key.rpartition(".")[2]
    return (
        key == seed_key
        or key in PLACEMENT
        or key in FACTS
        or _is_label(key)
        or bool(_NAMES.fullmatch(last) or _PLACES.fullmatch(last) or _SEEDS.fullmatch(last))
        or key in ("local", "debug/profile")
    )


def _is_label(key: str) -> bool:
    return key in NOT_SETTINGS or key.startswith(tuple(f"{name}." for name in NOT_SETTINGS))


def _is_felt(runs: Sequence[Run], key: str, seed_key: str) -> bool:
    """Whether a group's option changes any setting that makes an arm; a setting always does.

    `trainer=cpu` against `trainer=default` changes only where it computes.
    """
    if not any(key in run.choices for run in runs[:1]):
        return True
    chosen = column(runs, key)
    by_option = dict(zip(chosen, runs, strict=True))
    inside = {
        name
        for run in by_option.values()
        for name in run.config
        if (name.startswith(f"{key}.") or key == "experiment") and not _is_no_arm(name, seed_key)
    }
    return any(len({frozen(run.config.get(name, MISSING)) for run in by_option.values()}) > 1 for name in inside)


def _data_text(images: Hashable) -> str:
    fingerprint, count = images if isinstance(images, tuple) else (None, None)
    return f"{str(fingerprint or 'unknown')[:8]}" + (f" ({count} test images)" if count is not None else "")
