"""Reads run folders of other projects: `.hydra/` with a metrics.csv of Lightning's CSVLogger, or that file alone.

Four things are guessed because those folders do not record them (docs/guides/other-projects.md): whether a run is done,
the epoch of its checkpoint, which columns of a CSV file are metrics, and which accuracies are in percent.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from alexnet_exp.errors import UserError
from alexnet_exp.runs.bookkeeping import bookkeeping
from alexnet_exp.runs.folder import flatten
from alexnet_exp.runs.metric import higher_is_better, in_percent, metric_name
from alexnet_exp.runs.reader import YAML_LOADER, read_config
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

MAX_DEPTH = 4  # levels below a run folder that are searched for its metrics.csv: csv/version_0/ is 2
METRICS_FILE = "metrics.csv"
PERCENT_KEY = "in_percent"  # the fact of every foreign run that lists the metrics recorded in percent
UNRECORDED_KEY = "status_unrecorded"  # the fact of a run whose end was not recorded
LABEL_KEY = "label"  # the setting that distinguishes runs without recorded settings
SEED_KEYS = ("seed", "seed_everything", "random_seed", "random_state", "rng_seed")


def find_table(folder: Path) -> Path | None:
    """Returns the metrics.csv of the run in `folder`, of several versions the last one; None if there is none.

    It does not search runs inside the folder.
    """
    found = []
    for here, inner, files in os.walk(folder):
        below = Path(here).relative_to(folder).parts
        if below and (".hydra" in inner or "result.json" in files):
            inner.clear()
            continue
        inner[:] = [name for name in inner if not name.startswith(".") and name != "earlier" and len(below) < MAX_DEPTH]
        if METRICS_FILE in files:
            found.append(Path(here) / METRICS_FILE)
    return max(found, key=lambda path: [_natural(part) for part in path.parts], default=None)


def read_folder(folder: Path, table: Path, name: str, seed_key: str | None = None) -> Run:
    """Returns the run of another Hydra and Lightning project. Raises UserError with the name of a damaged file.

    metrics: the last value of each column of `table`, named `split/metric`. If the configuration has a ModelCheckpoint
    with a monitor, training and validation metrics are those of the epoch it kept. seed_key: the setting of the seed,
    if it is not `seed`.
    """
    config = flatten(read_config(folder))
    note_seed(config, seed_key)
    rows, percent = _read_metrics(table)
    monitor, mode = _monitor(config)
    kept = _kept_epoch(rows, monitor, mode)
    metrics = last_values(rows)
    if kept is not None:
        of_kept = last_values([row for row in rows if row.get("epoch") == kept])
        metrics |= {key: value for key, value in of_kept.items() if not key.startswith("test/")}
    facts: dict[str, Any] = {"overrides": _overrides(folder), "metrics_file": str(table), PERCENT_KEY: percent}
    # Lightning logs the test under the number of an epoch that was not trained
    trained = [row["epoch"] for row in rows if "epoch" in row and not any(key.startswith("test/") for key in row)]
    if trained:
        facts["epochs"] = int(max(trained)) + 1
    if kept is not None:
        facts |= {"metrics_epoch": int(kept) + 1, "tested": "best"}
    status, error = _status(folder, config, metrics, facts.get("epochs", 0))
    if error:
        facts["error"] = error
    return Run(folder, name, status, config, metrics, _chosen(folder), facts)


def read_version(folder: Path, name: str, seed_key: str | None = None) -> Run:
    """Returns the run of a folder of Lightning's CSVLogger: metrics.csv, and hparams.yaml if it exists.

    Its status is done, with the fact `UNRECORDED_KEY`. Without hyperparameters, `LABEL_KEY` distinguishes it.
    """
    rows, percent = _read_metrics(folder / METRICS_FILE)
    config = flatten(_hparams(folder))
    note_seed(config, seed_key)
    if not config.keys() - {"seed"}:
        config[LABEL_KEY] = name
    metrics = last_values(rows)
    facts: dict[str, Any] = {"metrics_file": str(folder / METRICS_FILE), PERCENT_KEY: percent, UNRECORDED_KEY: True}
    trained = [row["epoch"] for row in rows if "epoch" in row and not any(key.startswith("test/") for key in row)]
    if trained:
        facts["epochs"] = int(max(trained)) + 1
    if any(key.startswith("test/") for key in metrics):
        facts[UNRECORDED_KEY] = False
    return Run(folder, name, Status.DONE, config, metrics, {}, facts)


def is_lightning(table: Path) -> bool:
    """Returns whether a metrics.csv is one of Lightning's CSVLogger: it has the columns epoch and step."""
    try:
        with table.open(encoding="utf-8-sig", errors="replace") as file:
            columns = file.readline().strip().split(",")
    except OSError as error:
        raise UserError(f"{table}: cannot be read ({error.strerror})") from None
    return {"epoch", "step"} <= set(columns)


