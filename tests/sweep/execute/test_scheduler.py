"""Tests of the loop over jobs, results.csv, the ranking and the JSON, with a pool that does not train."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.lookup import runs_under
from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep import results
from alexnet_exp.sweep.execute.job_lock import JobLocks
from alexnet_exp.sweep.execute.scheduler import Outcome, read_outcome, read_status, run_jobs
from alexnet_exp.sweep.report import (
    best_outcome,
    count_statuses,
    exit_code_of,
    opening_lines,
    rank_outcomes,
    results_as_json,
)
from tests.sweep.fake_pool import FakePool


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    """Four pending jobs."""
    jobs = [
        Job(number, tmp_path / f"seed-{number}", (f"seed={number}",), {"seed": str(number)}) for number in range(1, 5)
    ]
    plan = SweepPlan(tmp_path, ["-m", "seed=1,2,3,4"], str(tmp_path), "val/top1")
    plan.jobs += jobs
    plan.write()
    for job in jobs:
        (job.folder / ".hydra").mkdir(parents=True)
    return plan


def ignore(outcome: Outcome) -> None: ...


def run(plan: SweepPlan, pool: FakePool, again: bool = True, wait: bool = True) -> list[str]:
    return [outcome.status for outcome in run_jobs(plan, plan.jobs, pool, retry_failed=again, wait=wait, on_end=ignore)]


def lock_by_another(plan: SweepPlan, job: Job, **facts: object) -> None:
    """Creates a lock of another owner."""
    assert JobLocks(plan.folder).acquire(job) is not None
    file = plan.folder / "claims" / f"{job.folder.name}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


@pytest.mark.parametrize("size", [1, 3])
def test_all_jobs_run_once_in_order(plan: SweepPlan, size: int) -> None:
    pool = FakePool(size)
    assert run(plan, pool) == ["done"] * 4
    assert pool.started == [1, 2, 3, 4]
    assert (pool.most, pool.closed) == (size, True)
    assert list((plan.folder / "claims").glob("*.json")) == []
    pool = FakePool()
    assert run(plan, pool) == ["done"] * 4
    assert pool.started == []
    assert list(opening_lines(plan.jobs, 5)) == [
        f"4 jobs in {plan.folder}, 4 already done",
        "1 of 5 jobs have the same configuration as another job and run only once",
    ]


def test_a_failed_job_does_not_stop_the_others_and_is_retried_once(plan: SweepPlan) -> None:
    assert run(plan, FakePool(endings={2: "failed"})) == ["done", "failed", "done", "done"]
    (plan.jobs[1].folder / "checkpoints").mkdir()
    (plan.jobs[1].folder / "train.log").write_text("of the first attempt")
    assert run(plan, FakePool(), again=False) == ["done", "failed", "done", "done"]
    pool = FakePool(endings={2: "failed"})
    assert run(plan, pool) == ["done", "failed", "done", "done"]
    assert pool.started == [2]
    earlier = plan.jobs[1].folder / "earlier" / "1"
    assert (earlier / "train.log").read_text() == "of the first attempt"
    assert read_result(earlier)["status"] == "failed"
    assert not (plan.jobs[1].folder / "checkpoints").exists()
    run(plan, FakePool())
    assert (plan.jobs[1].folder / "earlier" / "2" / "result.json").exists()


def test_an_earlier_attempt_is_not_listed_as_a_run(plan: SweepPlan) -> None:
    run(plan, FakePool(endings={2: "failed"}))
    assert RunFolder(plan.jobs[1].folder).set_aside() == plan.jobs[1].folder / "earlier" / "1"
    assert runs_under(plan.folder) == [plan.jobs[number].folder for number in (0, 2, 3)]
    assert RunFolder(plan.jobs[1].folder).set_aside() is None, "nothing is left to move"


def test_interrupted_and_killed_jobs_run_again_and_pruned_jobs_do_not(plan: SweepPlan) -> None:
    for job, status in zip(plan.jobs, ("done", "interrupted", "pruned"), strict=False):
        RunFolder(job.folder).begin({}, {})
        RunFolder(job.folder).finish(status)
    RunFolder(plan.jobs[3].folder).begin({}, {})
    assert read_status(plan.jobs[3].folder) == "died"
    pool = FakePool()
    assert run(plan, pool, again=False) == ["done", "done", "pruned", "done"]
    assert pool.started == [2, 4]


def test_a_job_with_a_damaged_result_runs_again(plan: SweepPlan) -> None:
    (plan.jobs[0].folder / "result.json").write_text("{")
    assert read_status(plan.jobs[0].folder) == "died"
    pool = FakePool()
    run(plan, pool)
    assert pool.started == [1, 2, 3, 4]


def test_a_job_run_by_another_process_is_skipped_without_wait(plan: SweepPlan) -> None:
    lock_by_another(plan, plan.jobs[0])  # of this process, which is alive
    pool = FakePool()
    assert run(plan, pool, wait=False) == ["open", "done", "done", "done"]
    assert pool.started == [2, 3, 4]


def test_a_job_that_another_process_finishes_is_not_run_again(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan.jobs[0]
    lock_by_another(plan, first)

    def finish_elsewhere(seconds: float) -> None:
        RunFolder(first.folder).begin({}, {})
        RunFolder(first.folder).finish("done")
        (plan.folder / "claims" / f"{first.folder.name}.json").unlink(missing_ok=True)

    monkeypatch.setattr("alexnet_exp.sweep.execute.scheduler.time.sleep", finish_elsewhere)
    pool = FakePool()
    assert run(plan, pool) == ["done"] * 4
    assert pool.started == [2, 3, 4]


def test_a_job_whose_owner_dies_is_taken_over(plan: SweepPlan) -> None:
    lock_by_another(plan, plan.jobs[0], start="0")
    pool = FakePool()
    assert run(plan, pool, wait=False) == ["done"] * 4
    assert pool.started == [1, 2, 3, 4]


def test_ctrl_c_interrupts_and_reports_running_jobs_and_releases_their_locks(plan: SweepPlan) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    reported: list[str] = []
    pool = FakePool(2, on_wait=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            plan, plan.jobs, pool, retry_failed=True, wait=True, on_end=lambda outcome: reported.append(outcome.status)
        )
    assert reported == ["interrupted", "interrupted"]
    assert [read_status(job.folder) for job in plan.jobs] == ["interrupted", "interrupted", "open", "open"]
    assert list((plan.folder / "claims").glob("*.json")) == []


def test_a_lock_is_held_while_its_job_runs(plan: SweepPlan) -> None:
    seen: list[int] = []

    def read_locks() -> None:
        seen.extend(json.loads(file.read_text())["pid"] for file in (plan.folder / "claims").glob("*.json"))

    run(plan, FakePool(on_wait=read_locks))
    assert seen == [os.getpid()] * 4


# --- results


def rows(plan: SweepPlan) -> list[dict[str, str]]:
    with (plan.folder / results.RESULTS_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_csv_has_a_row_for_each_job_that_started(plan: SweepPlan) -> None:
    run_jobs(
        plan, plan.jobs[:3], FakePool(endings={2: "failed"}), retry_failed=True, wait=True,
        on_end=lambda outcome: results.add_result(plan, outcome),
    )  # fmt: skip
    found = rows(plan)
    columns = ["number", "seed", "status", "val/top1", "seconds", "images_per_s", "folder", "error"]
    assert list(found[0]) == columns
    assert [(row["number"], row["seed"], row["status"]) for row in found] == [
        ("1", "1", "done"), ("2", "2", "failed"), ("3", "3", "done"),
    ]  # fmt: skip
    assert [float(row["val/top1"]) for row in found] == [0.1, 0.2, 0.3]
    assert found[1]["error"] == "ValueError: boom"
    assert found[2]["folder"] == "seed-3"
    results.write_results(plan, map(read_outcome, plan.jobs))
    assert rows(plan) == found, "rewriting it changes nothing"


@pytest.mark.parametrize(
    ("known", "seconds"),
    [
        ({}, 7200.0),
        ({"seconds": 12.5}, 12.5),
        ({"seconds": 12.5, "attempts": [{"status": "died"}]}, 12.5),
        ({"attempts": [{"status": "died"}]}, None),
    ],
)
def test_the_time_between_attempts_does_not_count(
    plan: SweepPlan, known: dict[str, object], seconds: float | None
) -> None:
    folder = RunFolder(plan.jobs[0].folder)
    folder.begin({}, {})
    times = {"start": "2024-11-30T10:00:00.000+00:00", "end": "2024-11-30T12:00:00.000+00:00"}
    folder.finish("done", **times, **known)
    assert read_outcome(plan.jobs[0]).seconds == seconds


def test_results_csv_contains_no_formula(plan: SweepPlan) -> None:
    for error in ("=HYPERLINK(1)", "@SUM(1)\x1b[2J"):
        results.add_result(plan, Outcome(plan.jobs[0], "failed", error=error))
        results.add_result(plan, Outcome(plan.jobs[1], "done", {"val/loss": -1.0}))
        found = rows(plan)
        assert found[0]["error"] == "'" + error.replace("\x1b", r"\x1b")
        assert found[1]["val/loss"] == "-1.0"


def test_a_damaged_results_csv_is_replaced(plan: SweepPlan) -> None:
    (plan.folder / results.RESULTS_FILE).write_text("number,seed\n1\n")
    results.add_result(plan, Outcome(plan.jobs[0], "done", {"test/top1": 0.5, "val/loss": 1.0}))
    assert [(row["number"], row["val/loss"], row["test/top1"]) for row in rows(plan)] == [("1", "1.0", "0.5")]


def test_done_jobs_are_ranked_with_the_best_first(plan: SweepPlan) -> None:
    values = (("done", 0.5), ("failed", 0.9), ("done", 0.7), ("pruned", 0.8))
    outcomes = [Outcome(job, status, {"val/top1": value, "val/loss": value}) for job, (status, value) in
                zip(plan.jobs, values, strict=True)]  # fmt: skip
    assert [outcome.job.number for outcome in rank_outcomes(outcomes, "val/top1")] == [3, 1, 4, 2]
    assert [outcome.job.number for outcome in rank_outcomes(outcomes, "val/loss")] == [1, 3, 4, 2]
    found = best_outcome(outcomes, "val/top1")
    assert found is not None
    assert found.job.number == 3
    assert count_statuses(outcomes) == {"done": 2, "pruned": 1, "failed": 1}
    assert exit_code_of(outcomes) == 1
    assert exit_code_of([outcome for outcome in outcomes if outcome.status != "failed"]) == 0
    summary = results_as_json(plan, outcomes)
    assert (summary["status"], summary["best"]["run"]) == ("failed", str(plan.jobs[2].folder))
    assert results_as_json(plan, outcomes, "interrupted")["status"] == "interrupted"
    assert best_outcome(outcomes[1:2], "val/top1") is None
