"""Runs that another project recorded in folders: Hydra's `.hydra/` beside a metrics.csv of Lightning's CSVLogger, or
that file alone.

What is not recorded there is not guessed, with four exceptions (docs/guides/other-projects.md): whether a run is done,
which epoch its checkpoint is of, which columns of a CSV file are metrics, and which accuracies are in percent.
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

DEPTH = 4  # how far below a run's folder its metrics.csv is looked for: csv/version_0/ is 2
TABLE = "metrics.csv"
PERCENT = "in_percent"  # the fact that names the metrics which were recorded in percent; every foreign run has it
UNRECORDED = "status_unrecorded"  # the fact of a run that nobody recorded the end of
LABEL = "label"  # the setting that tells runs apart of which no setting was recorded
SEEDS = ("seed", "seed_everything", "random_seed", "random_state", "rng_seed")


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
        if TABLE in files:
            found.append(Path(here) / TABLE)
    return max(found, key=lambda path: [_natural(part) for part in path.parts], default=None)


def read_folder(folder: Path, table: Path, name: str, seed_key: str | None = None) -> Run:
    """The run of another Hydra and Lightning project. Raises UserError, naming the file, where one is damaged.

    metrics: the last value of each column of `table`, named `split/metric`; where the configuration has a
    ModelCheckpoint with a monitor, those of training and validation are of the epoch that it kept. seed_key: the
    setting that holds the seed, where it is not `seed`.
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
    facts: dict[str, Any] = {"overrides": _overrides(folder), "metrics_file": str(table), PERCENT: percent}
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


def read_version(folder: Path, name: str, seed_key: str | None = None) -> Run:
    """The run of a folder of Lightning's CSVLogger alone: metrics.csv, and hparams.yaml where it was saved.

    It counts as done, since nothing there says otherwise; `UNRECORDED` says so. Without hyperparameters `LABEL` tells
    it apart.
    """
    rows, percent = _read_metrics(folder / TABLE)
    config = flatten(_hparams(folder))
    note_seed(config, seed_key)
    if not config.keys() - {"seed"}:
        config[LABEL] = name
    metrics = last_values(rows)
    facts: dict[str, Any] = {"metrics_file": str(folder / TABLE), PERCENT: percent, UNRECORDED: True}
    trained = [row["epoch"] for row in rows if "epoch" in row and not any(key.startswith("test/") for key in row)]
    if trained:
        facts["epochs"] = int(max(trained)) + 1
    if any(key.startswith("test/") for key in metrics):
        facts[UNRECORDED] = False
    return Run(folder, name, Status.DONE, config, metrics, {}, facts)


def is_lightning(table: Path) -> bool:
    """Whether a metrics.csv is one of Lightning's CSVLogger: its columns say the epoch and the step."""
    try:
        with table.open(encoding="utf-8-sig", errors="replace") as file:
            columns = file.readline().strip().split(",")
    except OSError as error:
        raise UserError(f"{table}: cannot be read ({error.strerror})") from None
    return {"epoch", "step"} <= set(columns)


def without_bookkeeping(runs: Sequence[Run]) -> list[Run]:
    """The runs with the settings that are the id, time or place of a run, and differ in all, among their facts."""
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
    """The rows of Lightning's metrics.csv that have an epoch, in their order; each has the columns that it fills.

    A row without an epoch is one of LearningRateMonitor before the first, and is left out.
    """
    return [row for row in _read_metrics(table)[0] if "epoch" in row]


def in_shares(runs: Sequence[Run], also: str | None = None) -> tuple[list[Run], list[str]]:
    """The runs with the accuracies that were recorded in percent as shares, and a note where that was a guess.

    A unit belongs to a project and not to a run: where one foreign run has an accuracy above 1.5, that metric is in
    percent in all of them. A diverged run at 1.0 is at 1%, and not at 100%. also: a metric that is in percent whatever
    its values are, of every run that was not divided before.
    """
    foreign = [run for run in runs if PERCENT in run.facts]
    found = {key for run in foreign for key in run.facts[PERCENT]}
    notes = []
    for key in sorted(found if also is None else ()):
        low = [run.name for run in foreign if key in run.metrics and key not in run.facts[PERCENT]]
        if low:
            some = f"{', '.join(low[:3])}{' ...' if len(low) > 3 else ''}"
            notes.append(
                f"{key} was recorded in percent, since it is above 1.5 in other runs; so it is taken to be below 2% in "
                f"{len(low)} of {len(foreign)} runs ({some}); if these have shares, compare them on their own"
            )
    if not found and also is None:
        return list(runs), []
    divided = []
    for run in runs:
        of_run = found if PERCENT in run.facts else set()
        keys = of_run if also is None else {key for key in run.metrics if _same(key, also)} - of_run
        metrics = {key: value / 100 if key in keys else value for key, value in run.metrics.items()}
        facts = run.facts if PERCENT not in run.facts else run.facts | {PERCENT: sorted(of_run | keys)}
        divided.append(replace(run, metrics=metrics, facts=facts) if keys or facts != run.facts else run)
    return divided, notes


def _same(key: str, other: str) -> bool:
    """Whether two metrics are one of different splits: test/acc and val/acc."""
    return key.rpartition("/")[2] == other.rpartition("/")[2]


def _read_metrics(table: Path) -> tuple[list[dict[str, float]], list[str]]:
    """The rows of Lightning's metrics.csv, each with the columns that it fills; and the metrics that are in percent.

    A line cut off by a kill is dropped.
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
            raise UserError(f"{table}: line {number} has a value that is no number ({error})") from None
    return rows, [name for name in names if in_percent(name, (row[name] for row in rows if name in row))]


def last_values(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
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
        return Status.DONE, ""
    for log in sorted(path for path in folder.glob("*.log") if path.is_file()):
        _, traceback, trace = log.read_text(encoding="utf-8", errors="replace").rpartition(
            "Traceback (most recent call last)"
        )
        if traceback:
            # the exception is the first line behind the traceback that is not indented
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
    """The option of each group from hydra.yaml, of which only the few lines that tell it are parsed: it is long."""
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
    """Puts the seed under `seed`, where `Run.seed` looks."""
    by_name = {name.lower(): name for name in reversed(config)}
    named = key or next((by_name[name] for name in SEEDS if name in by_name), None)
    if named is None:
        return
    seed = config.pop(named, None)
    if isinstance(seed, float) and seed.is_integer():
        seed = int(seed)
    config["seed"] = seed


def _hparams(folder: Path) -> dict[str, Any]:
    """hparams.yaml; nothing where it is missing, or holds what is no plain YAML."""
    try:
        found = yaml.load((folder / "hparams.yaml").read_bytes(), Loader=YAML_LOADER)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _natural(part: str) -> list[tuple[int, str]]:
    """version_10 comes behind version_9."""
    return [(int(piece or -1) if piece.isdigit() else -1, piece) for piece in re.split(r"(\d+)", part)]
