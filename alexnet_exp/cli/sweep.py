"""`sweep work FOLDER`: takes open jobs of a sweep until none is left; any number of these may work on one sweep.

`sweep confirm FOLDER`: its best arms once more, with fresh seeds.
"""

from __future__ import annotations

from collections.abc import Callable

from alexnet_exp.cli.parser import Parser
from alexnet_exp.errors import UserError, suggest_name
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.sweep_plan import SweepPlan
from alexnet_exp.sweep.execute.worker import sweep_folder, work


def run(arguments: list[str]) -> int:
    """Runs one of `WORDS`."""
    if arguments and arguments[0] in WORDS:
        return WORDS[arguments[0]](arguments[1:])
    if arguments and arguments[0] not in ("-h", "--help"):
        raise UserError(f"sweep {arguments[0]}: {suggest_name(arguments[0], WORDS)}; a sweep is started with -m")
    print(
        "usage: python -m alexnet_exp sweep work FOLDER [--jobs N] [--retry-failed]",
        "       python -m alexnet_exp sweep confirm FOLDER [--top N] [--seeds N] [--jobs N]",
        "",
        "work     runs the jobs of a sweep that nobody else runs; any number of these may work on one sweep",
        "confirm  runs the best arms of a sweep once more, with fresh seeds",
        "",
        "sweep work --help and sweep confirm --help explain the flags. A sweep is started with -m:",
        "python -m alexnet_exp -m model=lrn,bn seed=1,2,3",
        sep="\n",
    )
    return 0


def _work(arguments: list[str]) -> int:
    """Returns 0 where every job that this process ran ended well."""
    parser = Parser("sweep work", "Runs open jobs of a sweep until none is left that nobody else runs.")
    parser.add_argument("folder", metavar="FOLDER", help="the sweep's folder")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at once (default: 1)")
    parser.add_argument("--retry-failed", action="store_true", help="also those that have failed, once more")
    given = parser.parse_args(arguments)
    plan = SweepPlan.read(sweep_folder(given.folder, outputs_folder()))
    if plan.kind == "search":
        go_on = f"python -m alexnet_exp resume {plan.folder}"
        raise UserError(f"{plan.folder} is a search, which asks for its jobs as it goes; to go on with it: {go_on}")
    return work(plan, given.jobs, again=given.retry_failed, wait=False, whole=False)


def _confirm(arguments: list[str]) -> int:
    """Returns 0 where every job of the confirmation has ended well."""
    parser = Parser("sweep confirm", "Runs the best of a sweep once more, with seeds that had no say in the choice.")
    parser.add_argument("folder", metavar="FOLDER", help="the sweep's folder")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="how many arms, the best first (default: 3)")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many fresh seeds each (default: 10)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at once (default: 1)")
    given = parser.parse_args(arguments)
    for name in ("top", "seeds", "jobs"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} {getattr(given, name)}: must be at least 1")
    from alexnet_exp.sweep.plan.confirm import plan_confirmation

    plan = plan_confirmation(sweep_folder(given.folder, outputs_folder()), given.top, given.seeds)
    return work(plan, given.jobs, again=True, wait=True, whole=True)


WORDS: dict[str, Callable[[list[str]], int]] = {"work": _work, "confirm": _confirm}
