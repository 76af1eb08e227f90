"""Lists the caveats of a comparison, one line each, the most serious first."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from alexnet_exp.compare.arms import Grouping, one_run_factors
from alexnet_exp.compare.factors import PLACEMENT_SETTINGS
from alexnet_exp.compare.paper_claim_status import read_claims
from alexnet_exp.compare.result import Arm
from alexnet_exp.compare.select import as_hashable, determines, is_alias, statuses_text, value
from alexnet_exp.compare.statistics import REPEATED_TEST_PERCENT
from alexnet_exp.errors import Refused, yaml_text
from alexnet_exp.runs.import_foreign import PERCENT_KEY
from alexnet_exp.runs.metric import label
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import SweepPlan

_MOST_LISTED = 4  # values or arms of one line
# Facts that should be equal in all runs: key, name, and the settings that change the fact intentionally.
_COMPARED_FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("commit", "the code's commit", ()),
    ("device", "the device", ("trainer",)),
    ("precision", "the precision", ("trainer", "trainer.precision")),
    ("kernels", "the native kernels", ("trainer", "trainer.precision", "trainer.compile", "trainer.channels_last")),
    ("ranks", "the number of processes", ("trainer",)),
    ("host", "the host", ()),
    ("effective_batch", "the effective batch", ("data.batch_size", "trainer.accumulate_grad_batches", "experiment")),
    ("deterministic", "whether computation was deterministic", ("trainer.deterministic",)),
    ("tested", "the tested checkpoint", ("test.checkpoint", "experiment")),
)
# facts that differ between any two runs, so not the reason why a seed was run again
_RUN_SPECIFIC = ("name", "choices", "overrides", "versions", "start", "end", "pid", "metrics_file", PERCENT_KEY)
_BATCH_PAUSE = timedelta(hours=1)  # a longer pause between runs started one by one begins a new batch


def find_caveats(grouping: Grouping, arms: Sequence[Arm], metric: str) -> list[str]:
    """Returns the caveats about `arms`, the printed ones of `grouping`."""
    return [
        *_data(grouping, arms),
        *(line for fact in _COMPARED_FACTS for line in _fact(arms, grouping.factors, *fact)),
        *_versions(arms),
        *_dirty(arms),
        *_placement(arms, grouping.places),
        *_settings(grouping),
        *_uncounted(arms, metric),
        *_outside(grouping),
        *_repeated(arms),
        *_mixed(arms),
        *_seeds(arms),
        *_batches(arms),
        *_claims(arms),
    ]


def _data(grouping: Grouping, arms: Sequence[Arm]) -> list[str]:
    by_arm = {id(arm): images for arm, images in zip(grouping.arms, grouping.data, strict=True)}
    seen: dict[Hashable, list[Arm]] = {}
    for arm in arms:
        if arm.n and id(arm) in by_arm:
            seen.setdefault(by_arm[id(arm)], []).append(arm)
    if len(seen) < 2:
        return []
    parts = [f"{_images(images)}: {_listed(one.label for one in these)}" for images, these in seen.items()]
    return [f"runs on different data are not pooled and not compared with each other: {_listed(parts, '; ')}"]


def _images(images: Hashable) -> str:
    fingerprint, count = images if isinstance(images, tuple) else (None, None)
    name = f"data {str(fingerprint)[:8]}" if fingerprint else "data without a fingerprint"
    return name + (f", {count} test images" if count is not None else "")


def _fact(arms: Sequence[Arm], factors: Sequence[str], key: str, name: str, on_purpose: Sequence[str]) -> list[str]:
    if set(on_purpose) & set(factors):
        return []
    return _differs(arms, name, lambda run: run.facts.get(key), short=10 if key == "commit" else None)


def _versions(arms: Sequence[Arm]) -> list[str]:
    packages = {name for arm in arms for run in arm.runs for name in _mapping(run.facts.get("versions"))}
    return [
        line
        for package in sorted(packages)
        for line in _differs(arms, f"the version of {package}", lambda run, p=package: _version(run, p))  # type: ignore[misc]
    ]


def _placement(arms: Sequence[Arm], places: Sequence[str]) -> list[str]:
    # Devices, ranks and hosts are compared as facts.
    keys = [key for key in PLACEMENT_SETTINGS if key not in ("trainer.gpus", "trainer.accelerator", "trainer.devices")]
    lines = [line for key in keys for line in _differs(arms, key, lambda run, k=key: run.config.get(k))]  # type: ignore[misc]
    runs = [(place, run) for place, arm in enumerate(arms) for run in arm.runs]
    for key in places:
        if determines([place for place, _ in runs], [as_hashable(run.config.get(key)) for _, run in runs]):
            lines += _differs(arms, key, lambda run, k=key: run.config.get(k))  # type: ignore[misc]
    return lines


def _differs(arms: Sequence[Arm], name: str, of: Callable[[Run], Any], short: int | None = None) -> list[str]:
    """Returns one line if `of` differs between counted runs; its wording depends on whether the arm determines it."""
    places = [(place, run) for place, arm in enumerate(arms) for run in arm.runs]
    raw = [of(run) for _, run in places]
    if all(one == raw[0] for one in raw):
        return []
    had = [as_hashable(one) for one in raw]

    def text(one: Hashable) -> str:
        return "unknown" if one is None else yaml_text(one)[:short]

    counted = Counter(had)
    if len(arms) > 1 and determines([place for place, _ in places], had):
        by_value: dict[Hashable, list[str]] = {}
        for (place, _), one in zip(places, had, strict=True):
            if arms[place].label not in by_value.setdefault(one, []):
                by_value[one].append(arms[place].label)
        parts = [f"{text(one)} for {_listed(labels)}" for one, labels in by_value.items()]
        return [f"{name} differs between the arms, which may be the cause of the difference: {_listed(parts, '; ')}"]
    parts = [f"{text(one)} ({times} run{'' if times == 1 else 's'})" for one, times in counted.most_common()]
    return [f"{name} differs: {_listed(parts)}"]


def _dirty(arms: Sequence[Arm]) -> list[str]:
    dirty = [run for arm in arms for run in arm.runs if run.facts.get("dirty")]
    runs = sum(arm.n for arm in arms)
    if not dirty:
        return []
    which = "all runs" if len(dirty) == runs else f"{len(dirty)} of {runs} runs ({_listed(run.name for run in dirty)})"
    return [f"uncommitted changes in the code of {which}: see code.patch in their folders"]


def _settings(grouping: Grouping) -> list[str]:
    """Returns lines about settings that differ and are not a factor."""
    lines = [
        f"{key} never changes alone: {_listed(others)} change{'s' if len(others) == 1 else ''} with it"
        for key, others in grouping.together.items()
    ]
    if grouping.partial:
        lines.append(f"only some runs recorded {_listed(grouping.partial)} (another version of the code?)")
    if grouping.averaged:
        lines.append(f"{_listed(grouping.averaged)} makes no arms; the value of a seed is the mean over its runs")
    keys = one_run_factors(grouping)
    if keys:
        lines.append(
            f"{_listed(keys)} differs in every run, so each run is an arm of its own; "
            f"if it is not a setting, add --average-over {shlex.quote(','.join(keys))}"
        )
    return lines


def _outside(grouping: Grouping) -> list[str]:
    if not grouping.outside:
        return []
    names = _listed(run.name for run in grouping.outside)
    statuses = statuses_text(run.status for run in grouping.outside)
    return [f"runs in no arm, not counted and with other settings: {statuses} ({names})"]


def _uncounted(arms: Sequence[Arm], metric: str) -> list[str]:
    lines = []
    for arm in arms:
        if arm.uncounted:
            lines.append(f"{arm.label}: {_uncounted_text(arm.uncounted, metric)}, not counted")
    if len(lines) > _MOST_LISTED:
        runs = [run for arm in arms for run in arm.uncounted]
        return [f"not counted in {len(lines)} arms: {_uncounted_text(runs, metric)}"]
    return lines


def _uncounted_text(runs: Iterable[Run], metric: str) -> str:
    return statuses_text(run.status if run.status != Status.DONE else f"done without {label(metric)}" for run in runs)


def _repeated(arms: Sequence[Arm]) -> list[str]:
    lines = []
    for arm in arms:
        if arm.repeated:
            seeds = sorted({str(run.config.get("seed")) for run in arm.repeated})
            lines.append(f"{arm.label}: seed {_listed(seeds)} ran more than once; the run started first counts")
    if len(lines) > _MOST_LISTED:
        return [f"in {len(lines)} arms a seed ran more than once; the run started first counts"]
    return lines


def _mixed(arms: Sequence[Arm]) -> list[str]:
    """Returns a line about columns that differ within an arm and may be settings.

    Only tables of other projects and arms with repeated seeds are checked, for texts, integers and booleans whose
    values are shared by several runs and do not follow the seed.
    """
    found: dict[str, None] = {}
    for arm in arms:
        runs = [*arm.runs, *arm.repeated]
        if not arm.repeated and any(PERCENT_KEY not in run.facts or run.facts.get("overrides") for run in runs):
            continue
        seeds = [run.config.get("seed") for run in runs]
        for key in dict.fromkeys(key for run in runs for key in (*run.config, *run.facts) if key not in _RUN_SPECIFIC):
            had = [as_hashable(value(run, key)) for run in runs]
            if 1 < len(set(had)) <= len(runs) / 2 and not any(isinstance(one, float) for one in had):
                found |= {} if is_alias(seeds, had) else {key: None}
    if not found:
        return []
    s = "s" if len(found) == 1 else ""
    return [f"{_listed(found)} differ{s} within an arm and make{s} no arms; use --group-by KEY to make arms of them"]


def _seeds(arms: Sequence[Arm]) -> list[str]:
    counted = [arm for arm in arms if arm.n]
    lines = []
    unknown = sum(seed is None for arm in counted for seed in arm.seeds)
    if unknown and any(arm.n > 1 for arm in counted):
        lines.append(
            f"{unknown} run{'' if unknown == 1 else 's'} did not record a seed; each counts as a seed of its own"
        )
    used: dict[tuple[int | None, ...], list[str]] = {}
    for arm in counted:
        used.setdefault(tuple(arm.seeds), []).append(arm.label)
    if len(used) > 1 and not unknown and any(arm.n > 1 for arm in counted):
        # The least common seeds come first, because only some of many arms are listed.
        parts = [
            f"{_listed(labels)} {_ranges([seed for seed in seeds if seed is not None])}"
            for seeds, labels in sorted(used.items(), key=lambda pair: len(pair[1]))
        ]
        lines.append(f"the arms have different seeds: {_listed(parts, '; ')}")
    return lines


def _batches(arms: Sequence[Arm]) -> list[str]:
    """Returns a line about seeds added in batches, since adding seeds until a result appears raises the false rate."""
    lines = []
    for arm in arms:
        parts = [_ranges([seed for run in batch if (seed := run.seed) is not None]) for batch in _batched(arm.runs)]
        if len(parts) > 1:
            lines.append(f"{arm.label} ({_listed((part or 'unknown' for part in parts), ', then ')})")
    if not lines:
        return []
    return [
        f"seeds were added in several batches: {_listed(lines, '; ')}. If they were added because of the first "
        f"results, a false verdict occurs in {REPEATED_TEST_PERCENT} of 100 cases (simulated) instead of 5"
    ]


def _batched(runs: Sequence[Run]) -> list[list[Run]]:
    """Returns the runs by sweep folder, and runs started one by one by the pauses between them, the earliest first."""
    by_sweep: dict[Path | None, list[Run]] = {}
    for run in runs:
        sweep = run.path.parent if _is_sweep(run) else None
        by_sweep.setdefault(sweep, []).append(run)
    batches: list[list[Run]] = []
    for sweep, members in by_sweep.items():
        timed = sorted(
            ((time, run) for run in members if (time := _time(run, "start")) is not None), key=lambda pair: pair[0]
        )
        if sweep is not None or len(timed) < len(members):
            batches.append(members)
            continue
        last: datetime | None = None
        for start, run in timed:
            if last is None or start - last > _BATCH_PAUSE:
                batches.append([])
            batches[-1].append(run)
            last = max(_time(run, "end") or start, last or start)
    return sorted(batches, key=lambda batch: min(str(run.facts.get("start", "")) for run in batch))


_sweeps: dict[Path, bool] = {}


def _is_sweep(run: Run) -> bool:
    parent = run.path.parent
    if parent not in _sweeps:
        _sweeps[parent] = SweepPlan.is_in(parent) or (parent / "multirun.yaml").is_file()
    return _sweeps[parent]


def _time(run: Run, key: str) -> datetime | None:
    try:
        return datetime.fromisoformat(str(run.facts.get(key)))
    except ValueError:
        return None


def _claims(arms: Sequence[Arm]) -> list[str]:
    lines = []
    for arm in arms:
        try:
            for run in arm.runs[:1]:
                read_claims(run)
        except Refused as refused:
            lines.append(f"{arm.label}: not shown, because {'; '.join(map(str, refused.problems))}")
    return lines


def _version(run: Run, package: str) -> Any:
    return _mapping(run.facts.get("versions")).get(package)


def _mapping(had: Any) -> dict[str, Any]:
    return had if isinstance(had, dict) else {}


def _listed(parts: Iterable[str], between: str = ", ") -> str:
    every = list(parts)
    if len(every) <= _MOST_LISTED:
        return between.join(every)
    return between.join(every[: _MOST_LISTED - 1]) + f"{between}and {len(every) - _MOST_LISTED + 1} more"


def _ranges(seeds: Sequence[int]) -> str:
    """Returns the seeds as ranges: `1-5, 7` for 1, 2, 3, 4, 5 and 7."""
    parts: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
