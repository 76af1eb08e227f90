"""Reads the runs of a CSV file: one row a run (W&B, MLflow, Optuna, pandas, by hand), or one row an epoch.

Each column is a setting, a metric, a fact, the name of the run or its status. Facts (ids, times, notes, W&B's `_step`)
are kept and can be printed and selected, but do not form arms.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alexnet_exp.errors import UserError, suggest_name
from alexnet_exp.runs.bookkeeping import NAME_COLUMNS, SETTING_WORDS, is_fact, is_id, plain
from alexnet_exp.runs.csv_file import EMPTY, is_percent, number, numbers, read_csv
from alexnet_exp.runs.import_foreign import LABEL_KEY, PERCENT_KEY, SEED_KEYS, note_seed
from alexnet_exp.runs.metric import SPLITS, has_split, in_percent, is_accuracy, is_measure, metric_name
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

_STATUS = {
    **dict.fromkeys((Status.DONE, "finished", "completed", "complete", "success", "succeeded"), Status.DONE),
    **dict.fromkeys((Status.FAILED, "crashed", "error", "fail"), Status.FAILED),
    **dict.fromkeys(
        (Status.INTERRUPTED, "killed", "canceled", "cancelled", "preempted", "stopped"), Status.INTERRUPTED
    ),
    **dict.fromkeys((Status.RUNNING, "scheduled", "pending", "queued"), Status.RUNNING),
    Status.PRUNED: Status.PRUNED,
    Status.DIED: Status.DIED,
}
_NAME_COLUMNS = ("run", "name", "run_name", "display_name", "mlflow_runname")
# Words that may precede or follow the word of a metric: `final loss`, `RMSE (m)`, `test acc mean`.
_BESIDE = frozenset(
    (*SPLITS, "eval", "dev", "holdout", "mean", "avg", "average", "best", "final", "last", "max", "min", "std", "sd")
) | frozenset(("m", "mm", "cm", "s", "ms", "k", "px", "deg", "percent", "pct", "token", "epoch", "at", "top", "score"))
# Columns that are facts if they contain words: the error of a failed job.
_ERRORS = ("error", "exception", "traceback", "message")
_CLOCKS = (
    *("epoch", "step", "global_step", "trainer_global_step", "iteration", "iter", "training_iteration", "batch"),
    "round",
)
_RUN_IDS = (*_NAME_COLUMNS, "run_id", "runid", "trial_id", "trial", "id", "experiment_id", "job_id", "uuid")


@dataclass
class _CsvColumns:
    """The kind of each column. metrics: column -> key. facts, settings: column -> name in a `Run`.

    guessed: metrics and facts that were not recognized by a split or a well-known name.
    """

    metrics: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    status: str | None = None
    guessed: list[str] = field(default_factory=list)


def read_table_runs(
    file: Path, seed_column: str | None = None, metrics: Sequence[str] = (), prefix: str = ""
) -> tuple[list[Run], list[str]]:
    """Returns the runs of a CSV file with a header, and notes on what was guessed, each starting with the file.

    Raises UserError with the file and the line.

    A column is a metric where every value in it is a number and its name is `split/metric` (`test_acc` is read as
    `test/acc`) or has the word of a metric, or is in `metrics`. `status` or `state` is the status (done, where there is
    neither), `name` or `run` what it is called. Ids, times and notes are facts. All else are settings. seed_column:
    default `seed`.
    """
    columns, rows = read_csv(file)
    for wanted in [*metrics, *([seed_column] if seed_column else [])]:
        if wanted not in columns and wanted not in map(_bare, columns) and wanted not in map(metric_name, columns):
            raise UserError(f"{file}: no column {wanted}; {suggest_name(wanted, columns)}")
    if not rows:
        return [], []
    if any(column.endswith("__MAX") for column in columns) and any(" - " in column for column in columns):
        raise UserError(f"{file}: a W&B chart, with a column a run and no settings; export the table of runs instead")
    values = {column: [row[column] for row in rows] for column in columns}
    seeds = {column for column in columns if plain(_bare(column)) in SEED_KEYS or column == seed_column}
    histories = _histories(file, values, seeds)
    if histories:
        return _of_histories(file, values, histories, seeds, seed_column, prefix)
    kinds = _kinds(values, seeds, metrics)
    alone = kinds.name and not seeds and all(len(set(values[column])) == 1 for column in kinds.settings)
    parsed = {column: numbers(values[column]) or [] for column in kinds.metrics}
    percent = [key for column, key in kinds.metrics.items() if _in_percent(key, values[column], parsed[column])]
    typed = {column: _typed(values[column]) for column in [*kinds.settings, *kinds.facts]}
    runs = []
    for place, row in enumerate(rows):
        found = {
            key: value
            for column, key in kinds.metrics.items()
            if (value := parsed[column][place]) is not None and math.isfinite(value)
        }
        config = {name: typed[column][place] for column, name in kinds.settings.items()}
        note_seed(config, seed_column)
        if alone:
            config[LABEL_KEY] = row[str(kinds.name)]
        facts = {name: had for column, name in kinds.facts.items() if (had := typed[column][place]) is not None}
        status = _STATUS.get(row[kinds.status].lower(), Status.UNKNOWN) if kinds.status else Status.DONE
        label = row[kinds.name] if kinds.name else f"line {place + 2}"
        runs.append(Run(file, f"{prefix}{label}", status, config, found, {}, facts | {PERCENT_KEY: percent}))
    return runs, _notes(file, kinds, values)


def _kinds(values: Mapping[str, Sequence[str]], seeds: set[str], wanted: Sequence[str]) -> _CsvColumns:
    kinds = _CsvColumns()
    asked = {*wanted, *map(metric_name, wanted)}
    kinds.status = _column(values, "status", "state")
    names = [column for wanted in _NAME_COLUMNS if (column := _column(values, wanted)) is not None]
    kinds.name = next((column for column in names if len(set(values[column])) == len(values[column])), None)
    optuna = _column(values, "datetime_start") is not None
    for column, had in values.items():
        bare, key = _bare(column, optuna), metric_name(_bare(column))
        if column in (kinds.name, kinds.status):
            continue
        if column in asked or key in asked or bare in asked:
            if numbers(had) is None:
                kinds.settings[column] = bare
            else:
                kinds.metrics[column] = key
        elif column in seeds or column.startswith("params."):
            kinds.settings[column] = bare
        elif _is_fact(column.removeprefix("metrics."), had):
            kinds.facts[column] = "images_per_s" if plain(column) == "images_s" else bare
        elif _is_metric(column, had) or (optuna and column == "value" and numbers(had) is not None):
            kinds.metrics[column] = key
            obvious = column.startswith("metrics.") or has_split(column) or plain(column) in ("acc", "accuracy", "loss")
            if not obvious:
                kinds.guessed.append(column)
        else:
            kinds.settings[column] = bare
    _take_ids(kinds, values, seeds)
    clashing = {key for key, count in Counter(kinds.metrics.values()).items() if count > 1}
    kinds.metrics = {column: column if key in clashing else key for column, key in kinds.metrics.items()}
    return kinds


def _take_ids(kinds: _CsvColumns, values: Mapping[str, Sequence[str]], seeds: set[str]) -> None:
    """Moves settings that differ in every row and are ids, times or counters to the facts.

    Names of runs are moved only if another setting varies; otherwise they are what is compared.
    """
    varying = [
        column
        for column in kinds.settings
        if column not in seeds and not column.startswith("params.") and len(set(values[column])) > 1
    ]
    unique = [column for column in varying if len(set(values[column])) == len(values[column])]
    sure = [column for column in unique if is_id(column, values[column])]
    left = [column for column in varying if column not in sure]
    named = [column for column in left if column in unique and NAME_COLUMNS.fullmatch(plain(column))]
    for column in sure + (named if len(left) > len(named) else []):
        kinds.facts[column] = kinds.settings.pop(column)
        kinds.guessed.append(column)


def _is_fact(column: str, had: Sequence[str]) -> bool:
    name = plain(column)
    return is_fact(column) or (name in _ERRORS and numbers(had) is None) or (name in _NAME_COLUMNS and name != "name")


def _is_metric(column: str, had: Sequence[str]) -> bool:
    parsed = numbers(had)
    there = [one for one in parsed or () if one is not None]
    if not there:
        return False
    name = _bare(column)
    if column.startswith("metrics.") or (has_split(name) and ("/" in name or is_measure(name))):
        return True
    # without a split, the last word must be that of a metric; the numbers of a setting repeat or are integers
    words = [word for word in re.findall(r"[a-z]+\d*|\d+", plain(name)) if not word.isdigit()]
    said = [word for word in words if word.rstrip("0123456789") not in _BESIDE or is_measure(word)]
    if not said or not is_measure(said[-1]) or SETTING_WORDS & set(said):
        return False
    sure = is_accuracy(said[-1]) or is_percent(had) or said[-1].endswith(("loss", "error", "err"))
    whole = all(one.is_integer() for one in there if math.isfinite(one))
    return 2 * len(set(there)) > len(there) and (sure or not whole)


def _in_percent(key: str, had: Sequence[str], parsed: Iterable[float | None]) -> bool:
    return is_percent(had) or in_percent(key, (one for one in parsed if one is not None))


def _notes(file: Path, kinds: _CsvColumns, values: Mapping[str, Sequence[str]]) -> list[str]:
    notes = []
    guessed = [column for column in kinds.guessed if column in kinds.metrics]
    if guessed:
        notes.append(f"{file}: read as metrics because of their names: {', '.join(guessed)}")
    guessed = [column for column in kinds.guessed if column in kinds.facts]
    if guessed:
        listed = ", ".join(guessed)
        notes.append(
            f"{file}: read as ids, times or names, which do not form arms: {listed}; --group-by KEY makes arms of one"
        )
    for column in kinds.settings:
        if has_split(column) and is_measure(column):
            bad = next(
                (
                    (line, text)
                    for line, text in enumerate(values[column], start=2)
                    if text.lower() not in EMPTY and number(text.removesuffix("%").rstrip()) is None
                ),
                None,
            )
            if bad is not None:
                notes.append(f"{file}: {column} is not read as a metric because line {bad[0]} contains {bad[1][:40]!r}")
    return notes


def _histories(file: Path, values: Mapping[str, Sequence[str]], seeds: set[str]) -> dict[tuple[str, ...], list[int]]:
    """Returns the rows of each run if the file has one row an epoch or step; empty if it has one row a run."""
    clocks = [column for wanted in _CLOCKS if (column := _column(values, wanted)) is not None]
    clocks = [column for column in clocks if numbers(values[column]) is not None]
    if not clocks:
        return {}
    names = [column for column in values if plain(_bare(column)) in _RUN_IDS and column not in clocks]
    words = [
        column
        for column in values
        if numbers(values[column]) is None and not (_is_fact(column, values[column]) and column not in names)
    ]
    by = list(dict.fromkeys([*names, *words, *(column for column in values if column in seeds)]))
    times = [numbers(values[column]) or [] for column in clocks[:2]]
    groups: dict[tuple[str, ...], list[int]] = {}
    for place in range(len(times[0])):
        if times[0][place] is not None:
            groups.setdefault(tuple(values[column][place] for column in by), []).append(place)
    runs: dict[tuple[str, ...], list[int]] = {}
    for key, places in groups.items():
        part = 0
        for before, place in zip([places[0], *places], places, strict=False):
            if not names and _time(times, place) < _time(times, before):
                part += 1
            runs.setdefault((*key, str(part)), []).append(place)
    if not _is_clocked([[_time(times, place)[0] for place in places] for places in runs.values()]):
        return {}
    _refuse_mixed(file, values, times, runs, clocks)
    return runs


def _time(times: Sequence[Sequence[float | None]], place: int) -> tuple[float, ...]:
    return tuple(one if (one := column[place]) is not None else -math.inf for column in times)


def _is_clocked(runs: Sequence[Sequence[float]]) -> bool:
    """Returns whether the numbers count time: in every run they rise from the same start, mostly by equal steps."""
    if any(late < early for run in runs for early, late in itertools.pairwise(run)):
        return False
    steps = Counter(round(late - early, 6) for run in runs for early, late in itertools.pairwise(run) if late > early)
    if not steps or 2 * steps.most_common(1)[0][1] <= steps.total():
        return False
    first = {run[0] for run in runs}
    longest = max(len(set(run)) for run in runs)
    return len(first) == 1 and (max(first) <= 1 or longest >= 3)


def _refuse_mixed(
    file: Path,
    values: Mapping[str, Sequence[str]],
    times: Sequence[Sequence[float | None]],
    runs: Mapping[tuple[str, ...], Sequence[int]],
    clocks: Sequence[str],
) -> None:
    """Raises UserError if one time has several values of a metric: runs that no column distinguishes."""
    for column, had in values.items():
        if not is_measure(column) or numbers(had) is None:
            continue
        filled = [(key, _time(times, place)) for key, places in runs.items() for place in places if had[place]]
        if 2 * len(set(filled)) <= len(filled) and len(filled) > 1:
            raise UserError(
                f"{file}: it has one row per {clocks[0]} of several runs, and no column with the run; "
                "add a column `run` with their names"
            )


def _of_histories(
    file: Path,
    values: Mapping[str, Sequence[str]],
    histories: Mapping[tuple[str, ...], Sequence[int]],
    seeds: set[str],
    seed_column: str | None,
    prefix: str,
) -> tuple[list[Run], list[str]]:
    """Returns one run for each history. Its metrics are the last values; constant columns are settings."""
    names = [column for wanted in _RUN_IDS if (column := _column(values, wanted)) is not None]
    clock = next(column for wanted in _CLOCKS if (column := _column(values, wanted)) is not None)
    status = _column(values, "status", "state")
    parsed = {column: numbers(had) for column, had in values.items() if column not in names}
    bare = {column for column in values if f"val_{column}" in values}  # Keras: `loss` beside `val_loss`
    metrics, facts, settings = {}, [], []
    for column, had in parsed.items():
        if column in seeds:
            settings.append(column)
        elif _is_fact(column, values[column]) or plain(column) in _CLOCKS:
            facts.append(column)
        elif column == status:
            continue
        elif had is None:
            settings.append(column)
        elif column in bare:
            metrics[column] = f"train/{column}"
        elif has_split(column) or is_measure(column) or not _is_constant(values[column], histories.values()):
            metrics[column] = metric_name(_bare(column))
        else:
            settings.append(column)
    percent = [key for column, key in metrics.items() if _in_percent(key, values[column], parsed[column] or ())]
    typed = {column: _typed(values[column]) for column in [*settings, *facts]}
    several = len(histories) > 1
    alike = not any(
        len({typed[column][places[-1]] for places in histories.values()}) > 1
        for column in settings
        if column not in seeds
    )
    runs = []
    for count, places in enumerate(histories.values(), start=1):
        last = places[-1]
        found = {}
        for column, key in metrics.items():
            there = [one for place in places if (one := (parsed[column] or [])[place]) is not None]
            if there and math.isfinite(there[-1]):
                found[key] = there[-1]
        name = values[names[0]][last] if names else f"run {count}"
        config = {_bare(column): typed[column][last] for column in settings}
        note_seed(config, seed_column)
        # the other settings of a lone file are unknown, so it is not another seed of a second file
        if (names and several and alike) or (not several and not seeds) or not config.keys() - {"seed"}:
            config[LABEL_KEY] = name if names or several else str(file)
        of_run = {_bare(column): typed[column][last] for column in facts if typed[column][last] is not None}
        ended = _STATUS.get(values[status][last].lower(), Status.UNKNOWN) if status else Status.DONE
        path = prefix.removesuffix(": ") or file.name
        label = f"{prefix}{name}" if names or several else path
        runs.append(Run(file, label, ended, config, found, {}, of_run | {PERCENT_KEY: percent}))
    twice = Counter(run.name for run in runs)
    runs = [
        replace(run, name=f"{run.name} {count}") if twice[run.name] > 1 else run
        for count, run in enumerate(runs, start=1)
    ]
    description = f"the histories of {len(runs)} runs" if several else "the history of one run"
    return runs, [
        f"{file}: it has one row per {clock} and is read as {description}, with the last value of each metric"
    ]


def _is_constant(values: Sequence[str], runs: Iterable[Sequence[int]]) -> bool:
    return all(len({values[place] for place in places}) == 1 for places in runs)


def _bare(column: str, optuna: bool = False) -> str:
    """Returns the name without the prefixes of MLflow and Optuna."""
    for prefix in ("params.", "metrics.", *(("params_",) if optuna else ())):
        if column.startswith(prefix) and len(column) > len(prefix):
            return column.removeprefix(prefix)
    return column


def _column(columns: Iterable[str], wanted: str, *others: str) -> str | None:
    return next((column for column in columns if plain(column) in (wanted, *others)), None)


def _typed(values: Sequence[str]) -> list[Any]:
    """Returns a column of settings with numbers, booleans and None (empty, null, None); `none` stays a word.

    An unusual number (007, 1e5) counts as one only if the whole column is numeric: 8e45012 may be a commit.
    """
    there = [value for value in values if value not in _NOTHING]
    numeric = all(number(value) is not None and not re.fullmatch(r"[+-]?0\d+", value) for value in there)
    return [_value(value, numeric) for value in values]


_NOTHING = ("", "null", "NULL", "None", "<NA>")


def _value(text: str, numeric: bool) -> Any:
    if text in _NOTHING:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.startswith("[") and text.endswith("]"):
        return f"[{', '.join(part.strip() for part in text[1:-1].split(','))}]"  # [1,2] and [1, 2] are one value
    had = number(text)
    if had is None or not math.isfinite(had):
        return text
    whole = re.fullmatch(r"[+-]?\d+", text) is not None
    value: int | float = int(text) if whole and len(text) < 19 else had
    return value if numeric or str(value) == text else text
