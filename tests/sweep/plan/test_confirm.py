"""`sweep confirm`: which arms are run again, with which seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.compare.runs_list import entries
from alexnet_exp.errors import UserError
from alexnet_exp.runs.read_runs import read_runs
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute.scheduler import read_outcome
from alexnet_exp.sweep.plan.confirm import plan_confirmation
from alexnet_exp.sweep.report import results_as_json

Searched = Callable[..., Path]


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Searched:
    """`searched({("lr=0.1", "seed=1"): 0.9, ...})`: a sweep whose jobs have these objectives; None: failed."""
    monkeypatch.chdir(tmp_path)

    def make(values: dict[tuple[str, ...], float | None], objective: str = "val/top1", *command: str) -> Path:
        folder = Path("outputs/train/searched")
        jobs = []
        for number, (overrides, value) in enumerate(values.items(), start=1):
            job = Job(number, folder / f"job-{number}", overrides)
            (job.folder / ".hydra").mkdir(parents=True)
            (job.folder / ".hydra" / "config.yaml").write_text("seed: 1\n")
            ended = {"status": "failed"} if value is None else {"status": "done", "metrics": {objective: value}}
            (job.folder / "result.json").write_text(json.dumps({"format": 1, **ended}))
            jobs.append(job)
        SweepPlan(folder, list(command) or ["-m"], str(tmp_path), objective, jobs=jobs).write()
        return folder

    return make


def asked(plan: SweepPlan) -> list[tuple[str, ...]]:
    return [job.overrides for job in plan.jobs]


def test_the_best_arms_by_their_mean_with_seeds_nobody_had(searched: Searched) -> None:
    folder = searched(
        {
            ("optim.lr=0.1", "seed=1"): 0.9,  # the best single run, and an arm that is not
            ("optim.lr=0.1", "seed=2"): 0.1,
            ("optim.lr=0.01", "seed=1"): 0.7,
            ("optim.lr=0.01", "seed=4"): 0.7,
            ("optim.lr=0.001", "seed=1"): 0.6,
            ("optim.lr=1", "seed=1"): None,
        }
    )
    plan = plan_confirmation(folder, top=2, seeds=3)
    arms = ("optim.lr=0.01", "optim.lr=0.001")
    assert asked(plan) == [(arm, f"seed={seed}") for arm in arms for seed in (3, 5, 6)]
    assert plan.folder.parent == folder.parent
    assert [job.container()["optim"]["lr"] for job in plan.jobs] == [0.01] * 3 + [0.001] * 3
    assert SweepPlan.read(plan.folder) == plan
    assert plan_confirmation(folder, top=2, seeds=3).folder == plan.folder, "the same call comes back to it"


def test_a_loss_is_better_when_it_is_smaller(searched: Searched) -> None:
    folder = searched({("model=bn",): 0.5, ("model=lrn",): 0.2}, "val/loss")
    # the seed that was not typed is the default, 1
    assert asked(plan_confirmation(folder, top=1, seeds=2)) == [("model=lrn", "seed=2"), ("model=lrn", "seed=3")]


def test_what_the_search_was_told_of_its_objective_goes_before_the_name(searched: Searched) -> None:
    folder = searched({("model=bn",): 0.5, ("model=lrn",): 0.2}, "val/elo")
    assert [winner for winner, _ in asked(plan_confirmation(folder, top=1, seeds=1))] == ["model=bn"]
    told = SweepPlan.read(folder)
    told.direction = "minimize"
    told.write()
    assert SweepPlan.read(folder).direction == "minimize"
    plan = plan_confirmation(folder, top=1, seeds=1)
    assert [winner for winner, _ in asked(plan)][-1] == "model=lrn"
    outcomes = [read_outcome(job) for job in told.jobs]
    assert results_as_json(told, outcomes)["best"]["run"].endswith("job-2")
    (line,) = entries(folder, list(read_runs(folder)), sweeps=True)
    assert line.value == 0.2


def test_nothing_to_confirm(searched: Searched, capsys: pytest.CaptureFixture[str]) -> None:
    folder = searched({("model=bn",): None})
    with pytest.raises(UserError, match="nothing to confirm"):
        plan_confirmation(folder, top=1, seeds=2)
    assert main(["sweep", "confirm", str(folder), "--top", "0"]) == 2
    assert capsys.readouterr().err == "--top 0: must be at least 1\n"
    assert main(["sweep", "confirm", str(folder), "--jobs", "0"]) == 2
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_confirmation_is_not_confirmed_again(searched: Searched) -> None:
    folder = searched({("model=bn",): 0.5}, "val/top1", "sweep", "confirm", "elsewhere")
    with pytest.raises(UserError, match="confirms another sweep already"):
        plan_confirmation(folder, top=1, seeds=2)


def test_where_it_is_typed_makes_no_difference(searched: Searched, monkeypatch: pytest.MonkeyPatch) -> None:
    experiments = Path("mine/experiment")
    experiments.mkdir(parents=True)
    (experiments / "own.yaml").write_text("# @package _global_\nnote: own\n")
    folder = searched({("experiment=own",): 0.5}, "val/top1", "--config-dir", "mine", "-m", "experiment=own").resolve()
    plan = plan_confirmation(folder, top=1, seeds=1)
    assert plan.jobs[0].container()["note"] == "own"
    monkeypatch.chdir(folder.parent)
    assert plan_confirmation(Path(folder.name), top=1, seeds=1).folder.resolve() == plan.folder
