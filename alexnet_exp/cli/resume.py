"""`resume PATH`: goes on with a run or a sweep, from its folder alone.

A run goes on from its newest whole checkpoint, and ends as it would have, had nothing come between. Of a sweep what is
done stays, what was cut off goes on, and what failed has another chance.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alexnet_exp.cli.output import print_result
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

JOBS = "hydra.launcher.jobs="


def run(arguments: list[str]) -> int:
    """Returns the exit code of the run, or 0 where every job of the sweep has ended well."""
    parser = Parser("resume", "Goes on with a run or a sweep where it was stopped.")
    parser.add_argument("folder", metavar="PATH", help="a run, the beginning of its name, or last; a sweep's folder")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of a run: trainer.max_epochs=20 trains on"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="of a sweep: how many at once; default: as it was started"
    )
    given = parser.parse_intermixed_args(arguments)
    folder = _folder(given.folder)
    if not (SweepPlan.is_in(folder) or SweepPlan.is_in(folder.parent)):
        return _single(folder, given)
    if given.overrides:
        raise UserError(f"{given.overrides[0]}: {folder} is a sweep's, whose jobs go on as they were planned")
    plan = SweepPlan.read(sweep_folder(str(folder), outputs_folder()))
    if plan.kind == "search":
        return _search(plan, given.jobs)
    return work(plan, _jobs(plan) if given.jobs is None else given.jobs, again=True, wait=True, whole=True)


def _folder(text: str) -> Path:
    """The folder that is meant, of a run or a sweep; also that of a run which was killed before it could say a word."""
    path = Path(text)
    if text != "last" and (SweepPlan.is_in(path) or is_run(path) or (path / ".hydra" / "config.yaml").is_file()):
        return path
    if text != "last" and path.is_dir():
        raise UserError(f"{text}: no run or sweep lies there: it has neither result.json nor sweep.json")
    return find(text, outputs_folder())


def _single(folder: Path, given: argparse.Namespace) -> int:
    refuse_links_out(folder)
    if given.jobs is not None:
        raise UserError(f"--jobs {given.jobs}: {folder} is a single run's; --jobs is for a sweep")
    seen = digest(folder)
    before = config_of(folder)
    if not is_run(folder) and "${" in str(before):  # as an earlier version left it that was killed before it began
        raise UserError(f"{folder}: was killed before it began, and has nothing to go on with; type its command again")
    container = with_changes(before, given.overrides)
    status = state(folder) if is_run(folder) else None
    if status in (Status.DONE, Status.PRUNED):
        if container == before:
            print(escape_controls(f"{folder}: is {status} already; {_how_to_train_on(folder, before)}"))
            return 0
        if not has_checkpoint(folder):
            raise UserError(f"{folder}: kept no checkpoint (checkpoint.keep) to go on from; start a new run")
    ending = continue_run(container, before, folder, seen)
    if ending.status != Status.REFUSED:
        print_result(folder, ending.code)
    return ending.code


def _how_to_train_on(folder: Path, before: dict[str, Any]) -> str:
    stopped = read_result(folder).get("stopped_early")
    if stopped is None:
        return "trainer.max_epochs=N trains on"
    if before["trainer"].get("max_time") is not None and "max_time" in stopped:
        return f"{stopped}; a longer trainer.max_time=DD:HH:MM:SS, that of all attempts, trains on"
    return f"stopped early ({stopped}); for a larger patience start a new run"


def _jobs(plan: SweepPlan) -> int:
    """How many jobs at once the command asked for; one, where it only planned the sweep (0)."""
    asked = [word.removeprefix(JOBS) for word in plan.command if word.startswith(JOBS)]
    return max(1, int(asked[-1])) if asked and asked[-1].isdigit() else 1


def _search(plan: SweepPlan, jobs: int | None) -> int:
    """A search asks for its next jobs as it goes, which only its command can do: so that is run again, as typed."""
    from alexnet_exp.cli import train
    from alexnet_exp.config.composer import quoted
    from alexnet_exp.sweep.plan.untrusted import to_run_again

    folder = plan.folder.absolute()
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    how = [f"hydra.sweep.dir={quoted(str(here))}", *([] if jobs is None else [f"{JOBS}{jobs}"])]
    words = to_run_again(plan)
    how = [word for word in how if word not in words]
    return train.run([*words, *how])
