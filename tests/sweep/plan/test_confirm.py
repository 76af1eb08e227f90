"""Tests of `sweep confirm`: the arms that are run again, and their seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.compare.runs_list import list_entries
from alexnet_exp.errors import UserError
from alexnet_exp.runs.read_runs import read_runs
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute.scheduler import read_outcome
from alexnet_exp.sweep.plan.confirm import plan_confirmation
from alexnet_exp.sweep.report import results_as_json

MakeSweep = Callable[..., Path]


@pytest.fixture
def sweep_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSweep:
    """`sweep_of({("lr=0.1", "seed=1"): 0.9, ...})`: a sweep whose jobs have these objectives; None: failed."""
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


def overrides_of(plan: SweepPlan) -> list[tuple[str, ...]]:
    return [job.overrides for job in plan.jobs]


def test_confirmation_runs_the_best_arms_by_mean_with_new_seeds(sweep_of: MakeSweep) -> None:
    folder = sweep_of(
        {
            ("optim.lr=0.1", "seed=1"): 0.9,  # the best single run, but not the best arm
            ("optim.lr=0.1", "seed=2"): 0.1,
            ("optim.lr=0.01", "seed=1"): 0.7,
            ("optim.lr=0.01", "seed=4"): 0.7,
            ("optim.lr=0.001", "seed=1"): 0.6,
            ("optim.lr=1", "seed=1"): None,
        }
    )
    plan = plan_confirmation(folder, top=2, seeds=3)
    arms = ("optim.lr=0.01", "optim.lr=0.001")
    assert overrides_of(plan) == [(arm, f"seed={seed}") for arm in arms for seed in (3, 5, 6)]
    assert plan.folder.parent == folder.parent
    assert [job.container()["optim"]["lr"] for job in plan.jobs] == [0.01] * 3 + [0.001] * 3
    assert SweepPlan.read(plan.folder) == plan
    assert plan_confirmation(folder, top=2, seeds=3).folder == plan.folder, "the same call finds it"


def test_losses_are_minimized(sweep_of: MakeSweep) -> None:
    folder = sweep_of({("model=bn",): 0.5, ("model=lrn",): 0.2}, "val/loss")
    # The default seed is 1.
    assert overrides_of(plan_confirmation(folder, top=1, seeds=2)) == [("model=lrn", "seed=2"), ("model=lrn", "seed=3")]


def test_the_direction_of_the_search_overrides_the_name_of_the_objective(sweep_of: MakeSweep) -> None:
    folder = sweep_of({("model=bn",): 0.5, ("model=lrn",): 0.2}, "val/elo")
    assert [winner for winner, _ in overrides_of(plan_confirmation(folder, top=1, seeds=1))] == ["model=bn"]
    plan = SweepPlan.read(folder)
    plan.direction = "minimize"
    plan.write()
    assert SweepPlan.read(folder).direction == "minimize"
    plan = plan_confirmation(folder, top=1, seeds=1)
    assert [winner for winner, _ in overrides_of(plan)][-1] == "model=lrn"
    searched = SweepPlan.read(folder)
    outcomes = [read_outcome(job) for job in searched.jobs]
    assert results_as_json(searched, outcomes)["best"]["run"].endswith("job-2")
    (line,) = list_entries(folder, list(read_runs(folder)), sweeps=True)
    assert line.value == 0.2


def test_a_sweep_without_done_jobs_cannot_be_confirmed(sweep_of: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep_of({("model=bn",): None})
    with pytest.raises(UserError, match="nothing to confirm"):
        plan_confirmation(folder, top=1, seeds=2)
    assert main(["sweep", "confirm", str(folder), "--top", "0"]) == 2
    assert capsys.readouterr().err == "--top 0: must be at least 1\n"
    assert main(["sweep", "confirm", str(folder), "--jobs", "0"]) == 2
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_confirmation_cannot_be_confirmed(sweep_of: MakeSweep) -> None:
    folder = sweep_of({("model=bn",): 0.5}, "val/top1", "sweep", "confirm", "elsewhere")
    with pytest.raises(UserError, match="is a confirmation; for more seeds"):
        plan_confirmation(folder, top=1, seeds=2)


def test_the_working_folder_has_no_effect(sweep_of: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    experiments = Path("mine/experiment")
    experiments.mkdir(parents=True)
    (experiments / "own.yaml").write_text("# @package _global_\nnote: own\n")
    folder = sweep_of({("experiment=own",): 0.5}, "val/top1", "--config-dir", "mine", "-m", "experiment=own").resolve()
    plan = plan_confirmation(folder, top=1, seeds=1)
    assert plan.jobs[0].container()["note"] == "own"
    monkeypatch.chdir(folder.parent)
    assert plan_confirmation(Path(folder.name), top=1, seeds=1).folder.resolve() == plan.folder
