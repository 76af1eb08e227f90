"""`runs`: the latest runs and their progress; `runs show RUN`; `runs diff A B`. torch is not imported."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from alexnet_exp.cli.parser import Parser
from alexnet_exp.compare.result import ComparisonTable
from alexnet_exp.errors import UserError, one_line
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.lookup import find
from alexnet_exp.sanitize import escape_controls, spreadsheet_cell

MOST_LISTED_RUNS = 15  # without --all


def run(arguments: list[str]) -> int:
    """Prints the latest runs, or calls `runs show` or `runs diff`."""
    commands = {"show": _show, "diff": _diff}
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    parser = Parser("runs", "Lists the latest runs and their progress; or: runs show RUN; runs diff A B.")
    parser.add_argument("path", nargs="?", default=str(outputs_folder()), metavar="PATH", help="default: outputs")
    parser.add_argument(
        "--all", action="store_true", help=f"all runs, and each job of a sweep; default: the latest {MOST_LISTED_RUNS}"
    )
    parser.add_argument("--format", choices=("table", "markdown", "csv", "json"), default="table")
    given = parser.parse_args(arguments)
    path = Path(given.path)
    if not path.is_dir() and (outputs_folder() / given.path).is_dir():
        path = outputs_folder() / given.path
    if not path.is_dir():
        raise UserError(f"runs: {given.path}: no such folder; train first, or give a folder of runs")
    from alexnet_exp.compare.runs_list import as_table, list_entries
    from alexnet_exp.runs.read_runs import read_runs

    found = read_runs(path)
    lines = list_entries(path, list(found), sweeps=not given.all)
    newest = lines if given.all else lines[:MOST_LISTED_RUNS]
    if not lines:
        print(f"no runs under {one_line(path)}", file=sys.stderr)
    _print(as_table(newest), given.format)
    if len(lines) > len(newest) and given.format == "table":
        print(f"{len(lines) - len(newest):,} older; use --all to list them")
    for damaged in found.skipped:
        print(escape_controls(f"skipped: {damaged}"), file=sys.stderr)
    return 0


def _print(table: ComparisonTable, form: str) -> None:
    from alexnet_exp.compare.render import terminal, text

    if form == "json":
        print(json.dumps([dict(zip(table.keys, row, strict=True)) for row in table.rows], indent=1))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([map(spreadsheet_cell, row) for row in (table.keys, *table.rows)])
    elif form == "markdown":
        print(text.markdown_table(table, len(table.rows)))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(terminal.rich_table(table))
    else:
        print(escape_controls("\n".join(terminal.align_table(table))))


def _show(arguments: list[str]) -> int:
    from alexnet_exp.compare.runs_show import describe_run
    from alexnet_exp.runs.read_runs import as_run

    parser = Parser("runs show", "Prints the status, settings, metrics and provenance of one run.")
    parser.add_argument("run", metavar="RUN", help="a run folder, last, or a unique prefix of its path")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    given = parser.parse_args(arguments)
    path = find(given.run, outputs_folder())
    found = as_run(path, str(path))
    if given.format == "json":
        result = {"run": str(path), "status": found.status, "metrics": found.metrics, "choices": found.choices}
        print(json.dumps(result | found.facts | {"config": found.config}, indent=1))
        return 0
    print(escape_controls("\n".join(describe_run(found))))
    return 0


def _diff(arguments: list[str]) -> int:
    from alexnet_exp.compare.runs_show import describe_difference
    from alexnet_exp.runs.read_runs import as_run

    parser = Parser("runs diff", "Prints the differences between two runs: settings, code, versions, machine, metrics.")
    parser.add_argument("first", metavar="A", help="a run folder, last, or a unique prefix of its path")
    parser.add_argument("second", metavar="B")
    given = parser.parse_args(arguments)
    first, second = (
        as_run(path, str(path)) for path in (find(given.first, outputs_folder()), find(given.second, outputs_folder()))
    )
    print(escape_controls("\n".join(describe_difference(first, second))))
    return 0
