"""Learning curves small enough to be embedded: few points, few digits, the same epochs in every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_exp.errors import UserError
from alexnet_exp.runs.import_foreign import PERCENT, read_history
from alexnet_exp.runs.metric import metric_name
from alexnet_exp.runs.reader import read_metrics
from alexnet_exp.runs.run import Run

POINTS = 300  # of one line: about one a pixel of where it is drawn
VALUES = 240_000  # of all lines; written out, a value takes about eight bytes
DIGITS = 5
_TIME = ("epoch", "step")


@dataclass(frozen=True)
class Curves:
    """What the runs measured by epoch.

    columns: metrics that at least one run has at least once. lines: for each run, in their order, its epochs and one
    list a column (None where it has none); None for a run without any. stride: every so-maniest epoch was kept, and
    each run's last. unreadable: one line for each run whose metrics.csv is damaged.
    """

    columns: list[str]
    lines: list[dict[str, Any] | None]
    stride: int
    unreadable: list[str]


def read_curves(runs: Sequence[Run]) -> Curves:
    """The curves of `runs`; whatever cannot be read is left out and named."""
    tables: list[dict[int, dict[str, float]]] = []
    unreadable = []
    for run in runs:
        try:
            recorded = run.facts.get("metrics_file")  # by another project, somewhere below the run's folder
            rows = read_history(Path(recorded)) if recorded else read_metrics(run.path)
            tables.append(_by_epoch(rows, run.facts.get(PERCENT) or ()))
        except UserError as error:
            tables.append({})
            unreadable.append(str(error))
    columns = sorted({name for table in tables for row in table.values() for name in row}, key=_order)
    longest = max((len(table) for table in tables), default=0)
    total = sum(len(table) for table in tables) * len(columns)
    stride = max(1, math.ceil(longest / POINTS), math.ceil(total / VALUES))
    return Curves(columns, [_line(table, columns, stride) for table in tables], stride, unreadable)


def rounded(value: float) -> float | None:
    """To five significant digits; None for what JSON cannot hold."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _by_epoch(rows: Sequence[Mapping[str, float | None]], percent: Sequence[str]) -> dict[int, dict[str, float]]:
    """Joins the rows of an epoch, of which other loggers write several, each with some of the columns.

    percent: the metrics that were recorded in percent.
    """
    table: dict[int, dict[str, float]] = {}
    for row in rows:
        epoch = row["epoch"]
        assert epoch is not None  # read_metrics refuses such a row
        values = {metric_name(column): value for column, value in row.items() if value is not None}
        # what was tested once, at the end, is no curve
        kept = {name: value for name, value in values.items() if name not in _TIME and not name.startswith("test/")}
        if kept:
            table.setdefault(int(epoch), {}).update(kept)
    for had in table.values():
        had.update({name: value / 100 for name, value in had.items() if name in percent})
    return table


def _line(table: dict[int, dict[str, float]], columns: Sequence[str], stride: int) -> dict[str, Any] | None:
    if not table:
        return None
    # by the epoch's number, not by its place: then runs that began at the same epoch keep the same ones
    epochs = [epoch for epoch in sorted(table) if epoch % stride == 0 or epoch == max(table)]
    values = [[_value(table[epoch].get(name)) for epoch in epochs] for name in columns]
    return {"epochs": epochs, "values": values}


def _value(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def _order(name: str) -> tuple[int, str]:
    splits = ("val/", "train/")
    return next((place for place, split in enumerate(splits) if name.startswith(split)), len(splits)), name
