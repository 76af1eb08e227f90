"""Folding runs into arms: runs that differ in nothing but the seed, and what tells one arm from another.

What tells them apart is named as it was typed where the runs say so: `model=lrn` against `model=bn` changes a dozen
settings and is one difference. What else differs without being explained by that is named too, one setting for several
that always change together.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.compare.comparison import Arm
from alexnet_exp.compare.select import MISSING, NOT_SETTINGS, Condition, decides, frozen, setting, value, varying
from alexnet_exp.compare.statistics import Sample
from alexnet_exp.runs.run import DONE, Run
from alexnet_exp.settings import UserError, one_of, shown

EXPERIMENT = "experiment"
# Where a run computes and lies, not what it computes: the same experiment. What differs in it is told under "look out".
PLACEMENT = (
    *("trainer.gpus", "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes"),
    *("trainer.benchmark", "trainer.profiler", "trainer.detect_anomaly", "trainer.num_sanity_val_steps"),
    *("trainer.inference_mode", "trainer.max_time", "data.workers"),
)
# The last parts of keys that other projects give to such settings.
_PLACES = re.compile(r"(.*_)?(dir|dirpath|path|folder|run_name|task_name|num_workers|pin_memory|workers)")
_SEEDS = re.compile(r"(.*_)?(seed|random_state)(_.*)?")


@dataclass(frozen=True)
class Folded:
    """All arms of some runs, and how they were made.

    factors: what tells arms apart, in the order typed. stray: settings that differ inside arms (after --group-by, or
    known to some runs only). data: the images of each arm's runs, by the arm's place; None where nobody recorded them.
    """

    arms: list[Arm]
    factors: list[str]
    stray: dict[str, list[Any]] = field(default_factory=dict)
    data: list[Hashable] = field(default_factory=list)


def fold(runs: Sequence[Run], metric: str, *, group_by: Sequence[str] = (), seed_key: str = "seed") -> Folded:
    """The arms of `runs`, each with its values of `metric`, in the order in which they first appear.

    Runs on different images (the data's fingerprint, the number of test images) are never in one arm: where nothing
    else tells them apart, the fingerprint does.
    """
    factors = list(group_by) or find_factors(runs, seed_key)
    columns = {factor: column(runs, factor) for factor in factors}
    data = [images_of(run) for run in runs]
    counted = [counts(run, metric) for run in runs]
    groups: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
    for place in range(len(runs)):
        groups[tuple(columns[factor][place] for factor in factors)].append(place)
    pools: list[tuple[list[int], Hashable, bool]] = []
    for places in groups.values():
        known = dict.fromkeys(data[place] for place in places if counted[place])
        if len(known) <= 1:
            pools.append((places, next(iter(known), None), False))
            continue
        # a run that ended before it knew its images goes to the first
        first = next(iter(known))
        for one in known:
            mine = [p for p in places if data[p] == one or (one == first and data[p] not in known)]
            pools.append((mine, one, True))
    split = any(apart for *_, apart in pools)
    arms = []
    for places, images, _ in pools:
        settings = {factor: setting(runs[places[0]], factor) for factor in factors}
        if split:
            settings["fingerprint"] = _data_text(images)
        arms.append(_arm([runs[place] for place in places], settings, metric, seed_key))
    kept = [*factors, "fingerprint"] if split else factors
    stray = _stray(runs, [places for places, *_ in pools], bool(group_by), seed_key)
    return Folded(arms, kept, stray, [images for _, images, _ in pools])


def find_factors(runs: Sequence[Run], seed_key: str = "seed") -> list[str]:
    """What tells arms apart: groups and dotted keys.

    First what was typed and varies; then, of what still differs, the settings that these do not decide. A setting that
    some runs do not have, and that is the same in the others, came with another version of the code: it makes no arm.
    """
    candidates = [key for key in varying(runs) if not _is_no_arm(key, seed_key) and _is_felt(runs, key, seed_key)]
    typed = [key for key in _typed(runs) if not _is_no_arm(key, seed_key)]
    typed = [
        key for key in typed if len(set(column(runs, key))) > 1 and (key in candidates or _is_felt(runs, key, seed_key))
    ]
    if len(typed) > 1 and EXPERIMENT in typed:
        # a bundle of settings: where others were typed beside it, these and what still differs tell the arms apart
        typed.remove(EXPERIMENT)
        candidates = [key for key in candidates if key != EXPERIMENT]
    chosen: list[str] = []
    joint: list[Hashable] = [()] * len(runs)
    for key in typed:
        had = column(runs, key)
        # `model=lrn model.norm=lrn`: the group says it already
        group = next((other for other in chosen if key.startswith(f"{other}.")), None)
        if group is not None and decides(column(runs, group), had):
            continue
        chosen.append(key)
        joint = list(zip(joint, had, strict=True))
    groups = {key for run in runs[:1] for key in run.choices}
    rest = [key for key in candidates if key not in chosen]
    for key in sorted(rest, key=lambda key: (key not in groups, key.count("."), len(key))):
        had = column(runs, key)
        if decides(joint, had) or (key not in groups and len({one for one in had if one is not MISSING}) < 2):
            continue
        chosen.append(key)
        joint = list(zip(joint, had, strict=True))
    # a group that was typed after its own setting
    return [
        key
        for key in chosen
        if not any(key.startswith(f"{g}.") and decides(column(runs, g), column(runs, key)) for g in chosen)
    ]


def counts(run: Run, metric: str) -> bool:
    """Whether the run is done and has a number under `metric`."""
    found = run.metrics.get(metric)
    return run.status == DONE and found is not None and math.isfinite(found)


def column(runs: Sequence[Run], key: str) -> list[Hashable]:
    """What each run has under `key`, as something that can be compared and hashed."""
    return [frozen(value(run, key)) for run in runs]


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
    return " ".join(f"{key}={shown(settings[key])}" for key in keys)


def check_group(keys: Iterable[str], factors: Sequence[str], option: str) -> None:
    """Raises UserError where one of `keys` does not tell the arms apart."""
    for key in keys:
        if key not in factors:
            varied = one_of(key, factors) if factors else "the runs differ in no setting"
            raise UserError(f"{option}: {key} does not vary between the arms; {varied}")


def _arm(runs: Sequence[Run], settings: dict[str, Any], metric: str, seed_key: str) -> Arm:
    """Of each seed the run that ended first counts; runs that do not say their seed all count."""
    done = sorted(
        (run for run in runs if counts(run, metric)), key=lambda run: (str(run.facts.get("end", "")), run.name)
    )
    first: dict[Hashable, Run] = {}
    repeated = []
    for place, run in enumerate(done):
        seed = seed_of(run, seed_key)
        key: Hashable = ("unknown", place) if seed is None else seed
        if key in first:
            repeated.append(run)
        else:
            first[key] = run
    counted = sorted(first.values(), key=lambda run: (seed_of(run, seed_key) is None, seed_of(run, seed_key) or 0))
    values = [run.metrics[metric] for run in counted]
    sample = Sample.of(values) if values else None
    return Arm(
        settings=settings,
        label=label_of(settings) or "all runs",
        runs=counted,
        values=values,
        seeds=[seed_of(run, seed_key) for run in counted],
        mean=sample.mean if sample else None,
        sd=sample.sd if sample else None,
        interval=sample.interval if sample else None,
        uncounted=[run for run in runs if not counts(run, metric)],
        repeated=repeated,
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
        or key in NOT_SETTINGS
        or key.startswith(tuple(f"{name}." for name in NOT_SETTINGS))
        or bool(_PLACES.fullmatch(last) or _SEEDS.fullmatch(last))
        or key in ("local", "debug/profile")
    )


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


def _stray(runs: Sequence[Run], pools: Sequence[Sequence[int]], grouped: bool, seed_key: str) -> dict[str, list[Any]]:
    """Settings with several values inside one arm, and these values."""
    if not grouped:
        return {}
    keys = [key for key in varying(runs) if not _is_no_arm(key, seed_key)]
    found: dict[str, list[Any]] = {}
    for key in keys:
        had = column(runs, key)
        mixed = {had[place] for places in pools if len({had[p] for p in places}) > 1 for place in places}
        if mixed:
            found[key] = sorted(mixed, key=str)
    return found


def _data_text(images: Hashable) -> str:
    fingerprint, count = images if isinstance(images, tuple) else (None, None)
    return f"{str(fingerprint or 'unknown')[:8]}" + (f" ({count} test images)" if count is not None else "")
