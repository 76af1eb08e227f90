"""`runs`, `runs show`, `runs diff`: what is running and how far, a sweep as one line, one run, two runs."""

import json
from pathlib import Path

import pytest

from alexnet_exp.compare.runs_list import as_table, duration_text, list_entries, progress_text
from alexnet_exp.compare.runs_show import describe_difference, describe_run
from alexnet_exp.runs.read_runs import read_runs
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.sweep_plan import Job, SweepPlan


def write(path, status="done", start="2026-11-24T10:00:00.000+00:00", config=None, **facts):
    path.mkdir(parents=True)
    config = {"seed": 1, "trainer.max_epochs": 10, "objective": "val/top1"} | (config or {})
    result = {"format": 1, "status": status, "start": start, "config": config, "metrics": {"val/top1": 0.5}}
    (path / "result.json").write_text(json.dumps(result | facts))


def rows(path, **options):
    return as_table(list_entries(path, list(read_runs(path)), **({"sweeps": True} | options))).rows


def plan(sweep, jobs):
    SweepPlan(
        sweep, [], "", "val/top1", jobs=[Job(number, sweep / f"job-{number}", ()) for number in range(jobs)]
    ).write()


def test_the_newest_first(tmp_path):
    write(tmp_path / "old", start="2026-11-23T10:00:00.000+00:00", epochs=10)
    write(tmp_path / "new", start="2026-11-24T10:00:00.000+00:00", status="failed", epochs=3)
    assert rows(tmp_path) == [
        ["2026-11-24 10:00", "new", "failed", "3 of 10 epochs", "val top-1", "50.00%"],
        ["2026-11-23 10:00", "old", "done", "10 epochs", "val top-1", "50.00%"],
    ]


def test_a_sweep_is_one_line_and_its_jobs_with_all(tmp_path):
    sweep = tmp_path / "train" / "model-12345678"
    for number, status in enumerate(("done", "done", "failed", "interrupted")):
        write(sweep / f"job-{number}", status, metrics={"val/top1": 0.5 + number / 10})
    plan(sweep, jobs=6)
    ((_, name, status, progressed, _, best),) = rows(tmp_path)
    assert (name, status) == ("train/model-12345678/", "sweep")
    assert progressed == "2 done, 1 failed, 1 interrupted, 2 pending of 6"
    assert best == "60.00%"  # the best of those that are done
    assert len(rows(tmp_path, sweeps=False)) == 4
    ((_, name, *_),) = rows(sweep)
    assert name == "model-12345678/"


def test_a_sweep_without_a_started_job(tmp_path):
    sweep = tmp_path / "train" / "sweep"
    (sweep / "job-1" / ".hydra").mkdir(parents=True)
    plan(sweep, jobs=2)
    assert rows(tmp_path)[0][1:4] == ["train/sweep/", "sweep", "2 pending of 2"]


@pytest.mark.parametrize(
    ("status", "epochs", "limit", "seconds", "said"),
    [
        ("running", 4, 10, 400, "4 of 10 epochs, about 10 min left"),
        ("running", 0, 10, 400, "0 of 10 epochs"),
        ("running", 4, None, 400, "4 epochs"),
        ("died", 4, 10, 400, "4 of 10 epochs"),
        ("done", 1, 10, 400, "1 epoch"),
        ("failed", None, 10, 400, "0 of 10 epochs"),
    ],
)
def test_progress(status, epochs, limit, seconds, said):
    facts = {"epochs": epochs, "start": "2026-11-24T10:00:00+00:00"}
    run = Run(Path("r"), "r", status, {"trainer.max_epochs": limit}, {}, {}, facts)
    begun = 1795514400.0  # that start, as seconds
    assert progress_text(run, now=begun + seconds) == said


def test_durations():
    assert [duration_text(seconds) for seconds in (-1, 40, 600, 7200)] == ["0 s", "40 s", "10 min", "2.0 h"]


def test_description_of_a_failed_run(tmp_path):
    facts = {"error": "the loss is nan", "overrides": ["model=lrn", "optim.lr=0.1"], "versions": {"torch": "2.9"}}
    write(tmp_path / "r", "failed", choices={"model": "lrn"}, parameters=1883882, **facts)
    (tmp_path / "r" / "train.log").write_text("\n".join(f"line {number}" for number in range(100)))
    (run,) = read_runs(tmp_path)
    text = "\n".join(describe_run(run))
    for said in (
        "failed, 0 of 10 epochs",
        "error: the loss is nan",
        "val top-1  50.00%",
        "lr  0.1",
        "torch  2.9",
        "1,883,882",
    ):
        assert said in text
    assert text.endswith("line 99")
    assert "line 80" not in text


def test_differences_between_two_runs(tmp_path):
    common = {"versions": {"torch": "2.9", "numpy": "2"}, "commit": "a" * 8}
    write(tmp_path / "a", config={"optim.lr": 0.1, "same": 1}, choices={"model": "bn"}, **common)
    write(
        tmp_path / "b",
        config={"optim.lr": 0.2, "same": 1, "new": None},
        **(common | {"versions": {"torch": "2.8", "numpy": "2"}}),
    )
    first, second = read_runs(tmp_path)
    lines = [line.split() for line in describe_difference(first, second)]
    assert ["optim.lr", "0.1", "0.2"] in lines
    assert ["new", "(absent)", "null"] in lines
    assert ["torch", "2.9", "2.8"] in lines
    assert ["model", "bn", "(absent)"] in lines
    assert not any(line[:1] in (["same"], ["numpy"], ["commit"]) for line in lines)
    assert "identical metrics" in describe_difference(first, second)


def test_identical_runs(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", metrics={"val/top1": 0.6})
    first, second = read_runs(tmp_path)
    assert "identical settings, code, versions and machine" in describe_difference(first, second)
    assert ["val", "top-1", "50.00%", "60.00%"] in [line.split() for line in describe_difference(first, second)]
