"""Runs the jobs of a planned sweep from its folder, without Hydra, for `resume`, `sweep work` and `sweep confirm`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alexnet_exp.atomic import read_link
from alexnet_exp.config.compose import JobProblems
from alexnet_exp.config.composition import Composition, validate_stored_run
from alexnet_exp.errors import UserError
from alexnet_exp.processes.signals import stop_on_signals
from alexnet_exp.runs.status import Status, ending_of
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep import results
from alexnet_exp.sweep.execute.pool import JobPool
from alexnet_exp.sweep.execute.scheduler import SUCCEEDED, Outcome, read_outcome, read_status, run_jobs, with_queued
from alexnet_exp.sweep.report import SweepReporter, exit_code_of, opening_lines, print_results
from alexnet_exp.training.loggers.mlflow_runs import close_sweep


def sweep_folder(text: str, outputs: Path) -> Path:
    """Returns the sweep folder for the folder of a sweep or of one of its jobs, or for `last` if it is such a job.

    Raises UserError for anything else.
    """
    folder = read_link(outputs / "latest") if text == "last" else Path(text)
    if folder is None or not folder.is_dir():
        raise UserError(f"{text}: no such folder; name a sweep folder (one containing sweep.json)")
    for each in (folder, folder.parent):
        if SweepPlan.is_in(each):
            return each.relative_to(Path.cwd()) if each.is_relative_to(Path.cwd()) else each
    kind = "is a single run" if (folder / "result.json").exists() else "is not a sweep"
    raise UserError(f"{text}: {kind}; name a sweep folder (one containing sweep.json)")


def local_pool(jobs: int, key: str) -> JobPool:
    """Returns a pool of `jobs` jobs at once on this machine; raises UserError, which names `key`, for less than 1."""
    from alexnet_exp.sweep.execute.local import LocalPool

    check_jobs(jobs, key)
    return LocalPool(jobs)


def check_jobs(jobs: int, key: str) -> None:
    """Raises UserError, which names `key`, if no job would run."""
    if jobs < 1:
        raise UserError(f"{key}={jobs}: must be at least 1")


def work(plan: SweepPlan, jobs: int, *, retry_failed: bool, wait: bool, report_all: bool) -> int:
    """Runs the jobs of a plan, see `run_jobs`; prints the results, and returns the exit code.

    report_all: whether the results and the exit code are of all jobs, or only of those that this process ran.
    """
    check_jobs(jobs, "--jobs")
    to_do = [job for job in plan.jobs if read_status(job.folder) not in SUCCEEDED]
    compositions = validate_jobs(to_do)
    reporter = SweepReporter(plan)
    results.write_results(plan, map(read_outcome, plan.jobs))
    for line in opening_lines(plan.jobs, len(plan.jobs)):
        reporter.print_line(line)
    ran: dict[Path, Outcome] = {}

    def on_end(outcome: Outcome) -> None:
        ran[outcome.job.folder] = outcome
        results.add_result(plan, outcome)
        reporter.print_job(outcome)

    stopped: KeyboardInterrupt | None = None
    with stop_on_signals():
        try:
            if to_do:
                pool = local_pool(jobs, "--jobs")
                pool.compositions |= compositions
                run_jobs(
                    plan,
                    plan.jobs,
                    pool,
                    retry_failed=retry_failed,
                    wait=wait,
                    on_end=on_end,
                    on_poll=reporter.print_progress,
                )
        except KeyboardInterrupt as stop:
            stopped = stop
        reporter.clear_progress()
        if not ran and not report_all and to_do:
            failed = sum(read_status(job.folder) == Status.FAILED for job in to_do)
            reporter.print_line(f"no job to run: {len(to_do)} of {len(plan.jobs)} are not done ({failed} failed)")
        return report_sweep(plan, ran, stopped, report_all)


def report_sweep(
    plan: SweepPlan, ran: Mapping[Path, Outcome], stopped: KeyboardInterrupt | None, report_all: bool = True
) -> int:
    """Prints the results of a sweep, and returns the exit code.

    ran: the outcomes of the jobs that this process ran, by their folders; a folder that is not writable does not have
    them. report_all: whether the results are of all jobs, or only of these.
    """
    all_outcomes = [_with_failure(read_outcome(job), ran) for job in plan.jobs]
    results.write_results(plan, all_outcomes)
    outcomes = with_queued(plan, all_outcomes if report_all else ran.values())
    close_sweep(plan.folder)
    print_results(plan, outcomes, "interrupted" if stopped else None)
    return ending_of(stopped).code if stopped else exit_code_of(outcomes)


def _with_failure(recorded: Outcome, ran: Mapping[Path, Outcome]) -> Outcome:
    """Returns the failure that this process saw, if it is not in the job's folder; otherwise the recorded outcome."""
    seen = ran.get(recorded.job.folder)
    is_failure = seen is not None and seen.status == Status.FAILED and recorded.status not in SUCCEEDED
    return seen if seen is not None and is_failure else recorded


def validate_jobs(jobs: list[Job]) -> dict[Path, Composition]:
    """Validates the configurations in the jobs' folders; raises UserError with every problem, each once."""
    problems = JobProblems(None)
    compositions = {}
    for job in jobs:
        with problems.gathered(()):
            compositions[job.folder] = validate_stored_run(job.container())
    problems.done()
    from alexnet_exp.training.devices import check_devices

    check_devices(each.config for each in compositions.values())
    return compositions
