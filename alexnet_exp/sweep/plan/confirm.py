"""Plans a confirmation: the best arms of a sweep again, with new seeds.

The best of many runs is partly the luckiest (the winner's curse), so its own result is biased. Seeds that were not used
to select it have no such bias.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet_exp.config.compose import check_config_dir
from alexnet_exp.config.composer import quote_value
from alexnet_exp.config.hydra_session import hydra_session
from alexnet_exp.errors import UserError
from alexnet_exp.runs.metric import higher_is_better
from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import SweepPlan
from alexnet_exp.sweep.execute.scheduler import Outcome, read_outcome
from alexnet_exp.sweep.plan.compose import JobComposer, compose_jobs, lay_out
from alexnet_exp.sweep.plan.folder import parse_command
from alexnet_exp.sweep.plan.naming import settings_of, sweep_name
from alexnet_exp.sweep.plan.untrusted import check_overrides

CONFIRM_COMMAND = ["sweep", "confirm"]
SEED_KEY = "seed"


def plan_confirmation(folder: Path, top: int, seeds: int) -> SweepPlan:
    """Plans a sweep beside the one in `folder`: its `top` best arms with `seeds` seeds that it has not used.

    The arms are ranked by the mean of the sweep's objective over their seeds. The same call returns the same plan, with
    its finished jobs. Raises UserError if there is nothing to confirm.
    """
    searched = SweepPlan.read(folder)
    if searched.command[:2] == CONFIRM_COMMAND:
        raise UserError(f"{folder}: is a confirmation; for more seeds, confirm its sweep with a larger --seeds")
    outcomes = [read_outcome(job) for job in searched.jobs]
    with searched.objective_declared():
        winners = list(itertools.islice(_winners(outcomes, searched.objective), top))
    if not winners:
        raise UserError(f"{folder}: no job that is done has {searched.objective}, so there is nothing to confirm")
    new_seeds = _new_seeds(outcomes, seeds)
    batch = [[*overrides, f"{SEED_KEY}={seed}"] for overrides in winners for seed in new_seeds]

    flags = parse_command(searched.command)
    execution = [override for override in flags.overrides if override.startswith("hydra.job.env_set")]
    command = [*CONFIRM_COMMAND, str(folder), f"--top={top}", f"--seeds={seeds}"]
    # The name does not depend on the working folder in which the command is run.
    canonical = [*CONFIRM_COMMAND, folder.resolve().name, *command[3:]]
    name = sweep_name({"confirm": canonical[2], "top": str(top), "seeds": str(seeds)}, canonical, flags.config_dir)
    target = folder.parent / name
    config_dir = str(Path(searched.cwd, flags.config_dir)) if flags.config_dir else None
    check_config_dir(config_dir)
    for overrides in winners:
        check_overrides(searched, overrides, config_dir)
    plan = (
        SweepPlan.read(target)
        if SweepPlan.is_in(target)
        else SweepPlan(target, command, str(Path.cwd()), searched.objective)
    )
    plan.direction = searched.direction
    into = f"hydra.sweep.dir={quote_value(str(target))}"
    with hydra_session([*execution, into], config_dir, sweep=True) as session:
        lay_out(plan, compose_jobs(JobComposer(session.loader, session.config), batch))
    return plan


def _winners(outcomes: Sequence[Outcome], objective: str) -> Iterator[list[str]]:
    """Returns the overrides of each arm without its seed, the best arm first."""
    values: dict[tuple[str, ...], list[float]] = {}
    for outcome in outcomes:
        arm = tuple(override for override in outcome.job.overrides if SEED_KEY not in settings_of([override]))
        if outcome.status == Status.DONE and objective in outcome.metrics:
            values.setdefault(arm, []).append(outcome.metrics[objective])
    sign = -1 if higher_is_better(objective) else 1
    return (list(arm) for arm in sorted(values, key=lambda arm: sign * statistics.fmean(values[arm])))


def _new_seeds(outcomes: Sequence[Outcome], count: int) -> list[int]:
    """Returns the lowest seeds that no job of the sweep has, whatever its status."""
    used = set()
    for outcome in outcomes:
        typed = settings_of(outcome.job.overrides).get(SEED_KEY)
        used.add(int(typed) if typed and typed.isdigit() else outcome.job.container()[SEED_KEY])
    return list(itertools.islice((seed for seed in itertools.count(1) if seed not in used), count))
