"""Tests of the selection of runs, of the settings that vary, and of the table of runs."""

from pathlib import Path

import pytest

from alexnet_exp.compare.select import (
    Condition,
    check_names,
    differing_settings,
    filter_runs,
    other_values,
    ranking_key,
    runs_table,
    setting,
    sort_by_column,
    sort_by_metric,
)
from alexnet_exp.errors import UserError
from alexnet_exp.runs.run import Run
from tests.compare.made import made


def a_run(name="r", config=None, metrics=None, status="done", choices=None, **facts):
    return Run(Path(name), name, status, {"seed": 1, **(config or {})}, metrics or {}, choices or {}, facts)


def test_a_removed_stage_differs_from_an_existing_one_in_a_table():
    there = made("lrn", 1, 0.9, config={"model.stages.conv4.out": 384})
    dropped = made("lrn", 1, 0.9, config={"model.stages.conv4": None})
    assert [setting(run, "model.stages.conv4") for run in (there, dropped)] == ["kept", None]
    assert setting(there, "model.stages.conv5") is None


def test_a_key_that_some_runs_lack_differs_and_true_is_not_one():
    assert differing_settings([a_run(config={"a": 1}), a_run()]) == ["a"]
    assert differing_settings([a_run(config={"a": 1}), a_run(config={"a": 1.0})]) == []
    assert differing_settings([a_run(config={"a": "1"}), a_run(config={"a": 1})]) == ["a"]
    assert differing_settings([]) == []


RUN = a_run(
    config={"optim.lr": 0.1, "model.norm": "lrn", "pad": [0, 3], "clip": None, "on": True, "n": 3},
    metrics={"val/top1": 0.9},
    choices={"model": "paper"},
    device="GPU 0",
    seconds=90,
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("optim.lr=0.10", True),
        ("optim.lr=1e-1", True),
        ("optim.lr==0.2", False),
        ("optim.lr!=0.2", True),
        ("optim.lr<0.2", True),
        ("optim.lr<=0.1", True),
        ("optim.lr>0.1", False),
        ("optim.lr >= 0.1", True),
        ("optim.lr=0.3,0.1", True),
        ("model.norm=lrn", True),
        ("model.norm=bn,none", False),
        ("model.norm!=bn,none", True),
        ("model=paper", True),
        ("val/top1>0.8", True),
        ("pad=[0,3]", True),
        ("pad=[0, 3]", True),
        ("clip=null", True),
        ("clip!=null", False),
        ("on=true", True),
        ("on=1", False),
        ("n=3.0", True),
        ("status=done", True),
        ("minutes<2", True),
        ("seed=1", True),
        ("device=GPU 0", True),
        ("nothing=1", False),
        ("nothing!=1", True),
        ("nothing>1", False),
        ("model.norm>1", False),
    ],
)
def test_conditions(text, holds):
    assert Condition.parse(text).holds(RUN) is holds


@pytest.mark.parametrize("text", ["optim.lr", "=3", "optim.lr>abc", ""])
def test_invalid_conditions_are_rejected(text):
    with pytest.raises(UserError) as refused:
        Condition.parse(text)
    assert "\n" not in str(refused.value)


def test_all_conditions_must_hold_and_a_misspelt_name_is_reported():
    runs = [a_run(str(n), {"optim.lr": n, "model.norm": "bn"}) for n in range(4)]
    assert [run.name for run in filter_runs(runs, ["optim.lr>0", "optim.lr!=2"])] == ["1", "3"]
    for wrong, near in (("model.nrom=bn", "model.norm"), ("lr=1", "optim.lr"), ("stats=done", "status")):
        with pytest.raises(UserError, match=rf"did you mean {near}\?"):
            filter_runs(runs, [wrong])
    assert other_values(runs, ["model.norm=lrn", "optim.lr=1"]) == "; model.norm is bn"
    check_names(["anything"], [], "--where")  # without runs every name is accepted


def test_runs_are_sorted_by_metric_with_uncounted_ones_last():
    runs = [
        a_run("a", metrics={"val/top1": 0.5, "val/loss": 1.0}),
        a_run("b", metrics={"val/top1": 0.9, "val/loss": 2.0}),
        a_run("c", metrics={"val/top1": 1.0}, status="failed"),
        a_run("d"),
    ]
    assert [run.name for run in sort_by_metric(runs, "val/top1")] == ["b", "a", "c", "d"]
    assert [run.name for run in sort_by_metric(runs, "val/loss")] == ["a", "b", "c", "d"]
    assert ranking_key("test/top1", runs) == "val/top1"
    assert ranking_key("test/acc", runs) == "test/acc"


def test_sorting_by_any_column():
    runs = [a_run("a", {"k": 10}), a_run("b", {"k": 9}), a_run("c", {"k": "x"}), a_run("d")]
    assert [run.name for run in sort_by_column(runs, "k")] == ["b", "a", "c", "d"]
    assert [run.name for run in sort_by_column(runs, "-k")] == ["c", "a", "b", "d"]


def test_the_table_of_the_runs():
    runs = [RUN, a_run("f", status="failed")]
    table = runs_table(runs, ["model"])
    assert table.keys == ["model", "seed", "val/top1", "images_per_s", "minutes", "status", "run"]
    assert table.titles == ["model", "seed", "val top-1", "images/s", "minutes", "status", "run"]
    assert table.rows == [["paper", 1, 0.9, None, 1.5, "done", "r"], [None, 1, None, None, None, "failed", "f"]]
    assert runs_table(runs, [], ["device", "optim.lr", "missing"]).rows == [["GPU 0", 0.1], [None, None]]
