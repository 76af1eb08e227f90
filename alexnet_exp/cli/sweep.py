"""Implements `sweep work FOLDER`, which runs pending jobs of a sweep, and `sweep confirm FOLDER`, for its best arms."""

from __future__ import annotations

from collections.abc import Callable

from alexnet_exp.cli.parser import Parser
from alexnet_exp.errors import UserError, suggest_name
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.sweep_plan import SweepPlan
from alexnet_exp.sweep.execute.worker import sweep_folder, work


def run(arguments: list[str]) -> int:
    """Runs one of `SWEEP_COMMANDS`."""
    if arguments and arguments[0] in SWEEP_COMMANDS:
        return SWEEP_COMMANDS[arguments[0]](arguments[1:])
    if arguments and arguments[0] not in ("-h", "--help"):
        raise UserError(
            f"sweep {arguments[0]}: {suggest_name(arguments[0], SWEEP_COMMANDS)}; to start a sweep, write -m"
        )
    print(
        "usage: python -m alexnet_exp sweep work FOLDER [--jobs N] [--retry-failed]",
        "       python -m alexnet_exp sweep confirm FOLDER [--top N] [--seeds N] [--jobs N]",
        "",
        "work     runs the pending jobs of a sweep; any number of workers may share one sweep",
        "confirm  runs the best arms of a sweep again, with new seeds",
        "",
        "sweep work --help and sweep confirm --help explain the options. -m starts a sweep:",
        "python -m alexnet_exp -m model=lrn,bn seed=1,2,3",
        sep="\n",
    )
    return 0


def _work(arguments: list[str]) -> int:
    """Returns 0 if every job that this process ran succeeded."""
    parser = Parser("sweep work", "Runs the pending jobs of a sweep, except those that other workers run.")
    parser.add_argument("folder", metavar="FOLDER", help="the sweep's folder")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of jobs at once (default: 1)")
    parser.add_argument("--retry-failed", action="store_true", help="runs failed jobs again, too")
    given = parser.parse_args(arguments)
    plan = SweepPlan.read(sweep_folder(given.folder, outputs_folder()))
    if plan.kind == "search":
        command = f"python -m alexnet_exp resume {plan.folder}"
        raise UserError(f"{plan.folder}: is a search, which workers cannot share; resume it with: {command}")
    return work(plan, given.jobs, retry_failed=given.retry_failed, wait=False, report_all=False)


def _confirm(arguments: list[str]) -> int:
    """Returns 0 if every job of the confirmation succeeded."""
    parser = Parser(
        "sweep confirm", "Runs the best arms of a sweep again, with seeds that were not used to select them."
    )
    parser.add_argument("folder", metavar="FOLDER", help="the sweep's folder")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="number of arms, the best first (default: 3)")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="new seeds for each arm (default: 10)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of jobs at once (default: 1)")
    given = parser.parse_args(arguments)
    for name in ("top", "seeds", "jobs"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} {getattr(given, name)}: must be at least 1")
    from alexnet_exp.sweep.plan.confirm import plan_confirmation

    plan = plan_confirmation(sweep_folder(given.folder, outputs_folder()), given.top, given.seeds)
    return work(plan, given.jobs, retry_failed=True, wait=True, report_all=True)


SWEEP_COMMANDS: dict[str, Callable[[list[str]], int]] = {"work": _work, "confirm": _confirm}
