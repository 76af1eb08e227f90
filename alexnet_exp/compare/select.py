"""Which runs are looked at, and what is told of each: `--where`, what varies, `--columns`, the table of the runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_exp.compare.result import Table
from alexnet_exp.errors import UserError, nearest_name, nfc, yaml_text
from alexnet_exp.runs.metric import higher_is_better, label
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

MISSING = type("Missing", (), {"__repr__": lambda self: "MISSING", "__bool__": lambda self: False})()

# Settings that say how a run is named, kept and watched, and cannot change what it comes to; and the seed.
NOT_SETTINGS = (
    *("seed", "name", "tags", "note", "objective", "paper_claim", "data_root", "task_name", "hydra", "paths"),
    *("extras", "logger", "checkpoint", "resume", "trainer.enable_progress_bar", "trainer.log_every_n_steps"),
)
# Groups whose options reach into every node of the configuration.
GLOBAL_GROUPS = ("experiment",)
VALUES = 10  # of a setting, in a message
KEPT = "kept"
# Columns that are neither setting nor metric, and how one reads them.
FACTS: dict[str, tuple[str, Callable[[Run], Any]]] = {
    "run": ("run", lambda run: run.name),
    "status": ("status", lambda run: run.status),
    "seed": ("seed", lambda run: run.config.get("seed", MISSING)),
    "images_per_s": ("images/s", lambda run: run.facts.get("images_per_s", MISSING)),
    "minutes": ("minutes", lambda run: _minutes(run)),
}
_CONDITION = re.compile(r"\s*([^=<>!\s](?:[^=<>!]*[^=<>!\s])?)\s*(!=|<=|>=|==?|<|>)\s*(.*?)\s*")
_NUMBER = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b}


def value(run: Run, key: str) -> Any:
    """What a run has under a column's or a condition's name; `MISSING` where it has nothing of that name.

    In this order: a fact (`status`, `minutes`, ...), a metric, the option chosen in a group (`model`), a setting, and
    whatever else result.json says (`commit`, `device`).
    """
    if key in FACTS:
        return FACTS[key][1](run)
    for place in (run.metrics, run.choices, run.config, run.facts):
        if key in place:
            return place[key]
    if not key.isascii():
        for place in (run.metrics, run.choices, run.config, run.facts):
            for name in place:
                if nfc(name) == nfc(key):
                    return place[name]
    return MISSING


def setting(run: Run, key: str) -> Any:
    """As `value`, for a table: None where there is nothing, KEPT for a node that another run has dropped.

    So a run with `model.stages.conv4=null` is told from one with that stage, which has no value but a node of them.
    """
    had = value(run, key)
    if had is MISSING:
        return KEPT if any(name.startswith(f"{key}.") for name in run.config) else None
    return had


@dataclass(frozen=True)
class Condition:
    """One `--where`: `key`, `sign` (one of = != < <= > >=), and the text beside it; `a,b` behind = means either."""

    key: str
    sign: str
    text: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises UserError where `text` is no condition."""
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise UserError(f"{text}: not a condition; write KEY=VALUE, or != < <= > >= instead of =, e.g. model=lrn")
        key, sign, wanted = found.groups()
        if sign in _NUMBER and _as_number(wanted) is None:
            raise UserError(f"{text}: {sign} needs a number behind it, not {wanted or 'nothing'}")
        return cls(key, "=" if sign == "==" else sign, wanted)

    def holds(self, run: Run) -> bool:
        """Whether the run fulfils it. Where the run has nothing of that name, only `!=` holds."""
        had = value(run, self.key)
        if self.sign in _NUMBER:
            number = None if had is MISSING or isinstance(had, bool) else _as_number(had)
            wanted = _as_number(self.text)
            return number is not None and wanted is not None and bool(_NUMBER[self.sign](number, wanted))
        # the whole text too: a value may have commas of its own
        words = [self.text] if self.text.startswith("[") else [self.text, *self.text.split(",")]
        return any(_is(had, word.strip()) for word in words) == (self.sign == "=")


def where(runs: Sequence[Run], conditions: Iterable[str]) -> list[Run]:
    """The runs that fulfil every condition. Raises UserError for a name that no run has, with the nearest one."""
    parsed = [Condition.parse(text) for text in conditions]
    for condition in parsed:
        check_names([condition.key], runs, "--where")
    return [run for run in runs if all(condition.holds(run) for condition in parsed)]


def other_values(runs: Sequence[Run], conditions: Iterable[str]) -> str:
    """What the runs have instead, for the conditions with `=` that none of them fulfils: `; model is bn, lrn`."""
    told = ""
    for condition in map(Condition.parse, conditions):
        if condition.sign == "=" and not any(condition.holds(run) for run in runs):
            had = dict.fromkeys(yaml_text(found) for run in runs if (found := value(run, condition.key)) is not MISSING)
            some = list(had)[:VALUES]
            told += f"; {condition.key} is {', '.join(some)}{' ...' if len(had) > VALUES else ''}"
    return told


def check_names(names: Iterable[str], runs: Sequence[Run], option: str) -> None:
    """Raises UserError where no run has anything of one of the names; nothing is refused where there are no runs."""
    for name in names:
        if runs and name not in FACTS and not any(value(run, name) is not MISSING for run in runs):
            known = known_names(runs)
            near = next((key for key in known if key.endswith((f".{name}", f"/{name}"))), None) or nearest_name(
                name, known
            )
            hint = f"did you mean {near}?" if near else "a setting such as optim.lr, a group such as model, or a metric"
            raise UserError(f"{option}: no run has {name}; {hint}")


