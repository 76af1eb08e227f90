"""Implements `resume PATH`, which resumes a run or a sweep from its folder.

A run resumes from its newest intact checkpoint, and ends with the same bits as an uninterrupted one. Of a sweep,
interrupted and killed jobs are resumed, failed jobs are run again, and finished jobs are not touched.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alexnet_exp.cli.output import print_result, report_loading
from alexnet_exp.cli.parser import Parser
from alexnet_exp.errors import UserError
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.folder import has_checkpoint
from alexnet_exp.runs.links import refuse_links_out
from alexnet_exp.runs.lookup import find
from alexnet_exp.runs.reader import is_run, read_result, state
from alexnet_exp.runs.start import config_of, digest
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import SweepPlan
from alexnet_exp.sanitize import escape_controls
from alexnet_exp.sweep.execute.worker import sweep_folder, work
from alexnet_exp.training.continue_run import continue_run, with_changes

JOBS_PREFIX = "hydra.launcher.jobs="


def run(arguments: list[str]) -> int:
    """Returns the exit code of the run, or of a sweep 0 if every job succeeded."""
    parser = Parser("resume", "Resumes a run or a sweep where it was stopped.")
    parser.add_argument(
        "folder", metavar="PATH", help="a run folder, last, or a unique prefix of its path; or a sweep folder"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="for a run: trainer.max_epochs=20 trains longer"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="for a sweep: number of jobs at once (default: as in its command)"
    )
    given = parser.parse_intermixed_args(arguments)
    folder = _folder(given.folder)
    if not (SweepPlan.is_in(folder) or SweepPlan.is_in(folder.parent)):
        return _single(folder, given)
    if given.overrides:
        raise UserError(f"{given.overrides[0]}: the settings of a sweep cannot be changed on resume; start a new sweep")
    plan = SweepPlan.read(sweep_folder(str(folder), outputs_folder()))
    if plan.kind == "search":
        return _search(plan, given.jobs)
    return work(plan, _jobs(plan) if given.jobs is None else given.jobs, retry_failed=True, wait=True, report_all=True)


def _folder(text: str) -> Path:
    """Returns the folder of a run or a sweep; also that of a run which was killed before it wrote result.json."""
    path = Path(text)
    if text != "last" and (SweepPlan.is_in(path) or is_run(path) or (path / ".hydra" / "config.yaml").is_file()):
        return path
    if text != "last" and path.is_dir():
        raise UserError(f"{text}: contains neither a run (result.json) nor a sweep (sweep.json); name another folder")
    return find(text, outputs_folder())


def _single(folder: Path, given: argparse.Namespace) -> int:
    refuse_links_out(folder)
    if given.jobs is not None:
        raise UserError(f"--jobs {given.jobs}: {folder} is a single run; leave --jobs out")
    seen = digest(folder)
    before = config_of(folder)
    if not is_run(folder) and "${" in str(before):  # left by an earlier version, which was killed before it started
        raise UserError(f"{folder}: was killed before it started and cannot be resumed; run its command again")
    container = with_changes(before, given.overrides)
    status = state(folder) if is_run(folder) else None
    if status in (Status.DONE, Status.PRUNED):
        if container == before:
            print(escape_controls(f"{folder}: is already {status}; {_how_to_train_longer(folder, before)}"))
            return 0
        if not has_checkpoint(folder):
            raise UserError(f"{folder}: has no checkpoint to resume from (checkpoint.keep); start a new run")
    report_loading()
    ending = continue_run(container, before, folder, seen)
    if ending.status != Status.REFUSED:
        print_result(folder, ending.code)
    return ending.code


def _how_to_train_longer(folder: Path, before: dict[str, Any]) -> str:
    stopped = read_result(folder).get("stopped_early")
    if stopped is None:
        return "trainer.max_epochs=N trains longer"
    if before["trainer"].get("max_time") is not None and "max_time" in stopped:
        return f"{stopped}; a larger trainer.max_time=DD:HH:MM:SS, for all attempts together, trains longer"
    return f"stopped early ({stopped}); for a larger patience, start a new run"


def _jobs(plan: SweepPlan) -> int:
    """Returns how many jobs at once the sweep's command asked for; 1 if it only planned the sweep (jobs=0)."""
    values = [each.removeprefix(JOBS_PREFIX) for each in plan.command if each.startswith(JOBS_PREFIX)]
    return max(1, int(values[-1])) if values and values[-1].isdigit() else 1


def _search(plan: SweepPlan, jobs: int | None) -> int:
    """Runs the command of a search again, because the folder does not have the jobs that are still to come."""
    from alexnet_exp.cli import train
    from alexnet_exp.config.composer import quote_value
    from alexnet_exp.sweep.plan.untrusted import checked_command

    folder = plan.folder.absolute()
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    added = [f"hydra.sweep.dir={quote_value(str(here))}", *([] if jobs is None else [f"{JOBS_PREFIX}{jobs}"])]
    command = checked_command(plan)
    return train.run([*command, *(override for override in added if override not in command)])
