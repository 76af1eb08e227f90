"""Finds the factors of some runs: the settings and options that distinguish arms.

A setting is named by its override if the runs record overrides. The option of a group stands for the settings that it
determines: `model=lrn` against `model=bn` changes a dozen settings and is one factor. Every other setting that differs
is a factor.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from alexnet_exp.compare.select import (
    FACT_COLUMNS,
    GLOBAL_GROUPS,
    KEPT_NODE,
    MISSING,
    NOT_SETTINGS,
    as_hashable,
    determines,
    differing_options,
    differing_settings,
    is_alias,
    seed_of,
    setting,
    value,
)
from alexnet_exp.runs.import_foreign import PERCENT_KEY
from alexnet_exp.runs.run import Run

(EXPERIMENT,) = GLOBAL_GROUPS
# Up to this many settings of one node that always change together are named one by one; the first stands for more.
MOST_NAMED_TOGETHER = 3
# Settings of where a run is computed: they make no arm, and differences in them are caveats.
PLACEMENT_SETTINGS = (
    *("trainer.gpus", "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes"),
    *("trainer.benchmark", "trainer.profiler", "trainer.detect_anomaly", "trainer.num_sanity_val_steps"),
    *("trainer.inference_mode", "trainer.max_time", "data.workers"),
)
# The last parts of the keys of such settings in other projects.
_RUN_NAMES = re.compile(r"(.*_)?(run_name|task_name|num_workers|pin_memory|workers)")
_FOLDER_NAMES = re.compile(r"(.*_)?(dir|dirpath|path|folder)")
# Keys with a known meaning in our configurations. In a table of another project the first are settings, and the second
# are names of runs or of models.
_OWN_SETTINGS = ("objective", "checkpoint", "resume", "extras", "logger", "paths", "local")
_OWN_NAMES = ("name", "run_name", "task_name")
_SEED_NAMES = re.compile(r"(.*_)?(seed|random_state)(_.*)?")


@dataclass(frozen=True)
class Factors:
    """The settings that distinguish arms.

    keys: groups and dotted keys in the order of the command line; runs with equal values of these have equal values of
    every setting that makes an arm. together: settings that differ but are not in `keys`, by the key with which they
    always change. partial: settings that only some runs recorded, all with the same value; they make no arm. places:
    second seeds and folders (`data.split_seed`, `data_dir`) whose values are shared by several runs; they make no arm.
    """

    keys: list[str]
    together: dict[str, list[str]] = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


def find_factors(runs: Sequence[Run], seed_key: str = "seed", wanted: Sequence[str] = ()) -> Factors:
    """Returns the factors of `runs`. A setting is included even if other settings happen to determine it.

    The order is: overrides that vary, groups whose option varies, every other setting that differs. Excluded are
    settings that their group or node determines (`model` those of `model.*`), and those in `Factors.together` and
    `Factors.partial`. `experiment` sets values in all nodes: it is a factor if there are no other overrides, or if it
    alone changes more than `MOST_NAMED_TOGETHER` settings; otherwise these settings are. wanted: keys that are factors
    whenever they vary.
    """
    typed = [key for key in _override_keys(runs) if not _is_ignored(key, seed_key)]
    typed = [key for key in typed if len(set(column(runs, key))) > 1 and _has_effect(runs, key, seed_key)]
    groups = [
        group
        for group in differing_options(runs)
        if not _is_ignored(group, seed_key) and _has_effect(runs, group, seed_key)
    ]
    seeds = column(runs, seed_key)
    varying = differing_settings(runs)
    settings = {key: column(runs, key) for key in varying if not _is_ignored(key, seed_key)}
    in_table = all(PERCENT_KEY in run.facts and not run.facts.get("overrides") for run in runs)
    unsure = {key: column(runs, key) for key in varying if in_table and key in (*_OWN_SETTINGS, *_OWN_NAMES)}
    # A column counts as a setting only if several runs share its values; a few runs do not show that.
    unsure = {key: had for key, had in unsure.items() if not settings or len(set(had)) <= len(runs) / 2}
    settings |= {key: had for key, had in unsure.items() if key in _OWN_SETTINGS}
    # `${seed}` in another setting, or a column that counts with the seed, makes no arms, but is reported.
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
        if len([key for key in _all(found) if key not in others and key not in _all(whole)]) > MOST_NAMED_TOGETHER:
            found = whole
    keys = [*found.keys, *(key for key in wanted if key not in found.keys and len(set(column(runs, key))) > 1)]
    for key in _OWN_NAMES:
        rest = list(zip(*(column(runs, one) for one in keys), strict=True)) or [()] * len(runs)
        if key in unsure and not determines(rest, unsure[key]) and not is_alias(seeds, unsure[key]):
            keys.append(key)
    # Second seeds and folders usually follow the seed or are locations of a run.
    seconds = [key for key in varying if key != seed_key and (key == "seed" or not _is_label(key))]
    of_seeds = [key for key in seconds if _SEED_NAMES.fullmatch(key.rpartition(".")[2])]
    folders = [key for key in seconds if _FOLDER_NAMES.fullmatch(key.rpartition(".")[2])]
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
        return bool(above) and determines(list(zip(*above, strict=True)), had)

    for key in typed:
        had = column(runs, key)
        # in `model=lrn model.norm=lrn` the group determines the setting
        if not is_explained(key, had, by_experiment=False):
            chosen[key] = had
    for group in groups:
        had = column(runs, group)
        own = [
            key for key in settings if key.startswith(f"{group.replace('/', '.')}.") and determines(had, settings[key])
        ]
        if group not in chosen and not is_explained(group, had) and not all(is_explained(k, settings[k]) for k in own):
            chosen[group] = had
    for key in typed:  # a group whose override follows that of its own setting
        if key in chosen and is_explained(key, chosen[key], by_experiment=False):
            del chosen[key]
    together: dict[str, list[str]] = defaultdict(list)
    for key in typed:
        around = [name for name in chosen if key.startswith(f"{name.replace('/', '.')}.")]
        if key not in chosen and around and _is_always_overridden(runs, key, around[0]):
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
            together[same].append(key)  # a setting that refers to another, such as `${data.random_crop}`
        else:
            bundles[key.partition(".")[0], _pattern(had)].append(key)
    for bundle in bundles.values():
        for key in bundle:
            if is_explained(key, settings[key]):
                continue
            if len(bundle) > MOST_NAMED_TOGETHER and key != bundle[0]:
                together[bundle[0]].append(key)
            else:
                chosen[key] = settings[key]
    return Factors(list(chosen), dict(together), partial)


def _is_always_overridden(runs: Sequence[Run], key: str, group: str) -> bool:
    """Returns whether an option of the group always occurs with this override, whose value may not be the option's."""
    plain = {
        value(run, group)
        for run in runs
        if not any(str(text).lstrip("+~").startswith(f"{key}=") for text in run.facts.get("overrides") or ())
    }
    return any(value(run, group) not in plain for run in runs)