def move_bookkeeping(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs with bookkeeping settings (ids, times, paths) moved from the settings to the facts."""
    foreign = [run for run in runs if "metrics_file" in run.facts]
    keys = dict.fromkeys(key for run in foreign for key in run.config)
    moved = bookkeeping({key: [run.config.get(key) for run in foreign] for key in keys})
    if not moved:
        return list(runs)
    return [
        replace(
            run,
            config={key: value for key, value in run.config.items() if key not in moved},
            facts={key: run.config[key] for key in moved if key in run.config} | run.facts,
        )
        if "metrics_file" in run.facts
        else run
        for run in runs
    ]


def read_history(table: Path) -> list[dict[str, float]]:
    """Returns the rows of Lightning's metrics.csv that have an epoch, in order, each with its non-empty columns.

    LearningRateMonitor writes rows without an epoch before the first one; they are left out.
    """
    return [row for row in _read_metrics(table)[0] if "epoch" in row]


def percent_to_share(runs: Sequence[Run], also: str | None = None) -> tuple[list[Run], list[str]]:
    """Returns the runs with accuracies in percent divided by 100, and notes on what was guessed.

    All runs of a project have one unit: if one foreign run has an accuracy above 1.5, that metric is in percent in all
    of them. A diverged run at 1.0 is at 1%, and not at 100%. also: a metric that is in percent whatever its values are,
    in every run that was not divided before.
    """
    foreign = [run for run in runs if PERCENT_KEY in run.facts]
    found = {key for run in foreign for key in run.facts[PERCENT_KEY]}
    notes = []
    for key in sorted(found if also is None else ()):
        low = [run.name for run in foreign if key in run.metrics and key not in run.facts[PERCENT_KEY]]
        if low:
            some = f"{', '.join(low[:3])}{' ...' if len(low) > 3 else ''}"
            notes.append(
                f"{key} is above 1.5 in some runs and is therefore read as percent; this makes it below 2% in "
                f"{len(low)} of {len(foreign)} runs ({some}); if these are fractions, compare them separately"
            )
    if not found and also is None:
        return list(runs), []
    divided = []
    for run in runs:
        of_run = found if PERCENT_KEY in run.facts else set()
        keys = of_run if also is None else {key for key in run.metrics if _same(key, also)} - of_run
        metrics = {key: value / 100 if key in keys else value for key, value in run.metrics.items()}
        facts = run.facts if PERCENT_KEY not in run.facts else run.facts | {PERCENT_KEY: sorted(of_run | keys)}
        divided.append(replace(run, metrics=metrics, facts=facts) if keys or facts != run.facts else run)
    return divided, notes


def _same(key: str, other: str) -> bool:
    """Returns whether two keys are the same metric of different splits: test/acc and val/acc."""
    return key.rpartition("/")[2] == other.rpartition("/")[2]


def _read_metrics(table: Path) -> tuple[list[dict[str, float]], list[str]]:
    """Returns the rows of Lightning's metrics.csv with their non-empty columns, and the metrics in percent.

    An incomplete last line is dropped.
    """
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
            raise UserError(f"{table}: line {number} has a value that is not a number ({error})") from None
    return rows, [name for name in names if in_percent(name, (row[name] for row in rows if name in row))]


def last_values(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the last value of each metric; a metric whose last value is NaN is left out."""
    found: dict[str, float] = {}
    for row in rows:
        found.update(row)
    return {key: value for key, value in found.items() if key not in ("epoch", "step") and math.isfinite(value)}


def _monitor(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Returns monitor and mode of the ModelCheckpoint in the configuration."""
    for key, target in config.items():
        node, _, last = key.rpartition(".")
        if last == "_target_" and str(target).endswith("ModelCheckpoint"):
            monitor = config.get(f"{node}.monitor")
            if isinstance(monitor, str):
                return metric_name(monitor), config.get(f"{node}.mode")
    return None, None


def _kept_epoch(rows: Sequence[Mapping[str, float]], monitor: str | None, mode: str | None) -> float | None:
    """Returns the first epoch with the best value of the monitor; None without a monitor."""
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
    """Returns the status and the error.

    done: it was tested, or its last epoch is trainer.max_epochs. failed: otherwise, if its log ends with a traceback.
    unknown: otherwise; it may be running, or was killed.
    """
    if any(key.startswith("test/") for key in metrics):
        return Status.DONE, ""
    for log in sorted(path for path in folder.glob("*.log") if path.is_file()):
        _, traceback, trace = log.read_text(encoding="utf-8", errors="replace").rpartition(
            "Traceback (most recent call last)"
        )
        if traceback:
            # the exception is the first line after the traceback that is not indented
            lines = [line for line in trace.splitlines()[1:] if line.strip() and not line.startswith(" ")]
            return Status.FAILED, lines[0] if lines else "see its log"
    limit = config.get("trainer.max_epochs")
    return (Status.DONE, "") if isinstance(limit, int) and 0 < limit <= epochs else (Status.UNKNOWN, "")


def _overrides(folder: Path) -> list[str]:
    try:
        overrides = yaml.load((folder / ".hydra" / "overrides.yaml").read_bytes(), Loader=YAML_LOADER)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return []
    return [str(override) for override in overrides] if isinstance(overrides, list) else []


def _chosen(folder: Path) -> dict[str, str]:
    """Returns the option of each group from hydra.yaml. Parses only those lines, because the file is long."""
    try:
        lines = (folder / ".hydra" / "hydra.yaml").read_text(encoding="utf-8", errors="replace").splitlines()
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


def note_seed(config: dict[str, Any], key: str | None) -> None:
    """Moves the seed to the key `seed`, which `Run.seed` reads."""
    by_name = {name.lower(): name for name in reversed(config)}
    named = key or next((by_name[name] for name in SEED_KEYS if name in by_name), None)
    if named is None:
        return
    seed = config.pop(named, None)
    if isinstance(seed, float) and seed.is_integer():
        seed = int(seed)
    config["seed"] = seed


def _hparams(folder: Path) -> dict[str, Any]:
    """Returns the content of hparams.yaml; empty if it is missing or not plain YAML."""
    try:
        found = yaml.load((folder / "hparams.yaml").read_bytes(), Loader=YAML_LOADER)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _natural(part: str) -> list[tuple[int, str]]:
    """Returns a sort key that puts version_10 after version_9."""
    return [(int(piece or -1) if piece.isdigit() else -1, piece) for piece in re.split(r"(\d+)", part)]
