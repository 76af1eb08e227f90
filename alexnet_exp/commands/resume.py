"""`resume FOLDER`: goes on with a sweep from its folder: what is done stays, what was cut off or failed runs again."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_exp.commands.parser import Parser
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs.plan import Plan
from alexnet_exp.settings import UserError
from alexnet_exp.sweep.work import sweep_folder, work

JOBS = "hydra.launcher.jobs="


def run(arguments: list[str]) -> int:
    """Returns 0 where every job of the sweep has ended well; tells the end as the sweep itself does."""
    parser = Parser("resume", "Goes on with a sweep where it was stopped.")
    parser.add_argument("folder", metavar="FOLDER", help="the sweep's folder, one of its jobs', or last")
    parser.add_argument("--jobs", type=int, metavar="N", help="how many at once; default: as the sweep was started")
    given = parser.parse_args(arguments)
    plan = Plan.read(sweep_folder(given.folder, OUTPUTS))
    if plan.kind == "search":
        return _search(plan, given.jobs)
    return work(plan, _jobs(plan) if given.jobs is None else given.jobs, again=True, wait=True, whole=True)


def _jobs(plan: Plan) -> int:
    """How many jobs at once the command asked for; one, where it only planned the sweep (0)."""
    asked = [word.removeprefix(JOBS) for word in plan.command if word.startswith(JOBS)]
    return max(1, int(asked[-1])) if asked and asked[-1].isdigit() else 1


def _search(plan: Plan, jobs: int | None) -> int:
    """A search asks for its next jobs as it goes, which only its command can do: so that is run again, as typed."""
    from alexnet_exp.commands import train
    from alexnet_exp.config import quoted

    folder = plan.folder.absolute()
    try:
        os.chdir(plan.cwd)
    except OSError as error:
        raise UserError(f"{plan.folder}: was started in {plan.cwd}, which is not there ({error.strerror})") from None
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    how = [f"hydra.sweep.dir={quoted(str(here))}", *([] if jobs is None else [f"{JOBS}{jobs}"])]
    how = [word for word in how if word not in plan.command]
    # behind the last override: behind a flag, Hydra's parser would not take any more of them
    at = 1 + max((index for index, word in enumerate(plan.command) if _is_override(word)), default=-1)
    return train.run([*plan.command[:at], *how, *plan.command[at:]])


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")
