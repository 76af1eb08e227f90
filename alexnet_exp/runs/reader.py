"""Reading a run folder back. What is damaged raises a UserError that names the file."""

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

FORMAT = 1
YAML_LOADER = Loader


def is_run(path: Path) -> bool:
    """Whether `path` is the folder of a run, in whatever state; not one that this user may not look into."""
    try:
        return (path / "result.json").is_file()
    except OSError:
        return False


def state(path: Path) -> str:
    """The status that result.json says (see `Status`); `died` if it says running but is not."""
    status = str(read_result(path)["status"])
    if status == Status.RUNNING and not in_use(path):
        # it may have ended between the two looks
        status = str(read_result(path)["status"])
        return str(Status.DIED) if status == Status.RUNNING else status
    return status


def read_result(path: Path) -> dict[str, Any]:
    """result.json of the run in `path`."""
    file = path / "result.json"
    try:
        result = json.loads(_bytes(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(result, dict) or "status" not in result:
        raise UserError(f"{file}: not the result of a run: it has no status")
    if result.get("format") != FORMAT:
        raise UserError(f"{file}: format {result.get('format')}, but this version reads format {FORMAT}")
    return result


def read_config(path: Path) -> dict[str, Any]:
    """The composed configuration of the run in `path`, as plain containers and without interpolation."""
    file = path / ".hydra" / "config.yaml"
    try:
        config = yaml.load(_bytes(file), Loader=YAML_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: not a configuration: it holds no settings")
    return config


def chosen_options(path: Path) -> dict[str, Any]:
    """Of the run in `path`, as Hydra noted it: `overrides` (what was typed) and `choices` (each group's option).

    Empty where it noted nothing: a run that was started from Python.
    """
    try:
        hydra = yaml.load((path / ".hydra" / "hydra.yaml").read_bytes(), Loader=YAML_LOADER)["hydra"]
        choices = {group: option for group, option in hydra["runtime"]["choices"].items() if "/" not in group}
        return {"overrides": list(hydra["overrides"]["task"]), "choices": choices}
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """One row an epoch, in order, from metrics.csv and those beside it; an empty field is None, no file is no rows.

    `epoch` and `step` are ints, all else floats.
    """
    rows = _numbers(path / "metrics.csv")
    by_epoch = {row["epoch"]: row for row in rows}
    for file in sorted(path.glob("metrics-*.csv")):
        for late in _numbers(file):
            if late["epoch"] in by_epoch:
                by_epoch[late["epoch"]].update(late)
    return rows


def read_steps(path: Path) -> list[tuple[int, float, float]]:
    """Step, loss and learning rate of every recorded step; no file is no rows."""
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
        raise UserError(f"{file}: does not fit into memory") from None
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _numbers(file: Path) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for number, row in enumerate(_rows(file), start=2):
        try:
            rows.append({column: _number(column, text) for column, text in row.items()})
        except ValueError as error:
            raise UserError(f"{file}: line {number} has a value that is no number ({error})") from None
        if rows[-1].get("epoch") is None:
            raise UserError(f"{file}: line {number} has no epoch")
    return rows


def _number(column: str, text: str) -> float | None:
    if not text:
        return None
    return int(text) if column in ("epoch", "step") else float(text)


def _bytes(file: Path) -> bytes:
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe would be waited for
            raise UserError(f"{file}: is no file")
        return file.read_bytes()
    except MemoryError:
        raise UserError(f"{file}: does not fit into memory") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
