"""Sweeps with a known truth: what each setting adds, confounded arms, grids with gaps; and questions about them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from alexnet_exp.compare.compare import compare
from alexnet_exp.compare.options import CompareOptions
from alexnet_exp.compare.result import Comparison, Difference, Verdict
from alexnet_exp.errors import UserError
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

Arm = dict[str, Any]  # the settings of one, under dotted keys

SETTINGS: dict[str, tuple[Any, ...]] = {
    "model.norm": ("lrn", "bn", "none"),
    "model.dropout": (0.5, 0.0),
    "optim.lr": (0.1, 0.03, 0.01),
    "optim.momentum": (0.9, 0.95),
    "data.crop": (True, False),
    "schedule.warmup": (0, 5),
}
# what the options of the group `model` set; "own" is a bundle that no single key of it tells from "bn"
MODELS: dict[str, Arm] = {
    "lrn": {"model.norm": "lrn", "model.dropout": 0.5},
    "bn": {"model.norm": "bn", "model.dropout": 0.5},
    "own": {"model.norm": "bn", "model.dropout": 0.0},
}
DEFAULT: Arm = {key: values[0] for key, values in SETTINGS.items()}
NOISE = 0.005  # sd over seeds
MARGIN = 0.004


@dataclass(frozen=True)
class Sweep:
    """runs, what each value of each setting adds to the metric, and how the runs are compared."""

    runs: list[Run]
    effects: Mapping[str, Mapping[Any, float]]
    question: Mapping[str, Any]

    def truth(self, arm: Sequence[Run], baseline: Sequence[Run], keys: set[str]) -> float:
        """How much better the arm is than the baseline on account of `keys`, whatever else differs between the two."""

        def mean(runs: Sequence[Run]) -> float:
            return sum(self.effects[key][run.config[key]] for key in keys for run in runs) / len(runs)

        return mean(arm) - mean(baseline)


@dataclass
class Count:
    """sweeps: tried; refused: of these. verdicts: better, worse or no difference; wrong: of these.

    families: sweeps with a wrong verdict, missed: sweeps with an interval that does not hold the truth; each sweep's
    verdicts and intervals are held to 5% together. hidden: a line for each difference between two arms that also
    differ in a setting that the comparison does not name.
    """

    sweeps: int = 0
    refused: int = 0
    differences: int = 0
    verdicts: int = 0
    wrong: int = 0
    families: int = 0
    missed: int = 0
    hidden: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Sweeps that got an answer."""
        return self.sweeps - self.refused


def generated(number: int) -> Sweep:
    """The same sweep for the same number."""
    chance = random.Random(number)
    effects = {}
    for key, values in SETTINGS.items():
        size = chance.choice((0.0, 0.0, 0.005, 0.02, 0.05))
        effects[key] = {value: size * place * chance.choice((1, -1)) for place, value in enumerate(values)}
    record = chance.choice((_row, _typed, _of_experiment, _of_group))
    arms = _arms(chance, with_models=record is _of_group)
    runs = []
    for place, arm in enumerate(arms):
        spread = NOISE * chance.uniform(0.8, 1.25)
        top = 0.7 + sum(effects[key][value] for key, value in arm.items())
        for seed in range(1, chance.choice((3, 4, 5, 8)) + 1):
            # noise of its own for val: what --best-of chooses by tells nothing of the test but the truth
            metrics = {f"{split}/top1": top + chance.gauss(0, spread) for split in ("val", "test")}
            runs.append(record(arm, seed, metrics, f"{place}-{seed}", chance))
    chance.shuffle(runs)
    return Sweep(runs, effects, _question(chance, runs))


def tried(numbers: Sequence[int], *, known: Sequence[str] = tuple(CompareOptions.__dataclass_fields__)) -> Count:
    """Compares these sweeps and counts what contradicts the truth. known: the options that are passed on."""
    count = Count()
    for number in numbers:
        sweep = generated(number)
        count.sweeps += 1
        try:
            found = compare(
                sweep.runs, CompareOptions(**{key: had for key, had in sweep.question.items() if key in known})
            )
        except UserError:
            count.refused += 1
            continue
        count.differences += len(found.differences)
        wrong, missed = 0, False
        for difference in found.differences:
            if missing := _unnamed(found, difference):
                count.hidden.append(f"{number}: {', '.join(sorted(missing))} ({found.sentence})")
            truth = _truth(sweep, difference)
            if difference.interval is not None:
                missed |= not difference.interval[0] - 1e-9 <= truth <= difference.interval[1] + 1e-9
            if difference.verdict is not Verdict.inconclusive:
                count.verdicts += 1
                wrong += _contradicts(difference, truth)
        count.wrong += wrong
        count.families += wrong > 0
        count.missed += missed
    return count


def _arms(chance: random.Random, *, with_models: bool) -> list[Arm]:
    """Two to a dozen different arms: a grid, one with gaps, one change at a time, anything, or changes in lockstep."""
    keys = chance.sample(
        [key for key in SETTINGS if not (with_models and key.startswith("model."))], chance.randint(2, 3)
    )
    axes: list[list[Arm]] = [
        [{key: value} for value in SETTINGS[key][: chance.randint(2, len(SETTINGS[key]))]] for key in keys
    ]
    if with_models:
        axes[0] = [MODELS[name] for name in chance.sample(list(MODELS), chance.randint(2, 3))]
    shape = chance.choice(("grid", "gaps", "one by one", "anything", "lockstep"))
    grid = [{**DEFAULT, **{key: had for part in parts for key, had in part.items()}} for parts in product(*axes)]
    if shape == "gaps":
        grid = chance.sample(grid, max(2, round(len(grid) * 0.6)))
    elif shape == "one by one":
        # each at a rate of its own, as after a search for the best one
        grid = [{**DEFAULT, **axis[-1], "optim.lr": chance.choice(SETTINGS["optim.lr"])} for axis in axes] + [DEFAULT]
    elif shape == "anything":
        other = [key for key in SETTINGS if not (with_models and key.startswith("model."))]
        models = list(MODELS.values()) if with_models else [{}]
        grid = [
            {**{key: chance.choice(values) if key in other else values[0] for key, values in SETTINGS.items()}, **model}
            for model in (chance.choice(models) for _ in range(chance.randint(2, 6)))
        ]
    elif shape == "lockstep":
        grid = [
            {**DEFAULT, **{k: v for axis in axes for k, v in axis[place % len(axis)].items()}} for place in range(3)
        ]
    different = list({repr(arm): arm for arm in grid}.values())
    return different if len(different) > 1 else [*different, {**different[0], "schedule.warmup": 7 - 2}]


