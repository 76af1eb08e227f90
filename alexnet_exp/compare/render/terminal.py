"""A comparison on a terminal: tables and colours where there is one, plain lines of any length where there is not."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from alexnet_exp.compare.render.dotplot import PLAIN, Signs, dots_text
from alexnet_exp.compare.render.text import (
    CAVEATS,
    RUNS,
    details,
    is_number_column,
    keeping,
    left_out,
    main_and_rest,
    text_rows,
    titles,
)
from alexnet_exp.compare.result import Comparison, Table
from alexnet_exp.runs.status import Status
from alexnet_exp.sanitize import escape_controls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

# Columns that a narrow window loses, the first first; the metrics that rank go behind the second.
SPARE = ("minutes", "images_per_s", "values", "sd", "difference_interval", "interval", "claim", "claim_status")
FOLDED = 24  # characters in which a run's name, which is folded, can still be read
STYLES: dict[str, str] = {
    Status.DONE: "",
    Status.RUNNING: "cyan",
    Status.FAILED: "red",
    Status.DIED: "red",
    Status.INTERRUPTED: "yellow",
    Status.PRUNED: "dim",
}


def show(comparison: Comparison, limit: int = RUNS) -> None:
    """Prints it to stdout: sentence, dot plot, one table, the caveats, everything else."""
    if not sys.stdout.isatty():
        print(escape_controls("\n".join(plain_lines(comparison, limit))))
        return
    from rich.console import Console

    show_rich(comparison, Console(highlight=False), limit)


def plain_lines(comparison: Comparison, limit: int = RUNS) -> list[str]:
    """For a file or a pipe: nothing is folded, nothing is coloured."""
    main, rest = main_and_rest(comparison)
    parts = [
        [comparison.sentence],
        [line.text for line in dots_text(comparison, signs=signs())],
        aligned(main, limit, comparison.metric.key),
        [f"{CAVEATS}:", *(f"  {line}" for line in comparison.caveats)] if comparison.caveats else [],
        details(comparison),
        aligned(rest, limit, comparison.metric.key) if rest is not None else [],
    ]
    lines: list[str] = []
    for part in filter(None, parts):
        lines += ["", *part] if lines else part
    return lines


def show_rich(comparison: Comparison, console: Console, limit: int = RUNS) -> None:
    """For a terminal."""
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
        for said in comparison.caveats:
            console.print(Text(f"  {escape_controls(said)}"))
    for said in details(comparison):
        # not folded: commands are among them, to be copied
        console.print(Text(escape_controls(said)), soft_wrap=True)
    if rest is not None:
        console.print()
        _print_table(rest, console, limit, comparison.metric.key)


def show_claims(table: Table, notes: Sequence[str]) -> None:
    """Prints the table of claims, cells folded to the window on a terminal, and what must be known of it."""
    if not sys.stdout.isatty():
        lines = [*(aligned(table) if table.rows else []), *([""] if table.rows else []), *notes]
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


def aligned(table: Table, limit: int | None = None, metric: str = "") -> list[str]:
    """A table as lines, its columns padded with spaces and two apart; numbers stand to the right."""
    rows = [titles(table, metric), *text_rows(table, limit, metric)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.keys))]
    right = [is_number_column(table, place) for place in range(len(table.keys))]
    lines = [_line(row, widths, right) for row in rows]
    more = left_out(table, limit) if limit is not None else None
    return [*lines, *([more] if more else [])]


def rich_table(table: Table, limit: int | None = None, metric: str = "") -> RichTable:
    """The table for a terminal; a run that is not done has its status's colour."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(show_edge=False, pad_edge=False, header_style="bold")
    for place, title in enumerate(titles(table, metric)):
        # the status and the numbers are what must never be cut; the name of a run is long, and its end tells most
        name = table.keys[place] == "run"
        drawn.add_column(
            Text(title),
            justify="right" if is_number_column(table, place) else "left",
            overflow="fold" if name else "ellipsis",
            no_wrap=not name,
        )
    status = table.keys.index("status") if "status" in table.keys else None
    for row, texts in zip(table.rows, text_rows(table, limit, metric), strict=False):
        style = STYLES.get(str(row[status]), "") if status is not None else ""
        drawn.add_row(*(Text(text) for text in texts), style=style)
    return drawn


def signs() -> Signs:
    """What stdout can show."""
    try:
        "●├─┤◇".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return Signs()


def fitting(table: Table, width: int, limit: int | None = None, metric: str = "") -> Table:
    """The table without as many of its `SPARE` columns as it must lose to be at most `width` wide."""
    rows = [titles(table, metric), *text_rows(table, limit, metric)]
    widths = {key: max(len(row[place]) for row in rows) for place, key in enumerate(table.keys)}
    if "run" in widths:
        widths["run"] = min(widths["run"], FOLDED)
    ranks = [key for key in table.keys if key.startswith("val/") and key != metric]
    for key in [*SPARE[:2], *ranks, *SPARE[2:]]:
        if sum(widths.values()) + 3 * (len(widths) - 1) <= width:
            break
        widths.pop(key, None)
    return keeping(table, list(widths))


def _print_table(table: Table, console: Console, limit: int, metric: str) -> None:
    from rich.text import Text

    shown = fitting(table, console.width, limit, metric)
    console.print(rich_table(shown, limit, metric))
    hidden = [title for key, title in zip(table.keys, table.titles, strict=True) if key not in shown.keys]
    if hidden:
        console.print(Text(escape_controls(f"in a wider window: {', '.join(hidden)}"), style="dim"))
    more = left_out(table, limit)
    if more:
        console.print(more)


def _line(cells: Sequence[str], widths: Iterable[int], right: Iterable[bool]) -> str:
    padded = (
        text.rjust(width) if to_right else text.ljust(width)
        for text, width, to_right in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()