def known_names(runs: Sequence[Run]) -> list[str]:
    """All that `value` knows of these runs."""
    names = dict.fromkeys(FACTS)
    for run in runs:
        for place in (run.metrics, run.choices, run.config, run.facts):
            names.update(dict.fromkeys(place))
    return list(names)


def metric_keys(runs: Iterable[Run]) -> list[str]:
    """Every metric that a run has: of the test first, then of the validation, then of the training."""
    keys = dict.fromkeys(key for run in runs for key in run.metrics)
    order = {"test": 0, "val": 1, "train": 2}
    return sorted(keys, key=lambda key: order.get(key.partition("/")[0], 3))


def ranking_key(metric: str, runs: Sequence[Run]) -> str:
    """The metric that puts runs in order: that of the validation, where one was measured; test is for verdicts."""
    split, _, name = metric.partition("/")
    of_val = f"val/{name}"
    return of_val if split == "test" and any(of_val in run.metrics for run in runs) else metric


def best_first(runs: Iterable[Run], key: str) -> list[Run]:
    """Done runs by the metric `key`, the best first; then those without it, failed and running, by name."""
    sign = -1 if higher_is_better(key) else 1

    def place(run: Run) -> tuple[bool, float, str]:
        found = run.metrics.get(key, math.nan)
        counts = run.status == Status.DONE and not math.isnan(found)
        return not counts, sign * found if counts else 0.0, run.name

    return sorted(runs, key=place)


def sorted_by(runs: Iterable[Run], key: str) -> list[Run]:
    """By any column: `-key` for the greatest first. Numbers before words, runs without it last."""
    down = key.startswith("-")
    named = key.removeprefix("-")

    def place(run: Run) -> tuple[int, float, str]:
        found = value(run, named)
        number = None if found is MISSING else _as_number(found)
        if found is MISSING or found is None:
            return 2, 0.0, ""
        return (1, 0.0, yaml_text(found)) if number is None else (0, number, "")

    have = [run for run in runs if place(run)[0] < 2]
    return sorted(have, key=place, reverse=down) + [run for run in runs if place(run)[0] == 2]


def runs_table(runs: Sequence[Run], settings: Sequence[str], columns: Sequence[str] | None = None) -> Table:
    """The table of the runs, in their order: what varies, the seed, every metric, images/s, minutes, status, the name.

    columns: these instead, by any name that `value` knows; those that no run has are left out.
    """
    seeds = ["seed"] if any(run.seed is not None for run in runs) else []
    usual = [*settings, *seeds, *metric_keys(runs), "images_per_s", "minutes", "status", "run"]
    chosen = [key for key in columns or () if any(value(run, key) is not MISSING for run in runs)]
    keys = chosen or usual
    metrics = set(metric_keys(runs))
    rows = [[setting(run, key) for key in keys] for run in runs]
    return Table(keys, [title(key, metrics) for key in keys], rows)


def title(key: str, metrics: Iterable[str] = ()) -> str:
    """A column's heading."""
    if key in FACTS:
        return FACTS[key][0]
    return label(key) if key in metrics else key


def differing(runs: Sequence[Run]) -> list[str]:
    """Settings whose values are not the same in all runs, in the order of the configuration; missing is a value."""
    if not runs:
        return []
    first = runs[0].config
    keys = dict.fromkeys(first)
    differ: set[str] = set()
    for run in runs[1:]:
        if run.config.keys() != first.keys():
            keys.update(dict.fromkeys(run.config))
            differ |= run.config.keys() ^ first.keys()
        differ.update(key for key, had in run.config.items() if first.get(key, MISSING) != had)
    return [key for key in keys if key in differ]


def differing_choices(runs: Sequence[Run]) -> list[str]:
    """The groups whose chosen option differs, of those of which every run says what was chosen."""
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    chosen = {group: {run.choices.get(group) for run in runs} for group in groups}
    return [group for group, had in chosen.items() if None not in had and len(had) > 1]


def frozen(had: Any) -> Hashable:
    """Something that can be compared and hashed; true is not 1 here."""
    if isinstance(had, str):
        return nfc(had)
    if had is None or had is MISSING or (isinstance(had, int | float) and not isinstance(had, bool)):
        return had
    return repr(had)


def decides(chosen: Sequence[Hashable], had: Sequence[Hashable]) -> bool:
    """Whether `had` is a function of `chosen`."""
    pairs: dict[Hashable, Hashable] = {}
    return all(pairs.setdefault(option, one) == one for option, one in zip(chosen, had, strict=True))


def is_alias(one: Sequence[Hashable], other: Sequence[Hashable]) -> bool:
    """Whether each is a function of the other: `seed 1` of 1. Seeds of which none repeats decide everything."""
    return decides(one, other) and decides(other, one)


def _as_number(had: Any) -> float | None:
    try:
        return float(had)
    except (TypeError, ValueError):
        return None


def _is(had: Any, word: str) -> bool:
    """Whether a value is what was typed: `0.10` is 0.1, `null` None, `true` True; `"null"` in quotes the word."""
    if had is MISSING:
        return False
    if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'":
        return isinstance(had, str) and nfc(had) == nfc(word[1:-1])
    if isinstance(had, bool) or had is None:
        return yaml_text(had) == word.lower() or (had is None and word in ("None", "~", ""))
    number = _as_number(word)
    if isinstance(had, int | float) and number is not None:
        return float(had) == number
    return nfc(yaml_text(had)).replace(" ", "") == nfc(word).replace(" ", "")


def _minutes(run: Run) -> Any:
    if isinstance(minutes := run.facts.get("minutes"), int | float):  # of a table that `compare` wrote
        return minutes
    seconds = run.facts.get("seconds")
    return MISSING if not isinstance(seconds, int | float) else seconds / 60