def _question(chance: random.Random, runs: Sequence[Run]) -> dict[str, Any]:
    keys = [key for key in SETTINGS if len({run.config[key] for run in runs}) > 1]
    chance.shuffle(keys)
    asked: dict[str, Any] = {"images": False}
    about = keys[: chance.choice((1, 1, 1, 2))]
    like = chance.choice(runs)
    asked["baseline"] = ",".join(f"{key}={str(like.config[key]).lower()}" for key in about)
    others = [key for key in keys if key not in about]
    if others and chance.random() < 0.5:
        asked["best_of"] = others[: chance.choice((1, 1, 2))]
    elif others and chance.random() < 0.15:
        asked["average_over"] = others[:1]
    if chance.random() < 0.2:
        asked["group_by"] = [*about, *chance.sample(keys, 1)] if chance.random() < 0.5 else about
        asked["group_by"] = list(dict.fromkeys(k for k in asked["group_by"] if k not in asked.get("average_over", ())))
    if chance.random() < 0.3:
        asked["margin"] = MARGIN
    return asked


def _row(arm: Arm, seed: int, metrics: dict[str, float], name: str, chance: random.Random) -> Run:
    return Run(Path("runs.csv"), name, Status.DONE, {**arm, "seed": seed}, metrics)


def _typed(arm: Arm, seed: int, metrics: dict[str, float], name: str, chance: random.Random) -> Run:
    return _folder(arm, seed, metrics, name, [key for key in arm if arm[key] != DEFAULT[key]], {})


def _of_experiment(arm: Arm, seed: int, metrics: dict[str, float], name: str, chance: random.Random) -> Run:
    """Half of what differs from the default was typed, the other half an experiment sets."""
    changed = [key for key in arm if arm[key] != DEFAULT[key]]
    bundled = changed[::2]
    option = "_".join(f"{key.rpartition('.')[2]}-{arm[key]}" for key in bundled) or "base"
    return _folder(arm, seed, metrics, name, [key for key in changed if key not in bundled], {"experiment": option})


def _of_group(arm: Arm, seed: int, metrics: dict[str, float], name: str, chance: random.Random) -> Run:
    option = next(one for one, sets in MODELS.items() if sets.items() <= arm.items())
    changed = [key for key in arm if arm[key] != DEFAULT[key] and not key.startswith("model.")]
    return _folder(arm, seed, metrics, name, changed, {"model": option})


def _folder(
    arm: Arm, seed: int, metrics: dict[str, float], name: str, typed: Sequence[str], choices: dict[str, str]
) -> Run:
    overrides = [f"{group}={option}" for group, option in choices.items()]
    overrides += [f"{key}={arm[key]}" for key in typed] + [f"seed={seed}"]
    facts = {"overrides": overrides, "fingerprint": "made", "end": f"2026-01-01T00:{len(name)}:00+00:00"}
    return Run(Path("outputs") / name, name, Status.DONE, {**arm, "seed": seed}, metrics, choices, facts)


def _differing(difference: Difference) -> set[str]:
    runs = [*difference.arm.runs, *difference.baseline.runs]
    return {key for key in SETTINGS if len({run.config[key] for run in runs}) > 1}


def _shown(difference: Difference) -> list[str]:
    """What the two arms are told apart by."""
    arm, baseline = difference.arm.settings, difference.baseline.settings
    return [key for key in arm if arm[key] != baseline[key]]


def _unnamed(found: Comparison, difference: Difference) -> set[str]:
    """The settings in which runs of the two arms differ, and which neither a label nor a line names."""
    shown = _shown(difference)
    if "experiment" in shown:
        return set()
    said = " ".join(found.caveats)
    return {
        key
        for key in _differing(difference)
        if key not in shown and key not in said and not (key.startswith("model.") and "model" in shown)
    }


def _truth(sweep: Sweep, difference: Difference) -> float:
    """By how much the arm differs on account of what was asked about: the baseline's settings, those of --best-of.

    With --group-by the arms are asked about as they are, and `_unnamed` sees to it that all of it is named.
    """
    asked = {part.partition("=")[0] for part in sweep.question["baseline"].split(",")}
    asked |= set(sweep.question.get("best_of", ()))
    shown = _shown(difference)
    if "model" in shown and any(key.startswith("model.") for key in asked):
        asked |= {"model.norm", "model.dropout"}  # an option is asked about as a whole
    if "experiment" in shown or "group_by" in sweep.question:
        asked = set(SETTINGS)  # all of it together, which is what the sentence names
    asked |= set(sweep.question.get("average_over", ()))
    return sweep.truth(difference.arm.runs, difference.baseline.runs, asked)


def _contradicts(difference: Difference, truth: float) -> bool:
    if difference.verdict is Verdict.no_difference:
        return abs(truth) > MARGIN + 1e-9
    return truth <= 1e-9 if difference.verdict is Verdict.better else truth >= -1e-9
