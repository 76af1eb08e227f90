"""`compare PATH...`: which arm of the runs is better, by how much, and whether that is noise. torch is not imported."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from alexnet_exp.cli.parser import Parser
from alexnet_exp.compare.result import Comparison
from alexnet_exp.compare.select import check_names, filter_runs, metric_keys, other_values, runs_table, sort_by_column
from alexnet_exp.errors import ExitCode, UserError, one_line, suggest_name
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.lookup import find
from alexnet_exp.runs.read_runs import Runs
from alexnet_exp.runs.run import Run
from alexnet_exp.sanitize import escape_controls

FORMATS = ("table", "markdown", "csv", "json")


def run(arguments: list[str]) -> int:
    """Prints the comparison. With --assert-equal the exit code is 1 if the steps of two runs differ."""
    given = _parser().parse_args(_with_sort(arguments))
    if given.assert_equal:
        return _assert_equal(given)
    if given.tolerance is not None:
        raise UserError("compare: --tolerance is an option of --assert-equal; add --assert-equal")
    if given.html and any(Path(path).resolve() == Path(given.html).resolve() for path in given.paths):
        raise UserError(f"compare: --html {given.html}: would overwrite an input; write another file")
    if given.claims:
        return _claims(given)

    from alexnet_exp.compare.compare import default_metric
    from alexnet_exp.runs.read_runs import read_runs

    found = read_runs(
        *_places(given.paths), seed_column=given.seed_column, metrics=[given.metric] if given.metric else ()
    )
    if not found:
        skipped = "".join(f"\nskipped: {line}" for line in found.skipped)
        raise UserError(f"compare: no run under {' '.join(given.paths) or outputs_folder()}; train one first{skipped}")
    runs = filter_runs(found, given.where)
    if not runs:
        wanted = f"{' and '.join(given.where)}{other_values(found, given.where)}"
        raise UserError(f"compare: none of {len(found):,} runs has {wanted}")
    metric = _metric(given.metric, runs)
    with _as_declared(given, metric or default_metric(runs)):
        return _compare(given, found, runs, metric)


def _compare(given: Namespace, found: Runs, runs: Sequence[Run], metric: str | None) -> int:
    from alexnet_exp.compare.compare import compare, default_metric
    from alexnet_exp.compare.options import CompareOptions
    from alexnet_exp.compare.tables import ARM_COLUMNS

    if given.percent:
        from alexnet_exp.runs.import_foreign import percent_to_share

        runs, _ = percent_to_share(runs, metric or default_metric(runs))
    columns = _names(given.columns)
    check_names([key for key in columns if key not in ARM_COLUMNS], runs, "--columns")
    check_names([given.sort.removeprefix("-")] if given.sort else [], runs, "--sort")
    check_names(_names(given.group_by), runs, "--group-by")
    check_names(_names(given.best_of), runs, "--best-of")
    check_names(_names(given.average_over), runs, "--average-over")
    own_seed = given.seed_column and any(given.seed_column in run.config for run in runs)
    options = CompareOptions(
        metric=metric,
        rank=given.sort if given.sort in metric_keys(runs) else None,
        baseline=given.baseline,
        group_by=_names(given.group_by),
        paired=given.paired,
        margin=_margin(given.margin),
        best_of=_names(given.best_of),
        average_over=_names(given.average_over),
        top=given.top,
        columns=columns,
        seed_key=given.seed_column if own_seed else "seed",
    )
    comparison = compare(runs, options, found.skipped, found.notes)
    if (given.margin or "").endswith("%") and not comparison.metric.percent:
        name = comparison.metric.label
        raise UserError(f"compare: --margin {given.margin}: {name} is not an accuracy; write the margin in its units")
    if given.sort and options.rank is None:
        comparison = _sorted(comparison, given.sort, columns, given.top)
    if given.html:
        from alexnet_exp.compare.render.html import write_report

        write_report(comparison, Path(given.html))
    _print(comparison, given.format, given.top)
    if given.html:
        print(f"report: {one_line(given.html)}", file=sys.stderr)
    return ExitCode.OK


def _parser() -> Parser:
    parser = Parser("compare", "Compares runs: which arm is better, by how much, and whether the difference is noise.")
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="folders of runs, at any depth, or a CSV file; default: outputs")
    add("--metric", metavar="KEY", help="the metric to compare, e.g. test/loss; default: test/top1")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--lower-is-better", action="store_true", help="smaller values of the metric are better")
    ends.add_argument("--higher-is-better", action="store_true", help="larger values of the metric are better")
    add("--percent", action="store_true", help="the metric was recorded in percent: 0.9 is 0.9%%, not 90%%")
    add(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only these runs; also != < <= > >=; repeatable",
    )
    add(
        "--group-by",
        action="append",
        default=[],
        metavar="KEY",
        help="settings that define the arms; default: all that vary",
    )
    add("--baseline", metavar="KEY=VALUE", help="the arm that the others are compared with, e.g. model.norm=none")
    add("--paired", action="store_true", help="compares seed by seed, where both arms have runs of the same seeds")
    add("--margin", metavar="M", help="the smallest difference that matters, e.g. 0.005 or 0.5%%")
    add("--best-of", action="append", default=[], metavar="KEY", help="each arm at its own best KEY, selected on val")
    add(
        "--average-over",
        action="append",
        default=[],
        metavar="KEY",
        help="averages each seed over KEY, instead of making arms of it",
    )
    add("--top", type=_count, metavar="N", help="only the N best")
    add("--columns", action="append", default=[], metavar="KEY,KEY", help="columns of the table of runs")
    add("--sort", metavar="KEY", help="sorts by this column, -KEY in descending order")
    add("--format", choices=FORMATS, default="table", help="default: table")
    add("--html", metavar="FILE", help="writes a report as one file that works offline")
    add("--seed-column", metavar="NAME", help="the seed, in a CSV file or in another project's runs; default: seed")
    add("--claims", action="store_true", help="prints the claims of papers that these runs test, with their status")
    add("--assert-equal", action="store_true", help="two runs: exit code 1 where their steps.csv differ")
    add("--tolerance", type=float, metavar="X", help="tolerance of --assert-equal; default: 0, the same bits")
    return parser


def _as_declared(given: Namespace, metric: str) -> AbstractContextManager[None]:
    """Declares the direction and the unit of the metric if they are given."""
    from alexnet_exp.runs.metric import declare

    direction = given.higher_is_better if given.higher_is_better or given.lower_is_better else None
    return declare(metric, higher_is_better=direction, percent=given.percent or None)


def _with_sort(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with `--sort -KEY` as `--sort=-KEY`; argparse would read -KEY as an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--sort":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_count.__name__ = "number from 1 up"  # argparse prints this name in its error


def _places(paths: Sequence[str]) -> list[Path]:
    """Returns the arguments as paths: existing paths, else paths below outputs/, else runs found by name."""
    if not paths:
        if not outputs_folder().is_dir():
            raise UserError("compare: there is no outputs folder yet; train first, or give a folder of runs")
        return [outputs_folder()]
    below = outputs_folder()
    return [
        Path(text) if Path(text).exists() else below / text if (below / text).exists() else find(text, below)
        for text in paths
    ]


def _names(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))


def _metric(text: str | None, runs: Sequence[Run]) -> str | None:
    from alexnet_exp.runs.metric import metric_name

    known = metric_keys(runs)
    if text is None or text in known:
        return text
    if metric_name(text) in known:
        return metric_name(text)
    raise UserError(f"compare: --metric {text}: {suggest_name(text, known) if known else 'no run has a metric yet'}")


def _margin(text: str | None) -> float | None:
    """Returns the margin as a share: `0.005` and `0.5%` are equal."""
    if text is None:
        return None
    try:
        margin = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        margin = 0.0
    if not 0 < margin < float("inf"):
        raise UserError(f"compare: --margin {text}: must be a number greater than 0, such as 0.005 or 0.5%")
    return margin


def _sorted(comparison: Comparison, key: str, columns: Sequence[str], top: int | None) -> Comparison:
    """Returns the comparison with its runs sorted by a column."""
    runs = sort_by_column(comparison.runs, key)
    table = runs_table(runs[:top], comparison.varying, columns or None)
    same = comparison.table == comparison.runs_table
    return replace(comparison, runs=runs, runs_table=table, table=table if same else comparison.table)


def _print(comparison: Comparison, form: str, top: int | None) -> None:
    from alexnet_exp.compare.render import text

    limit = top or text.MOST_PRINTED_RUNS
    if form == "csv":
        sys.stdout.write(text.as_csv(comparison))
    elif form == "json":
        sys.stdout.write(text.as_json(comparison))
    elif form == "markdown":
        sys.stdout.write(text.markdown(comparison, limit))
    else:
        from alexnet_exp.compare.render.terminal import show

        show(comparison, limit)


def _claims(given: Namespace) -> int:
    """Prints the table of claims; without runs, that of the shipped experiments as not run."""
    from alexnet_exp.compare import paper_claims
    from alexnet_exp.compare.render.text import markdown_table
    from alexnet_exp.runs.read_runs import read_runs

    others = (
        *("metric", "lower_is_better", "higher_is_better", "percent", "group_by", "average_over", "baseline"),
        *("margin", "top", "columns", "sort", "html"),
    )
    for name in others:
        if getattr(given, name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"compare: {option} cannot be used with --claims, because each claim defines its own comparison"
            )
    found = (
        read_runs(*_places(given.paths), seed_column=given.seed_column)
        if given.paths or outputs_folder().is_dir()
        else None
    )
    runs = [] if found is None else filter_runs(found, given.where)
    table = paper_claims.evaluate_claims(runs, paired=given.paired, best_of=_names(given.best_of))
    if given.format == "csv":
        sys.stdout.write(paper_claims.as_csv(table))
    elif given.format == "json":
        sys.stdout.write(paper_claims.as_json(table))
    elif given.format == "markdown":
        lines = [
            markdown_table(paper_claims.as_table(table), len(table.rows)),
            "",
            *(f"- {note}" for note in table.notes),
        ]
        print(escape_controls("\n".join(lines if table.rows else table.notes)))
    else:
        from alexnet_exp.compare.render.terminal import show_claims

        show_claims(paper_claims.as_table(table), table.notes)
    for line in found.skipped if found is not None else ():
        print(escape_controls(f"skipped: {line}"), file=sys.stderr)
    return ExitCode.OK


def _assert_equal(given: Namespace) -> int:
    from alexnet_exp.compare.assert_equal import first_difference

    if len(given.paths) != 2:
        raise UserError(f"compare: --assert-equal needs two runs, not {len(given.paths)}")
    tolerance = given.tolerance or 0.0
    if not 0 <= tolerance < float("inf"):
        raise UserError(f"compare: --tolerance {tolerance}: must be a number from 0 up")
    first, second = (find(text, outputs_folder()) for text in given.paths)
    difference, equal = first_difference(first, second, tolerance)
    if difference is not None:
        print(f"{escape_controls(str(difference))}; {_steps(equal)} before it")
        return ExitCode.FAILED
    print(f"{_steps(equal)}, {'bit for bit' if tolerance == 0 else f'within {tolerance:g}'}")
    return ExitCode.OK


def _steps(equal: int) -> str:
    return f"{equal} step{' is' if equal == 1 else 's are'} equal"
