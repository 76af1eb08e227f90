"""Learning curves thinned for the report: few points, few digits, the same epochs in every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_exp.errors import UserError
from alexnet_exp.runs.import_foreign import PERCENT_KEY, read_history
from alexnet_exp.runs.metric import metric_name
from alexnet_exp.runs.reader import read_metrics
from alexnet_exp.runs.run import Run

POINTS_PER_LINE = 300  # about one per three pixels of the widest plot
MOST_VALUES = 240_000  # of all lines together; a value takes about eight bytes as text
SIGNIFICANT_DIGITS = 5
_TIME_COLUMNS = ("epoch", "step")


@dataclass(frozen=True)
class Curves:
    """The per-epoch metrics of the runs.

    columns: metrics of which at least one run has a value. lines: for each run its `epochs` and its `values`, one list
    per column with None for missing values; None for a run without per-epoch metrics. stride: epochs that are multiples
    of it are kept, and the last epoch of each run. unreadable: one message for each run with a damaged metrics.csv.
    """

    columns: list[str]
    lines: list[dict[str, Any] | None]
    stride: int
    unreadable: list[str]


def read_curves(runs: Sequence[Run]) -> Curves:
    """Returns the curves of `runs`. Unreadable files are listed in `unreadable`."""
    tables: list[dict[int, dict[str, float]]] = []
    unreadable = []
    for run in runs:
        try:
            recorded = run.facts.get("metrics_file")  # of another project's run, in a subfolder
            rows = read_history(Path(recorded)) if recorded else read_metrics(run.path)
            tables.append(_by_epoch(rows, run.facts.get(PERCENT_KEY) or ()))
        except UserError as error:
            tables.append({})
            unreadable.append(str(error))
    columns = sorted({name for table in tables for row in table.values() for name in row}, key=_order)
    longest = max((len(table) for table in tables), default=0)
    total = sum(len(table) for table in tables) * len(columns)
    stride = max(1, math.ceil(longest / POINTS_PER_LINE), math.ceil(total / MOST_VALUES))
    return Curves(columns, [_line(table, columns, stride) for table in tables], stride, unreadable)


def rounded(value: float) -> float | None:
    """Returns `value` with five significant digits; None for infinity and nan, which JSON cannot represent."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None


def _by_epoch(rows: Sequence[Mapping[str, float | None]], percent: Sequence[str]) -> dict[int, dict[str, float]]:
    """Returns the values of each epoch. Loggers of other projects write several rows per epoch, each with some columns.

    percent: names of the metrics that were recorded in percent.
    """
    table: dict[int, dict[str, float]] = {}
    for row in rows:
        epoch = row["epoch"]
        assert epoch is not None  # the readers reject or skip rows without an epoch
        values = {metric_name(column): value for column, value in row.items() if value is not None}
        # Test metrics are measured once, after training, so they are not a curve.
        kept = {
            name: value for name, value in values.items() if name not in _TIME_COLUMNS and not name.startswith("test/")
        }
        if kept:
            table.setdefault(int(epoch), {}).update(kept)
    for values in table.values():
        values.update({name: value / 100 for name, value in values.items() if name in percent})
    return table


def _line(table: dict[int, dict[str, float]], columns: Sequence[str], stride: int) -> dict[str, Any] | None:
    if not table:
        return None
    # Epochs are selected by number, not by index, so that all runs keep the same ones.
    epochs = [epoch for epoch in sorted(table) if epoch % stride == 0 or epoch == max(table)]
    values = [[_value(table[epoch].get(name)) for epoch in epochs] for name in columns]
    return {"epochs": epochs, "values": values}


def _value(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def _order(name: str) -> tuple[int, str]:
    splits = ("val/", "train/")
    return next((place for place, split in enumerate(splits) if name.startswith(split)), len(splits)), name
