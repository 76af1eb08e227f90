"""Reads the files of a run folder. A damaged file raises a UserError with its name."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from alexnet_exp.errors import UserError
from alexnet_exp.runs.lock import in_use
from alexnet_exp.runs.plain_yaml import Loader
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.table import read_table

RESULT_FORMAT = 1
YAML_LOADER = Loader


def is_run(path: Path) -> bool:
    """Returns whether `path` is the folder of a run with any status; False if this user may not read it."""
    try:
        return (path / "result.json").is_file()
    except OSError:
        return False


def state(path: Path) -> str:
    """Returns the status in result.json (see `Status`), or `died` if that is running and no process holds the lock."""
    status = str(read_result(path)["status"])
    if status == Status.RUNNING and not in_use(path):
        # the run may have ended between the two reads
        status = str(read_result(path)["status"])
        return str(Status.DIED) if status == Status.RUNNING else status
    return status


def read_result(path: Path) -> dict[str, Any]:
    """Returns the content of result.json."""
    file = path / "result.json"
    try:
        result = json.loads(_bytes(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(result, dict) or "status" not in result:
        raise UserError(f"{file}: not the result of a run: no status")
    if result.get("format") != RESULT_FORMAT:
        raise UserError(f"{file}: format {result.get('format')}, but this version reads format {RESULT_FORMAT}")
    return result


def read_config(path: Path) -> dict[str, Any]:
    """Returns the composed configuration as plain containers without interpolations."""
    file = path / ".hydra" / "config.yaml"
    try:
        config = yaml.load(_bytes(file), Loader=YAML_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: not a configuration: no settings")
    return config


def chosen_options(path: Path) -> dict[str, Any]:
    """Returns `overrides` (as typed) and `choices` (the option of each group) from Hydra's file.

    Empty for a run that was started from Python.
    """
    try:
        hydra = yaml.load((path / ".hydra" / "hydra.yaml").read_bytes(), Loader=YAML_LOADER)["hydra"]
        choices = {group: option for group, option in hydra["runtime"]["choices"].items() if "/" not in group}
        return {"overrides": list(hydra["overrides"]["task"]), "choices": choices}
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Returns one row an epoch, in order, from metrics.csv and metrics-N.csv. An empty field is None.

    `epoch` and `step` are ints, the other columns floats. Without a file there are no rows.
    """
    rows = _numbers(path / "metrics.csv")
    by_epoch = {row["epoch"]: row for row in rows}
    for file in sorted(path.glob("metrics-*.csv")):
        for late in _numbers(file):
            if late["epoch"] in by_epoch:
                by_epoch[late["epoch"]].update(late)
    return rows


def read_steps(path: Path) -> list[tuple[int, float, float]]:
    """Returns step, loss and learning rate of every recorded step; without a file, no rows."""
    file = path / "steps.csv"
    try:
        return [(int(row["step"]), float(row["loss"]), float(row["lr"])) for row in _rows(file)]
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: not a table of step, loss and lr ({error})") from None


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    try:
        columns, rows = read_table(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise UserError(f"{file}: not a CSV file ({error})") from None
    except MemoryError:
        raise UserError(f"{file}: does not fit in memory") from None
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _numbers(file: Path) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for number, row in enumerate(_rows(file), start=2):
        try:
            rows.append({column: _number(column, text) for column, text in row.items()})
        except ValueError as error:
            raise UserError(f"{file}: line {number} has a value that is not a number ({error})") from None
        if rows[-1].get("epoch") is None:
            raise UserError(f"{file}: line {number} has no epoch")
    return rows


def _number(column: str, text: str) -> float | None:
    if not text:
        return None
    return int(text) if column in ("epoch", "step") else float(text)


def _bytes(file: Path) -> bytes:
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a read of a pipe would block
            raise UserError(f"{file}: not a regular file")
        return file.read_bytes()
    except MemoryError:
        raise UserError(f"{file}: does not fit in memory") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
