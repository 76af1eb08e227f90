"""Runs that another project recorded: Hydra's `.hydra/` beside a metrics.csv of Lightning's CSVLogger; or one CSV file.

What is not recorded there is not guessed, with four exceptions that docs/comparing.md tells: whether a run is done,
which epoch its checkpoint is of, which columns of a CSV file are metrics, and which accuracies are in percent.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from alexnet_exp.runs.contents import YAML_LOADER, read_config
from alexnet_exp.runs.folder import flatten
from alexnet_exp.runs.metric import higher_is_better, in_percent
from alexnet_exp.runs.run import DONE, FAILED, INTERRUPTED, RUNNING, UNKNOWN, Run
from alexnet_exp.settings import UserError, one_of

DEPTH = 4  # how far below a run's folder its metrics.csv is looked for: csv/version_0/ is 2
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_METRIC = re.compile(rf"({'|'.join(sorted(_SPLITS, key=len, reverse=True))})[/_.](\w.*)")
# what makes `test_acc` a metric of a CSV file, and leaves `test_size` a setting; behind a slash anything is one
_WORDS = re.compile(r"(acc|accuracy|top\d|loss|error|err|f1|auc|auroc|precision|recall|mse|mae|rmse|perplexity)")
_STATUS = {
    **dict.fromkeys(("done", "finished", "completed", "complete", "success"), DONE),
    **dict.fromkeys(("failed", "crashed", "error"), FAILED),
    **dict.fromkeys(("interrupted", "killed", "canceled", "cancelled"), INTERRUPTED),
    "running": RUNNING,
}


def find_table(folder: Path) -> Path | None:
    """The metrics.csv of the run in `folder`: of several versions the last; None where there is none.

    A run that lies inside the folder keeps its own.
    """
    found = []
    for here, inner, files in os.walk(folder):
        below = Path(here).relative_to(folder).parts
        if below and (".hydra" in inner or "result.json" in files):
            inner.clear()
            continue
        inner[:] = [name for name in inner if not name.startswith(".") and name != "earlier" and len(below) < DEPTH]
        if "metrics.csv" in files:
            found.append(Path(here) / "metrics.csv")
    return max(found, key=lambda path: [_natural(part) for part in path.parts], default=None)


def read_folder(folder: Path, table: Path, name: str, seed_key: str | None = None) -> Run:
    """The run of another Hydra and Lightning project. Raises UserError, naming the file, where one is damaged.

    metrics: the last value of each column of `table`, named `split/metric`; where the configuration has a
    ModelCheckpoint with a monitor, those of training and validation are of the epoch that it kept. seed_key: the
    setting that holds the seed, where it is not `seed`.
    """
    config = flatten(read_config(folder))
    _note_seed(config, seed_key)
    rows = _read_metrics(table)
    monitor, mode = _monitor(config)
    kept = _kept_epoch(rows, monitor, mode)
    metrics = _last(rows)
    if kept is not None:
        of_kept = _last([row for row in rows if row.get("epoch") == kept])
        metrics |= {key: value for key, value in of_kept.items() if not key.startswith("test/")}
    facts: dict[str, Any] = {"overrides": _overrides(folder), "metrics_file": str(table)}
    # the test is logged under an epoch that was never trained
    trained = [row["epoch"] for row in rows if "epoch" in row and not any(key.startswith("test/") for key in row)]
    if trained:
        facts["epochs"] = int(max(trained)) + 1
    if kept is not None:
        facts |= {"metrics_epoch": int(kept) + 1, "tested": "best"}
    status, error = _status(folder, config, metrics, facts.get("epochs", 0))
    if error:
        facts["error"] = error
    return Run(folder, name, status, config, metrics, _chosen(folder), facts)


def read_rows(file: Path, seed_column: str | None = None, metrics: Sequence[str] = (), prefix: str = "") -> list[Run]:
    """One run a row of a CSV file with a header. Raises UserError, naming the file and the line.

    A column is a metric where every value in it is a number and its name is `split/metric` (`test_acc` is read as
    `test/acc`), or is in `metrics`. `status` or `state` tells what became of the run (done, where there is neither),
    `name` or `run` what it is called; all else are settings. seed_column: default `seed`.
    """
    columns, rows = _read_csv(file)
    for wanted in [*metrics, *([seed_column] if seed_column else [])]:
        if wanted not in columns and wanted not in map(metric_name, columns):
            raise UserError(f"{file}: no column {wanted}; {one_of(wanted, columns)}")
    wanted_metrics = {*metrics, *map(metric_name, metrics)}
    of_metrics = {column: metric_name(column) for column in columns if _is_metric(column, rows, wanted_metrics)}
    percent = {name for name in of_metrics if in_percent(name, (_number(row[name]) or 0.0 for row in rows))}
    clashing = {name for name, count in Counter(of_metrics.values()).items() if count > 1}
    named = _column(columns, "name", "run", "run_name")
    if named and len({row[named] for row in rows}) < len(rows):
        named = None
    stated = _column(columns, "status", "state")
    runs = []
    for number, row in enumerate(rows, start=2):
        found = {}
        for column, name in of_metrics.items():
            value = _number(row[column])
            if value is not None and math.isfinite(value):
                found[column if name in clashing else name] = value / 100 if column in percent else value
        config = {
            column: _typed(text)
            for column, text in row.items()
            if column not in of_metrics and column not in (named, stated)
        }
        _note_seed(config, seed_column)
        status = _STATUS.get(row[stated].strip().lower(), UNKNOWN) if stated else DONE
        label = row[named] if named else f"line {number}"
        runs.append(Run(file, f"{prefix}{label}", status, config, found))
    return runs


def metric_name(column: str) -> str:
    """`split/metric` as it is called here: `valid_acc` and `validation/acc` are `val/acc`; other names stay."""
    found = _METRIC.fullmatch(column)
    return f"{_SPLITS[found[1]]}/{found[2]}" if found else column


def _read_csv(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        text = file.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        header, *lines = [row for row in csv.reader(io.StringIO(text)) if row] or [[]]
    except csv.Error as error:
        raise UserError(f"{file}: not a CSV file ({error})") from None
    if len(set(header)) < len(header):
        raise UserError(f"{file}: the header names a column twice, or a column has no name")
    for number, row in enumerate(lines, start=2):
        if len(row) != len(header):
            raise UserError(f"{file}: line {number} has {len(row)} values for {len(header)} columns")
    return header, [dict(zip(header, row, strict=True)) for row in lines]


def _read_metrics(table: Path) -> list[dict[str, float]]:
    """The rows of Lightning's metrics.csv, each with the columns that it fills; a line cut off by a kill is dropped."""
    try:
        text = table.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UserError(f"{table}: cannot be read ({error.strerror})") from None
    try:
        header, *lines = [row for row in csv.reader(io.StringIO(text[: text.rfind("\n") + 1])) if row] or [[]]
    except csv.Error as error:
        raise UserError(f"{table}: not a CSV file ({error})") from None
    names = [metric_name(column) for column in header]
    if len(set(names)) < len(names):
        names = header
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(f"{table}: line {number} has {len(line)} values for {len(header)} columns")
        try:
            rows.append({name: float(text) for name, text in zip(names, line, strict=True) if text})
        except ValueError as error:
            raise UserError(f"{table}: line {number} has a value that is no number ({error})") from None
    percent = {name for name in names if in_percent(name, (row[name] for row in rows if name in row))}
    return [{name: value / 100 if name in percent else value for name, value in row.items()} for row in rows]