def _pattern(had: Sequence[Hashable]) -> tuple[int, ...]:
    """Returns which runs have equal values; it is the same for two settings that always change together."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(one, len(numbers)) for one in had)


def _repeating(runs: Sequence[Run], others: Sequence[str], factors: Sequence[str], seed_key: str) -> list[str]:
    """Returns those of `others` that differ between runs of one arm and one seed, and so are settings."""
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


def column(runs: Sequence[Run], key: str) -> list[Hashable]:
    """Returns the value of `key` of each run as a hashable; KEPT_NODE for a node that other runs removed."""
    had = [as_hashable(value(run, key)) for run in runs]
    if MISSING in had and None in had:
        kept = [setting(run, key) == KEPT_NODE for run in runs]
        return [KEPT_NODE if here and one is MISSING else one for here, one in zip(kept, had, strict=True)]
    return had


def _override_keys(runs: Sequence[Run]) -> list[str]:
    """Returns the keys of the overrides in order, without `+` and `~`."""
    keys: dict[str, None] = {}
    seen: set[str] = set()
    for run in runs:
        for text in run.facts.get("overrides") or ():
            if isinstance(text, str) and text not in seen:
                seen.add(text)
                keys[text.partition("=")[0].lstrip("+~").partition("@")[0]] = None
    return list(keys)


def _is_ignored(key: str, seed_key: str) -> bool:
    """Returns whether a setting never makes an arm: seeds, names, folders, places of computation."""
    last = key.rpartition(".")[2]
    return (
        key == seed_key
        or key in PLACEMENT_SETTINGS
        or key in FACT_COLUMNS
        or _is_label(key)
        or bool(_RUN_NAMES.fullmatch(last) or _FOLDER_NAMES.fullmatch(last) or _SEED_NAMES.fullmatch(last))
        or key in ("local", "debug/profile")
    )


def _is_label(key: str) -> bool:
    return key in NOT_SETTINGS or key.startswith(tuple(f"{name}." for name in NOT_SETTINGS))


def _has_effect(runs: Sequence[Run], key: str, seed_key: str) -> bool:
    """Returns whether the option of a group changes a setting that makes an arm; True for a setting.

    `trainer=cpu` against `trainer=default` changes only where the run is computed.
    """
    if not any(key in run.choices for run in runs[:1]):
        return True
    chosen = column(runs, key)
    by_option = dict(zip(chosen, runs, strict=True))
    inside = {
        name
        for run in by_option.values()
        for name in run.config
        if (name.startswith(f"{key}.") or key == "experiment") and not _is_ignored(name, seed_key)
    }
    return any(len({as_hashable(run.config.get(name, MISSING)) for run in by_option.values()}) > 1 for name in inside)
