"""The winners of a sweep once more, with fresh seeds.

The best of many runs is partly the luckiest (the winner's curse): its own figure promises too much. Seeds that had no
say in the choice have no such bias.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet_exp.config.compose import check_config_dir, loaded
from alexnet_exp.config.composer import quoted
from alexnet_exp.errors import UserError
from alexnet_exp.runs.metric import higher_is_better
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import SweepPlan
from alexnet_exp.sweep.execute.scheduler import Outcome, read_outcome
from alexnet_exp.sweep.plan.compose import JobComposer, compose_jobs, lay_out
from alexnet_exp.sweep.plan.folder import flags_of
from alexnet_exp.sweep.plan.naming import settings_of, sweep_name
from alexnet_exp.sweep.plan.untrusted import refuse_foreign

COMMAND = ["sweep", "confirm"]
SEED = "seed"


def plan_confirmation(folder: Path, top: int, seeds: int) -> SweepPlan:
    """The sweep, beside the one in `folder`, that runs its `top` best arms with `seeds` seeds it has not used.

    The arms are ranked by the mean of the sweep's objective over their seeds. The same call finds the same folder, and
    what is done in it. Raises UserError where there is nothing to confirm.
    """
    searched = SweepPlan.read(folder)
    if searched.command[:2] == COMMAND:
        raise UserError(f"{folder}: confirms another sweep already; for more seeds, confirm that one with --seeds")
    outcomes = [read_outcome(job) for job in searched.jobs]
    with searched.objective_declared():
        winners = list(itertools.islice(_winners(outcomes, searched.objective), top))
    if not winners:
        raise UserError(f"{folder}: no job of it is done with a {searched.objective}: there is nothing to confirm")
    fresh = _fresh(outcomes, seeds)
    batch = [[*overrides, f"{SEED}={seed}"] for overrides in winners for seed in fresh]

    flags = flags_of(searched.command)
    how = [override for override in flags.overrides if override.startswith("hydra.job.env_set")]
    command = [*COMMAND, str(folder), f"--top={top}", f"--seeds={seeds}"]
    # from wherever it is typed, the folder beside the first sweep is the same
    same = [*COMMAND, folder.resolve().name, *command[3:]]
    name = sweep_name({"confirm": same[2], "top": str(top), "seeds": str(seeds)}, same, flags.config_dir)
    target = folder.parent / name
    config_dir = str(Path(searched.cwd, flags.config_dir)) if flags.config_dir else None
    check_config_dir(config_dir)
    for overrides in winners:
        refuse_foreign(searched, overrides, config_dir)
    plan = (
        SweepPlan.read(target)
        if SweepPlan.is_in(target)
        else SweepPlan(target, command, str(Path.cwd()), searched.objective)
    )
    plan.direction = searched.direction
    with loaded([*how, f"hydra.sweep.dir={quoted(str(target))}"], config_dir) as (loader, master):
        lay_out(plan, compose_jobs(JobComposer(loader, master), batch))
    return plan


def _winners(outcomes: Sequence[Outcome], objective: str) -> Iterator[list[str]]:
    """The overrides of each arm without its seed, the best first."""
    values: dict[tuple[str, ...], list[float]] = {}
    for outcome in outcomes:
        arm = tuple(override for override in outcome.job.overrides if SEED not in settings_of([override]))
        if outcome.status == Status.DONE and objective in outcome.metrics:
            values.setdefault(arm, []).append(outcome.metrics[objective])
    sign = -1 if higher_is_better(objective) else 1
    return (list(arm) for arm in sorted(values, key=lambda arm: sign * statistics.fmean(values[arm])))


def _fresh(outcomes: Sequence[Outcome], count: int) -> list[int]:
    """The lowest seeds that no job of the sweep has, whether it came to anything or not."""
    used = set()
    for outcome in outcomes:
        typed = settings_of(outcome.job.overrides).get(SEED)
        used.add(int(typed) if typed and typed.isdigit() else outcome.job.container()[SEED])
    return list(itertools.islice((seed for seed in itertools.count(1) if seed not in used), count))