def _last(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The last value of each column that is one of a metric; a column that ends in NaN has none."""
    found: dict[str, float] = {}
    for row in rows:
        found.update(row)
    return {key: value for key, value in found.items() if key not in ("epoch", "step") and math.isfinite(value)}


def _monitor(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """What the ModelCheckpoint of the configuration watches, and whether for its min or max."""
    for key, target in config.items():
        node, _, last = key.rpartition(".")
        if last == "_target_" and str(target).endswith("ModelCheckpoint"):
            monitor = config.get(f"{node}.monitor")
            if isinstance(monitor, str):
                return metric_name(monitor), config.get(f"{node}.mode")
    return None, None


def _kept_epoch(rows: Sequence[Mapping[str, float]], monitor: str | None, mode: str | None) -> float | None:
    """The epoch with the monitor's best value, the first of equals; None where nothing was watched."""
    if monitor is None:
        return None
    seen = [
        (row[monitor], row["epoch"]) for row in rows if "epoch" in row and math.isfinite(row.get(monitor, math.nan))
    ]
    if not seen:
        return None
    up = mode == "max" if mode in ("min", "max") else higher_is_better(monitor)
    best = (max if up else min)(value for value, _ in seen)
    return next(epoch for value, epoch in seen if value == best)


def _status(folder: Path, config: Mapping[str, Any], metrics: Mapping[str, float], epochs: int) -> tuple[str, str]:
    """The status, and why it failed.

    done: it was tested, or its last epoch is trainer.max_epochs. failed: else, where its log ends in a traceback.
    unknown: else; it may still run, or have been killed.
    """
    if any(key.startswith("test/") for key in metrics):
        return DONE, ""
    for log in sorted(path for path in folder.glob("*.log") if path.is_file()):
        _, traceback, trace = log.read_text(errors="replace").rpartition("Traceback (most recent call last)")
        if traceback:
            # the exception is the first line behind the traceback that is not indented
            lines = [line for line in trace.splitlines()[1:] if line.strip() and not line.startswith(" ")]
            return FAILED, lines[0] if lines else "see its log"
    limit = config.get("trainer.max_epochs")
    return (DONE, "") if isinstance(limit, int) and 0 < limit <= epochs else (UNKNOWN, "")


def _overrides(folder: Path) -> list[str]:
    try:
        overrides = yaml.load((folder / ".hydra" / "overrides.yaml").read_bytes(), Loader=YAML_LOADER)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return []
    return [str(override) for override in overrides] if isinstance(overrides, list) else []


def _chosen(folder: Path) -> dict[str, str]:
    """The option of each group from hydra.yaml, of which only the few lines that tell it are parsed: it is long."""
    try:
        lines = (folder / ".hydra" / "hydra.yaml").read_text(errors="replace").splitlines()
        start = next(number for number, line in enumerate(lines) if line.strip() == "choices:")
    except (OSError, StopIteration):
        return {}
    indent = len(lines[start]) - len(lines[start].lstrip())
    block = []
    for line in lines[start + 1 :]:
        if len(line) - len(line.lstrip()) <= indent:
            break
        block.append(line)
    try:
        choices = yaml.load("\n".join(block), Loader=YAML_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(choices, dict):
        return {}
    return {str(group): str(option) for group, option in choices.items() if "/" not in str(group) and option}


def _note_seed(config: dict[str, Any], key: str | None) -> None:
    """Puts the seed under `seed`, where `Run.seed` looks."""
    named = key or next((name for name in ("seed", "seed_everything", "random_seed") if name in config), None)
    if named is None:
        return
    seed = config.pop(named, None)
    if isinstance(seed, float) and seed.is_integer():
        seed = int(seed)
    config["seed"] = seed


def _is_metric(column: str, rows: Sequence[Mapping[str, str]], wanted: set[str]) -> bool:
    found = _METRIC.fullmatch(column)
    named = found is not None and ("/" in column or _WORDS.match(found[2]) is not None)
    if column not in wanted and metric_name(column) not in wanted and not named:
        return False
    values = [row[column] for row in rows if row[column].strip()]
    return bool(values) and all(_number(value) is not None for value in values)


def _column(columns: Iterable[str], *names: str) -> str | None:
    return next((column for column in columns if column.strip().lower() in names), None)


def _typed(text: str) -> Any:
    """A field as YAML reads a scalar, without its surprises: numbers, true, false; nothing and null are None."""
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if word.lower() in ("", "null", "none"):
        return None
    number = _number(word)
    if number is None or not math.isfinite(number):
        return word
    return int(word) if re.fullmatch(r"[+-]?\d+", word) else number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _natural(part: str) -> list[tuple[int, str]]:
    """version_10 comes behind version_9."""
    return [(int(piece or -1) if piece.isdigit() else -1, piece) for piece in re.split(r"(\d+)", part)]
