"""Selects runs (`--where`), reads their columns, finds the settings that vary, and makes the table of runs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_exp.compare.result import ComparisonTable
from alexnet_exp.errors import UserError, nearest_name, nfc, yaml_text
from alexnet_exp.runs.metric import higher_is_better, label
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status, status_label

MISSING = type("Missing", (), {"__repr__": lambda self: "MISSING", "__bool__": lambda self: False})()

# The seed, and settings of names, files and logs, which cannot change the result of a run.
NOT_SETTINGS = (
    *("seed", "name", "tags", "note", "objective", "paper_claim", "data_root", "task_name", "hydra", "paths"),
    *("extras", "logger", "checkpoint", "resume", "trainer.enable_progress_bar", "trainer.log_every_n_steps"),
)
# Groups whose options set values in every node of the configuration.
GLOBAL_GROUPS = ("experiment",)
MOST_LISTED_VALUES = 10  # of a setting in a message
KEPT_NODE = "kept"  # the value of a node that another run removed
# Columns that are neither settings nor metrics: heading, and value of a run.
FACT_COLUMNS: dict[str, tuple[str, Callable[[Run], Any]]] = {
    "run": ("run", lambda run: run.name),
    "status": ("status", lambda run: run.status),
    "seed": ("seed", lambda run: run.config.get("seed", MISSING)),
    "images_per_s": ("images/s", lambda run: run.facts.get("images_per_s", MISSING)),
    "minutes": ("minutes", lambda run: _minutes(run)),
}
_CONDITION = re.compile(r"\s*([^=<>!\s](?:[^=<>!]*[^=<>!\s])?)\s*(!=|<=|>=|==?|<|>)\s*(.*?)\s*")
_NUMERIC_SIGNS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def value(run: Run, key: str) -> Any:
    """Returns the value of a column of a run; `MISSING` if the run has no such column.

    The name is looked up in this order: `FACT_COLUMNS` (`status`, `minutes`, ...), metrics, options of groups
    (`model`), settings, other keys of result.json (`commit`, `device`).
    """
    if key in FACT_COLUMNS:
        return FACT_COLUMNS[key][1](run)
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
    """Returns `value` for a table: None instead of MISSING, and KEPT_NODE for a node with settings.

    So a run with `model.stages.conv4=null` differs from one with that stage, which is a node and has no value.
    """
    had = value(run, key)
    if had is MISSING:
        return KEPT_NODE if any(name.startswith(f"{key}.") for name in run.config) else None
    return had


@dataclass(frozen=True)
class Condition:
    """One `--where`: `key`, `sign` (one of = != < <= > >=) and `text`; the text `a,b` after = means either value."""

    key: str
    sign: str
    text: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Returns the condition written as `text`. Raises UserError if it is not a condition."""
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise UserError(f"{text}: not a condition; write KEY=VALUE, or != < <= > >= instead of =, e.g. model=lrn")
        key, sign, wanted = found.groups()
        if sign in _NUMERIC_SIGNS and _as_number(wanted) is None:
            raise UserError(f"{text}: {sign} must be followed by a number, not by {wanted or 'nothing'}")
        return cls(key, "=" if sign == "==" else sign, wanted)

    def holds(self, run: Run) -> bool:
        """Returns whether the run fulfils the condition; without such a column only `!=` holds."""
        had = value(run, self.key)
        if self.sign in _NUMERIC_SIGNS:
            number = None if had is MISSING or isinstance(had, bool) else _as_number(had)
            wanted = _as_number(self.text)
            return number is not None and wanted is not None and bool(_NUMERIC_SIGNS[self.sign](number, wanted))
        # The whole text counts as a value too, because a value may contain commas.
        words = [self.text] if self.text.startswith("[") else [self.text, *self.text.split(",")]
        return any(_is(had, word.strip()) for word in words) == (self.sign == "=")


def filter_runs(runs: Sequence[Run], conditions: Iterable[str]) -> list[Run]:
    """Returns the runs that fulfil every condition. Raises UserError with the nearest name for an unknown name."""
    parsed = [Condition.parse(text) for text in conditions]
    for condition in parsed:
        check_names([condition.key], runs, "--where")
    return [run for run in runs if all(condition.holds(run) for condition in parsed)]


def other_values(runs: Sequence[Run], conditions: Iterable[str]) -> str:
    """Returns the values of the runs for conditions with `=` that no run fulfils, such as `; model is bn, lrn`."""
    text = ""
    for condition in map(Condition.parse, conditions):
        if condition.sign == "=" and not any(condition.holds(run) for run in runs):
            had = dict.fromkeys(yaml_text(found) for run in runs if (found := value(run, condition.key)) is not MISSING)
            some = list(had)[:MOST_LISTED_VALUES]
            text += f"; {condition.key} is {', '.join(some)}{' ...' if len(had) > MOST_LISTED_VALUES else ''}"
    return text


