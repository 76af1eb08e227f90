"""Results as tables: a terminal's, a page's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import Load
from benchmarks.rows import Goal, Row

HEAD = ("row", "what", "against", "ours", "theirs", "figure (quartiles)", "wanted", "met")
FINER = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


@dataclass(frozen=True)
class Result:
    """What a group measured. machine, data: plain JSON; seconds: how long the group took."""

    group: str
    rows: list[Row]
    machine: Mapping[str, Any]
    load: Load
    seconds: float
    data: Mapping[str, Any]

    def beside(self, before: Result | None) -> Result:
        """Returns this result with the rows and data of an earlier one that it does not have."""
        if before is None:
            return self
        rows = {row.name: row for row in (*before.rows, *self.rows)}
        return replace(self, rows=[*rows.values()], data={**before.data, **self.data})

    def to_json(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "machine": dict(self.machine),
            "load": self.load.to_json(),
            "busy": self.load.busy,
            "seconds": round(self.seconds, 1),
            "rows": [row.to_json() for row in self.rows],
            "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> Result:
        rows = [Row.from_json(row) for row in read["rows"]]
        load = Load(**read["load"])
        return cls(read["group"], rows, read["machine"], load, read["seconds"], read["data"])


def save(result: Result, folder: Path) -> Path:
    """Writes FOLDER/GROUP.json."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{result.group}.json"
    file.write_text(json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def load(group: str, folder: Path) -> Result | None:
    """What FOLDER/GROUP.json holds; None where there is none."""
    file = folder / f"{group}.json"
    return Result.from_json(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def cells(row: Row, busy: str = "") -> tuple[str, ...]:
    """A row's texts, in the order of HEAD; with its note and what disturbed it behind what it is."""
    what = "; ".join(filter(None, (row.what, row.note, f"**disturbed: {busy}**" if busy else "")))
    met = {True: "yes", False: "no", None: "-"}[row.met]
    return (
        row.name,
        what,
        row.against,
        amount(row.ours, row.unit),
        amount(row.peer, row.unit),
        figure(row),
        wanted(row),
        met,
    )


def figure(row: Row) -> str:
    """The row's figure with its quartiles, such as `2.31x (2.25 to 2.35)`."""
    low, high = row.spread
    if row.goal == Goal.at_most_more:
        return f"{_signed(row.ratio, row.unit)} ({_signed(low, row.unit)} to {_signed(high, row.unit)})"
    if _is_share(row):
        return f"{row.ratio:.1%} ({low:.1%} to {high:.1%})"
    return f"{digits(row.ratio)}x ({digits(low)} to {digits(high)})"


def wanted(row: Row) -> str:
    """What the row is to reach."""
    if row.target is None:
        return "-"
    if row.goal == Goal.at_most_more:
        return f"at most {amount(row.target, row.unit)} more"
    if _is_share(row):
        return f"at least {row.target:.0%}"
    return f"at {'most' if row.goal == Goal.at_most_ratio else 'least'} {row.target:g}x"


def _is_share(row: Row) -> bool:
    """Whether the figure is a part of what the peer is the whole of."""
    return row.goal == Goal.share


def amount(value: float, unit: str) -> str:
    """A value with its unit; of seconds the unit in which it is 1 or more."""
    if unit != "s":
        return f"{digits(value)} {unit}"
    for name, size in FINER:
        if abs(value) >= size:
            return f"{digits(value / size)} {name}"
    return f"{digits(value / FINER[-1][1])} {FINER[-1][0]}"


def digits(value: float) -> str:
    """Three digits that count, and never fewer than a whole number has."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _signed(value: float, unit: str) -> str:
    return ("+" if value >= 0 else "") + amount(value, unit)


def markdown(results: Iterable[Result]) -> str:
    """The rows of all results in one table."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for result in results:
        for row in result.rows:
            lines.append("| " + " | ".join(text.replace("|", r"\|") for text in cells(row, result.load.busy)) + " |")
    return "\n".join(lines)


def by_processor(columns: Mapping[str, Sequence[Result]]) -> str:
    """Returns the Markdown table of the same groups on several processors, a column each, by their labels.

    A row's figure with its quartiles, below it both sides. What a row is to reach is that of the newest result; where
    another processor is to reach something else, its cell reports it.
    """
    newest: dict[str, Row] = {}
    texts: dict[str, dict[str, str]] = {}
    found = [(label, result) for label, results in columns.items() for result in results]
    for _, result in sorted(found, key=lambda each: str(each[1].machine["date"])):
        newest |= {f"{result.group}/{row.name}": row for row in result.rows}
    for label, result in found:
        for row in result.rows:
            name = f"{result.group}/{row.name}"
            other = wanted(row) if wanted(row) != wanted(newest[name]) else ""
            texts.setdefault(name, {})[label] = _cell(row, other, bool(result.load.busy))
    lines = ["| " + " | ".join(("", "compared with", "wanted", *columns)) + " |", "|---" * (3 + len(columns)) + "|"]
    for name, by_label in texts.items():
        row = newest[name]
        line = [row.what, row.against, wanted(row), *(by_label.get(label, "-") for label in columns)]
        lines.append("| " + " | ".join(text.replace("|", r"\|") for text in line) + " |")
    return "\n".join(lines)


def _cell(row: Row, other: str, disturbed: bool) -> str:
    text = figure(row) + (f", wanted {other}" if other else "") + (" †" if disturbed else "")
    if row.met is False:
        text = f"**not met:** {text}"
    ours, peer = amount(row.ours, row.unit), amount(row.peer, row.unit)
    ours = ours.removesuffix(peer[peer.index(" ") :])  # the unit once where it is the same
    return f"{text}<br>{ours} against {peer}"


def where(results: Sequence[Result], named: bool = True) -> str:
    """On which machines, in one line each, with the groups that were measured there and what disturbed them.

    named: whether to name the processor and its cores.
    """
    groups: dict[str, list[str]] = {}
    for result in results:
        text = _machine(result.machine, named) + (f"; † {result.load.busy}" if result.load.busy else "")
        groups.setdefault(text, []).append(result.group)
    alike = len(groups) == 1
    return "\n".join(text if alike else f"{', '.join(names)}: {text}" for text, names in groups.items())


def _machine(of: Mapping[str, Any], named: bool) -> str:
    counts = (f"{of[key]} {key if of[key] > 1 else key[:-1]}" for key in ("cores", "threads") if of[key] and named)
    threads = f"{of['threads']} thread{'s' * (of['threads'] > 1)}" if of["threads"] and not named else None
    parts = [
        ", ".join((of["cpu"], *counts)) if named else threads,
        of["gpu"],
        f"Python {of['python']}, " + ", ".join(f"{name} {version}" for name, version in of["versions"].items()),
        of["date"],
        f"commit {str(of['commit'])[:12]}" + (" with changes" if of["dirty"] else "") if of["commit"] else None,
    ]
    return "; ".join(filter(None, parts))


def show(results: Sequence[Result], terminal: bool) -> None:
    """Prints the table: drawn in a terminal, Markdown where the output goes elsewhere."""
    if not results:
        return
    if not terminal:
        print(markdown(results), where(results), sep="\n\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEAD, show_lines=True)
    styles = {True: "green", False: "red", None: ""}
    for result in results:
        for row in result.rows:
            *texts, met = (text.replace("**", "").replace("[", r"\[") for text in cells(row, result.load.busy))
            table.add_row(*texts, met, style=styles[row.met])
    console = Console()
    console.print(table)
    console.print(where(results), highlight=False, markup=False)
