"""Prints a comparison: with tables and colours on a terminal, as plain lines of any length elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from alexnet_exp.compare.render.dotplot import ASCII_SIGNS, PlotSigns, dots_text
from alexnet_exp.compare.render.text import (
    CAVEATS,
    MOST_PRINTED_RUNS,
    details,
    is_number_column,
    main_and_rest,
    omitted_text,
    select_columns,
    text_rows,
    titles,
)
from alexnet_exp.compare.result import Comparison, ComparisonTable
from alexnet_exp.runs.status import Status
from alexnet_exp.sanitize import escape_controls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

# Columns that a narrow window omits, in this order; the ranking metrics follow the second.
OPTIONAL_COLUMNS = (
    "minutes",
    "images_per_s",
    "values",
    "sd",
    "difference_interval",
    "interval",
    "claim",
    "claim_status",
)
RUN_NAME_CHARACTERS = 24  # the narrowest column of run names, which are wrapped
STATUS_STYLES: dict[str, str] = {
    Status.DONE: "",
    Status.RUNNING: "cyan",
    Status.FAILED: "red",
    Status.DIED: "red",
    Status.INTERRUPTED: "yellow",
    Status.PRUNED: "dim",
}


def show(comparison: Comparison, limit: int = MOST_PRINTED_RUNS) -> None:
    """Prints the comparison to stdout: sentence, dot plot, one table, the caveats, everything else."""
    if not sys.stdout.isatty():
        print(escape_controls("\n".join(plain_lines(comparison, limit))))
        return
    from rich.console import Console

    show_rich(comparison, Console(highlight=False), limit)


def plain_lines(comparison: Comparison, limit: int = MOST_PRINTED_RUNS) -> list[str]:
    """Returns the lines for a file or a pipe, neither wrapped nor coloured."""
    main, rest = main_and_rest(comparison)
    parts = [
        [comparison.sentence],
        [line.text for line in dots_text(comparison, signs=signs())],
        align_table(main, limit, comparison.metric.key),
        [f"{CAVEATS}:", *(f"  {line}" for line in comparison.caveats)] if comparison.caveats else [],
        details(comparison),
        align_table(rest, limit, comparison.metric.key) if rest is not None else [],
    ]
    lines: list[str] = []
    for part in filter(None, parts):
        lines += ["", *part] if lines else part
    return lines


def show_rich(comparison: Comparison, console: Console, limit: int = MOST_PRINTED_RUNS) -> None:
    """Prints the comparison to a terminal."""
    from rich.text import Text

    main, rest = main_and_rest(comparison)
    console.print(Text(escape_controls(comparison.sentence), style="bold"))
    dots = dots_text(comparison, min(console.width, 120), signs())
    if dots:
        console.print()
    for line in dots:
        console.print(
            Text(escape_controls(line.text), style="dim" if line.grey else "", no_wrap=True, overflow="ellipsis")
        )
    console.print()
    _print_table(main, console, limit, comparison.metric.key)
    if comparison.caveats:
        console.print(Text(f"{CAVEATS}:", style="bold yellow"))
        for caveat in comparison.caveats:
            console.print(Text(f"  {escape_controls(caveat)}"))
    for detail in details(comparison):
        # Lines are not wrapped, so that commands can be copied.
        console.print(Text(escape_controls(detail)), soft_wrap=True)
    if rest is not None:
        console.print()
        _print_table(rest, console, limit, comparison.metric.key)


def show_claims(table: ComparisonTable, notes: Sequence[str]) -> None:
    """Prints the table of claims, wrapped to the window on a terminal, and its notes."""
    if not sys.stdout.isatty():
        lines = [*(align_table(table) if table.rows else []), *([""] if table.rows else []), *notes]
        print(escape_controls("\n".join(lines)))
        return
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    if table.rows:
        drawn = RichTable(show_edge=False, pad_edge=False, header_style="bold")
        for title in table.titles:
            drawn.add_column(Text(escape_controls(title)), overflow="fold")
        for row in text_rows(table):
            drawn.add_row(*map(Text, row))
        console.print(drawn)
        console.print()
    for note in notes:
        console.print(Text(escape_controls(note)))


def align_table(table: ComparisonTable, limit: int | None = None, metric: str = "") -> list[str]:
    """Returns a table as lines with padded columns, two spaces apart; numbers are aligned to the right."""
    rows = [titles(table, metric), *text_rows(table, limit, metric)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.keys))]
    right = [is_number_column(table, place) for place in range(len(table.keys))]
    lines = [_line(row, widths, right) for row in rows]
    more = omitted_text(table, limit) if limit is not None else None
    return [*lines, *([more] if more else [])]


def rich_table(table: ComparisonTable, limit: int | None = None, metric: str = "") -> RichTable:
    """Returns the table for a terminal; a run that is not done has the colour of its status."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(show_edge=False, pad_edge=False, header_style="bold")
    for place, title in enumerate(titles(table, metric)):
        # Status and numbers must not be cut. The names of runs are long and differ at their ends, so they are wrapped.
        name = table.keys[place] == "run"
        drawn.add_column(
            Text(title),
            justify="right" if is_number_column(table, place) else "left",
            overflow="fold" if name else "ellipsis",
            no_wrap=not name,
        )
    status = table.keys.index("status") if "status" in table.keys else None
    for row, texts in zip(table.rows, text_rows(table, limit, metric), strict=False):
        style = STATUS_STYLES.get(str(row[status]), "") if status is not None else ""
        drawn.add_row(*(Text(text) for text in texts), style=style)
    return drawn


def signs() -> PlotSigns:
    """Returns the characters of the dot plot that stdout can encode."""
    try:
        "●├─┤◇".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_SIGNS
    return PlotSigns()


def fit_table(table: ComparisonTable, width: int, limit: int | None = None, metric: str = "") -> ComparisonTable:
    """Returns the table without those of its `OPTIONAL_COLUMNS` that do not fit into `width` characters."""
    rows = [titles(table, metric), *text_rows(table, limit, metric)]
    widths = {key: max(len(row[place]) for row in rows) for place, key in enumerate(table.keys)}
    if "run" in widths:
        widths["run"] = min(widths["run"], RUN_NAME_CHARACTERS)
    ranks = [key for key in table.keys if key.startswith("val/") and key != metric]
    for key in [*OPTIONAL_COLUMNS[:2], *ranks, *OPTIONAL_COLUMNS[2:]]:
        if sum(widths.values()) + 3 * (len(widths) - 1) <= width:
            break
        widths.pop(key, None)
    return select_columns(table, list(widths))


def _print_table(table: ComparisonTable, console: Console, limit: int, metric: str) -> None:
    from rich.text import Text

    shown = fit_table(table, console.width, limit, metric)
    console.print(rich_table(shown, limit, metric))
    hidden = [title for key, title in zip(table.keys, table.titles, strict=True) if key not in shown.keys]
    if hidden:
        console.print(Text(escape_controls(f"more columns in a wider window: {', '.join(hidden)}"), style="dim"))
    more = omitted_text(table, limit)
    if more:
        console.print(more)


def _line(cells: Sequence[str], widths: Iterable[int], right: Iterable[bool]) -> str:
    padded = (
        text.rjust(width) if to_right else text.ljust(width)
        for text, width, to_right in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()