def check_names(names: Iterable[str], runs: Sequence[Run], option: str) -> None:
    """Raises UserError if no run has a column of one of the names; without runs every name is accepted."""
    for name in names:
        if runs and name not in FACT_COLUMNS and not any(value(run, name) is not MISSING for run in runs):
            known = known_names(runs)
            near = next((key for key in known if key.endswith((f".{name}", f"/{name}"))), None) or nearest_name(
                name, known
            )
            hint = (
                f"did you mean {near}?"
                if near
                else "write a setting such as optim.lr, a group such as model, or a metric"
            )
            raise UserError(f"{option}: no run has {name}; {hint}")


def seed_of(run: Run, seed_key: str = "seed") -> int | None:
    """Returns the seed; None if no whole number was recorded under `seed_key`."""
    seed = run.config.get(seed_key)
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def known_names(runs: Sequence[Run]) -> list[str]:
    """Returns the names of all columns of the runs."""
    names = dict.fromkeys(FACT_COLUMNS)
    for run in runs:
        for place in (run.metrics, run.choices, run.config, run.facts):
            names.update(dict.fromkeys(place))
    return list(names)


def statuses_text(statuses: Iterable[str]) -> str:
    """Returns how many runs have each status, such as `3 done, 1 killed`, the most frequent first."""
    return ", ".join(f"{times} {status_label(status)}" for status, times in Counter(statuses).most_common())


def metric_keys(runs: Iterable[Run]) -> list[str]:
    """Returns the metrics of all runs: test, then validation, then training, then others."""
    keys = dict.fromkeys(key for run in runs for key in run.metrics)
    order = {"test": 0, "val": 1, "train": 2}
    return sorted(keys, key=lambda key: order.get(key.partition("/")[0], 3))


def ranking_key(metric: str, runs: Sequence[Run]) -> str:
    """Returns the metric that orders runs: the validation metric if it was measured, since test is for verdicts."""
    split, _, name = metric.partition("/")
    of_val = f"val/{name}"
    return of_val if split == "test" and any(of_val in run.metrics for run in runs) else metric


def sort_by_metric(runs: Iterable[Run], key: str) -> list[Run]:
    """Returns the done runs by metric `key`, the best first, then all other runs by name."""
    sign = -1 if higher_is_better(key) else 1

    def place(run: Run) -> tuple[bool, float, str]:
        found = run.metrics.get(key, math.nan)
        counts = run.status == Status.DONE and not math.isnan(found)
        return not counts, sign * found if counts else 0.0, run.name

    return sorted(runs, key=place)


def sort_by_column(runs: Iterable[Run], key: str) -> list[Run]:
    """Returns the runs sorted by a column, descending for `-key`: numbers, then texts, then runs without a value."""
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


def runs_table(runs: Sequence[Run], settings: Sequence[str], columns: Sequence[str] | None = None) -> ComparisonTable:
    """Returns the table of the runs in their order: settings, seed, metrics, images/s, minutes, status, name.

    columns: the names of other columns to show instead; a column that no run has is omitted.
    """
    seeds = ["seed"] if any(run.seed is not None for run in runs) else []
    usual = [*settings, *seeds, *metric_keys(runs), "images_per_s", "minutes", "status", "run"]
    chosen = [key for key in columns or () if any(value(run, key) is not MISSING for run in runs)]
    keys = chosen or usual
    metrics = set(metric_keys(runs))
    rows = [[setting(run, key) for key in keys] for run in runs]
    return ComparisonTable(keys, [title(key, metrics) for key in keys], rows)


def title(key: str, metrics: Iterable[str] = ()) -> str:
    """Returns the heading of a column."""
    if key in FACT_COLUMNS:
        return FACT_COLUMNS[key][0]
    return label(key) if key in metrics else key


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Returns the settings that differ between runs, in the order of the configuration; missing is a value."""
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


def differing_options(runs: Sequence[Run]) -> list[str]:
    """Returns the groups whose option differs, among those whose option every run recorded."""
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    chosen = {group: {run.choices.get(group) for run in runs} for group in groups}
    return [group for group, had in chosen.items() if None not in had and len(had) > 1]


def as_hashable(had: Any) -> Hashable:
    """Returns a hashable that equals that of an equal value; true is not equal to 1."""
    if isinstance(had, str):
        return nfc(had)
    if had is None or had is MISSING or (isinstance(had, int | float) and not isinstance(had, bool)):
        return had
    return repr(had)


def determines(chosen: Sequence[Hashable], had: Sequence[Hashable]) -> bool:
    """Returns whether the values `had` are a function of the values `chosen`."""
    pairs: dict[Hashable, Hashable] = {}
    return all(pairs.setdefault(option, one) == one for option, one in zip(chosen, had, strict=True))


def is_alias(one: Sequence[Hashable], other: Sequence[Hashable]) -> bool:
    """Returns whether each sequence is a function of the other, such as `seed 1` and 1."""
    return determines(one, other) and determines(other, one)


def _as_number(had: Any) -> float | None:
    try:
        return float(had)
    except (TypeError, ValueError):
        return None


def _is(had: Any, word: str) -> bool:
    """Returns whether a value equals a written one: `0.10` is 0.1, `null` is None, `"null"` in quotes is a text."""
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
    if isinstance(minutes := run.facts.get("minutes"), int | float):  # in a table written by `compare`
        return minutes
    seconds = run.facts.get("seconds")
    return MISSING if not isinstance(seconds, int | float) else seconds / 60
