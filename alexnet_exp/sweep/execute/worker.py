"""Working on a sweep from its folder alone, without Hydra: what `resume` and `sweep work` do."""

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
    """The folder of the sweep that `text` means: a sweep's, that of one of its jobs, or `last`, if that is a job's.

    Raises UserError for anything else.
    """
    folder = read_link(outputs / "latest") if text == "last" else Path(text)
    if folder is None or not folder.is_dir():
        raise UserError(f"{text}: there is no such folder; name that of a sweep, in which sweep.json lies")
    for each in (folder, folder.parent):
        if SweepPlan.is_in(each):
            return each.relative_to(Path.cwd()) if each.is_relative_to(Path.cwd()) else each
    what = "that of a single run" if (folder / "result.json").exists() else "not that of a sweep"
    raise UserError(f"{text} is {what}: only a sweep's folder, in which sweep.json lies, can be gone on with")


def local_pool(jobs: int, key: str) -> JobPool:
    """Processes of this machine, `jobs` at once; `key` is the setting to blame where that cannot be."""
    from alexnet_exp.sweep.execute.local import LocalPool

    at_least_one(jobs, key)
    return LocalPool(jobs)


def at_least_one(jobs: int, key: str) -> None:
    """Raises UserError, which blames `key`, where no job would run."""
    if jobs < 1:
        raise UserError(f"{key}={jobs}: must be at least 1")


def work(plan: SweepPlan, jobs: int, *, again: bool, wait: bool, whole: bool) -> int:
    """Runs what is to be run of a plan, see `run_jobs`; tells the end, and returns the exit code.

    whole: whether the end is told, and judged, of every job of the sweep, or only of those that were run here.
    """
    at_least_one(jobs, "--jobs")
    to_do = [job for job in plan.jobs if read_status(job.folder) not in SUCCEEDED]
    compositions = check(to_do)
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
                    plan, plan.jobs, pool, retry_failed=again, wait=wait, on_end=on_end, on_poll=reporter.print_progress
                )
        except KeyboardInterrupt as stop:
            stopped = stop
        reporter.clear_progress()
        if not ran and not whole and to_do:
            failed = sum(read_status(job.folder) == Status.FAILED for job in to_do)
            reporter.print_line(f"no job to run: {len(to_do)} of {len(plan.jobs)} are not done ({failed} failed)")
        return end(plan, ran, stopped, whole)


def end(plan: SweepPlan, ran: Mapping[Path, Outcome], stopped: KeyboardInterrupt | None, whole: bool = True) -> int:
    """Tells how a sweep ended, and returns the exit code.

    ran: what this process has seen of the jobs that it ran, by their folders; a folder that cannot be written cannot
    tell. whole: whether it is told of all jobs, or of those alone.
    """
    stand = [_seen(read_outcome(job), ran) for job in plan.jobs]
    results.write_results(plan, stand)
    outcomes = with_queued(plan, stand if whole else ran.values())
    close_sweep(plan.folder)
    print_results(plan, outcomes, "interrupted" if stopped else None)
    return ending_of(stopped).code if stopped else exit_code_of(outcomes)


def _seen(told: Outcome, ran: Mapping[Path, Outcome]) -> Outcome:
    seen = ran.get(told.job.folder)
    return seen if seen is not None and seen.status == Status.FAILED and told.status not in SUCCEEDED else told


def check(jobs: list[Job]) -> dict[Path, Composition]:
    """Validates the configurations in the jobs' folders; raises UserError with everything that is wrong, once."""
    problems = JobProblems(None)
    found = {}
    for job in jobs:
        with problems.gathered(()):
            found[job.folder] = validate_stored_run(job.container())
    problems.done()
    from alexnet_exp.training.devices import check_devices

    check_devices(each.config for each in found.values())
    return found
