"""Tests of the output formats: terminal, Markdown, CSV, JSON."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from alexnet_exp.compare.render.terminal import align_table, plain_lines, show_rich
from alexnet_exp.compare.render.text import as_csv, as_json, cell, markdown
from alexnet_exp.compare.result import Arm, Comparison, ComparisonTable, Difference, Metric, Verdict
from alexnet_exp.compare.select import runs_table
from alexnet_exp.runs.run import Run

RUNS = [
    Run(
        Path(f"outputs/s/{model}-{seed}"),
        f"s/{model}-{seed}",
        "done",
        {"seed": seed, "model.norm": model},
        {"test/top1": top1, "val/top1": top1 + 0.01, "train/loss": 0.123456789},
        facts={"images_per_s": 1234.5678, "seconds": 90.0},
    )
    for model, values in {"lrn": (0.92, 0.93, 0.94), "none": (0.90, 0.91, 0.92)}.items()
    for seed, top1 in enumerate(values, start=1)
]
FAILED = Run(
    Path("outputs/s/bad"), "s/bad", "failed", {"seed": 4}, {"val/top1": math.nan}, facts={"error": "loss is nan"}
)
SENTENCE = "lrn beats none by 2.00 points of test top-1."


def a_comparison():
    arms = [
        Arm(
            {"model.norm": name},
            f"model.norm={name}",
            runs,
            [run.metrics["test/top1"] for run in runs],
            [run.seed for run in runs],
            mean,
            0.01,
            (mean - 0.02, mean + 0.02),
        )
        for name, runs, mean in (("lrn", RUNS[:3], 0.93), ("none", RUNS[3:], 0.91))
    ]
    difference = Difference(
        arms[0],
        arms[1],
        0.02,
        (0.001, 0.039),
        0.04,
        "Welch",
        Verdict.better,
        None,
        "told at length",
        command="python -m x",
    )
    keys = ["model.norm", "n", "test/top1", "sd", "interval", "values", "difference", "verdict"]
    rows = [
        ["lrn", 3, 0.93, 0.01, (0.91, 0.95), [0.92, 0.93, 0.94], 0.02, Verdict.better],
        ["none", 3, 0.91, 0.01, (0.89, 0.93), None, None, None],
    ]
    table = ComparisonTable(
        keys, ["model.norm", "seeds", "test top-1", "sd", "95% interval", "values", "difference", "verdict"], rows
    )
    runs = [*RUNS, FAILED]
    return Comparison(
        metric=Metric("test/top1", "test top-1", True, True),
        sentence=SENTENCE,
        arms=arms,
        differences=[difference],
        table=table,
        runs_table=runs_table(runs, ["model.norm"]),
        caveats=["one run failed"],
        varying=["model.norm"],
        runs=runs,
        skipped=["outputs/s/cut/result.json: not valid JSON"],
    )


def text_of(view):
    if view == "markdown":
        return markdown(a_comparison())
    if view == "plain":
        return "\n".join(plain_lines(a_comparison()))
    out = io.StringIO()
    show_rich(a_comparison(), Console(file=out, width=200, force_terminal=True, color_system=None))
    return out.getvalue()


@pytest.mark.parametrize("view", ["markdown", "plain", "rich"])
def test_the_order_of_every_view(view):
    text = text_of(view)
    places = [
        text.index(part)
        for part in (
            SENTENCE,
            "one seed",
            "91.00% to 95.00%",
            "one run failed",
            "told at length",
            "python -m x",
            "s/bad",
            "s/lrn-2",
        )
    ]
    assert places == sorted(places)
    assert "failed: s/bad: loss is nan" in text
    assert "skipped: outputs/s/cut/result.json" in text


@pytest.mark.parametrize("view", ["markdown", "plain", "rich"])
def test_numbers_are_written_in_the_metrics_units(view):
    text = text_of(view)
    assert "93.00%" in text
    assert "+2.00" in text
    assert "sd (points)" in text
    assert "92.00%, 93.00%, 94.00%" in text
    assert "1234.6" in text
    assert "0.1234" not in text  # the training loss is neither compared nor ranks


def test_plain_lines_are_not_wrapped():
    lines = plain_lines(a_comparison())
    assert max(map(len, lines)) > 110
    header = next(line for line in lines if line.startswith("model.norm  seeds"))
    row = lines[lines.index(header) + 1]
    # numbers stand under the right end of their heading
    assert header.index("seeds") + 4 == row.index("3 ")


def test_a_terminal_that_is_narrow_cuts_no_number():
    out = io.StringIO()
    show_rich(a_comparison(), Console(file=out, width=120, force_terminal=True, color_system=None))
    assert "failed" in out.getvalue()
    assert "python -m x" in out.getvalue()


def test_a_table_of_runs_alone_comes_once():
    comparison = a_comparison()
    alone = Comparison(**{**vars(comparison), "table": comparison.runs_table})
    assert markdown(alone).count("| s/lrn-2 |") == 1
    assert "\n".join(plain_lines(alone)).count("s/lrn-2") == 1


def test_a_long_table_reports_the_number_of_omitted_rows():
    text = markdown(a_comparison(), limit=2)
    assert "s/lrn-2" in text
    assert "s/lrn-3" not in text
    assert "5 more; --top 7 shows them" in text


def test_markdown_escapes_what_would_break_the_table():
    table = ComparisonTable(["a"], ["a"], [["x|y\nz"]])
    comparison = Comparison(**{**vars(a_comparison()), "table": table})
    assert r"| x\|y z |" in markdown(comparison)


def test_csv_has_every_run_and_number_in_full():
    rows = list(csv.DictReader(io.StringIO(as_csv(a_comparison()))))
    assert len(rows) == 7
    assert rows[0]["train/loss"] == "0.123456789"
    assert rows[0]["test/top1"] == "0.92"
    assert (rows[-1]["status"], rows[-1]["test/top1"]) == ("failed", "")


def test_json_is_strict_and_whole():
    def refuse(text):
        raise AssertionError(text)

    content = json.loads(as_json(a_comparison()), parse_constant=refuse)
    assert content["sentence"] == SENTENCE
    assert content["arms"][0]["values"] == [0.92, 0.93, 0.94]
    assert content["arms"][0]["interval"] == [pytest.approx(0.91), pytest.approx(0.95)]
    assert content["differences"][0]["verdict"] == "better"
    assert content["differences"][0]["baseline"] == "model.norm=none"
    assert content["runs"][0]["settings"] == {"model.norm": "lrn"}
    assert content["runs"][0]["minutes"] == 1.5
    assert content["runs"][-1]["metrics"] == {"val/top1": None}
    assert content["skipped"] == ["outputs/s/cut/result.json: not valid JSON"]


@pytest.mark.parametrize(
    ("key", "had", "metric", "text"),
    [
        ("test/top1", 0.97361, "", "97.36%"),
        ("test/loss", 0.123456, "", "0.1235"),
        ("optim.lr", 0.001, "", "0.001"),
        ("optim.lr", None, "", "-"),
        ("on", True, "", "true"),
        ("pad", [0, 3], "", "[0, 3]"),
        ("sd", 0.0123, "test/top1", "1.23"),
        ("sd", 0.0123, "test/loss", "0.0123"),
        ("difference", -0.02, "test/top1", "-2.00"),
        ("difference_interval", (-0.02, 0.01), "test/top1", "-2.00 to +1.00"),
        ("interval", (0.5, 0.6), "test/top1", "50.00% to 60.00%"),
        ("values", [0.5, 0.6], "test/loss", "0.5, 0.6"),
        ("minutes", 1.26, "", "1.3"),
        ("verdict", Verdict.inconclusive, "", "inconclusive"),
        ("n", 3, "", "3"),
        ("val/top1", math.nan, "", "-"),
    ],
)
def test_cells(key, had, metric, text):
    assert cell(key, had, metric) == text


def test_columns_are_as_wide_as_they_must_be():
    table = ComparisonTable(["a", "n"], ["a", "n"], [["long name", 1], ["b", 100]])
    assert align_table(table) == ["a            n", "long name    1", "b          100"]
