"""`hydra/sweeper=optuna`: what is searched is checked, the sweep's folder and study are opened, the search is run.

Optuna is imported once nothing is left to refuse.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from alexnet_exp.config.overrides import exact
from alexnet_exp.config.schema import Config
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.errors import Problem, Refused, UserError, missing_package
from alexnet_exp.runs.lock import locked
from alexnet_exp.runs.metric import label, value_text
from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.pool import Pool
from alexnet_exp.sweep.execute.scheduler import Outcome, outcome_of
from alexnet_exp.sweep.launcher import SEARCH, JobsLauncher, job_return, note_ran, plan_of
from alexnet_exp.sweep.plan.compose import Composed, JobComposer, compose_jobs, config_dir, lay_out
from alexnet_exp.sweep.plan.folder import MULTIRUN, make
from alexnet_exp.sweep.report import Teller
from alexnet_exp.sweep.results import add, write_all
from alexnet_exp.sweep.search.settings import GRID, Settings
from alexnet_exp.sweep.search.space import Space, Value, parse

NODE = "hydra.sweeper"
QUEUED = 4  # trials in a cluster's queue, unless hydra.launcher.jobs says otherwise


def search(
    arguments: Sequence[str],
    given: Mapping[str, Any],
    launcher: object,
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
) -> None:
    """Runs a search to its end, in the folder `hydra.sweep.dir`.

    arguments: the overrides that were typed. given: the settings of the sweeper. master: Hydra's configuration of the
    sweep. Raises UserError, with nothing left on disk, where any of it cannot be used.
    """
    settings = _settings(given)
    if find_spec("optuna") is None:
        raise UserError(f"hydra/sweeper=optuna: {missing_package('optuna')}")
    params = (exact(f"{key}={value}") for key, value in settings.params.items())
    space = parse([*params, *arguments], context.config_loader)
    if settings.sampler == GRID:
        space.combinations()
    configs = space.check(config_dir(master))
    _check_objective(str(master.objective), configs)
    if not isinstance(launcher, JobsLauncher) or not launcher.waits:
        instead = "a search waits for each trial; choose hydra/launcher=process, or slurm with hydra.launcher.wait=true"
        raise Refused([Problem("hydra/launcher", master.hydra.runtime.choices.get("hydra/launcher"), instead)])
    launcher.check_devices(configs)
    pool = launcher.make_pool()
    folder = make(master)
    with locked(folder):
        OmegaConf.save(master, folder / MULTIRUN)
        _Command(settings, space, launcher, context, task_function, master, _longest(configs)).run(pool)


class _Command:
    """One search: Hydra's side of it, and what the user is told."""

    def __init__(
        self,
        settings: Settings,
        space: Space,
        launcher: JobsLauncher,
        context: HydraContext,
        task_function: TaskFunction,
        master: DictConfig,
        max_epochs: int | None,
    ):
        from alexnet_exp.sweep.search.study import Study

        self.space, self.launcher, self.context, self.task_function, self.master = (
            *(space, launcher, context, task_function, master),
        )
        self.plan = plan_of(master, SEARCH)
        if self.plan.kind != SEARCH:
            raise Refused(
                [Problem("hydra.sweep.dir", self.plan.folder, "holds a sweep that is no search; write another")]
            )
        self.plan.direction = settings.direction
        self.study = Study(settings, space, self.plan.folder, self.plan.objective, max_epochs)
        self.compose = JobComposer(context.config_loader, master)
        self.composed: dict[Path, Composed] = {}
        self.teller = Teller(self.plan, self.study.wanted)

    def run(self, pool: Pool) -> None:
        from alexnet_exp.sweep.search.loop import Search

        self.plan.write()
        write_all(self.plan, map(outcome_of, self.plan.jobs))
        before = self.study.finished()
        if before:
            self.teller.say(f"{before} of {self.study.wanted} trials have ended already")
        try:
            Search(
                self.study,
                self.plan,
                pool,
                self.make,
                self.told,
                started=self.started,
                looked=self.teller.looked,
                said=self.teller.say,
                at_once=_at_once(self.launcher),
            ).run()
        finally:
            self.teller.clear()
            write_all(self.plan, map(outcome_of, self.plan.jobs))
            for line in self.lines():
                self.teller.say(line)

    def make(self, number: int, values: dict[str, Value]) -> Job:
        overrides = self.space.overrides(values)
        [composed] = compose_jobs(self.compose, [overrides], self.launcher.check_devices)
        [job] = lay_out(self.plan, [composed], varying=list(self.space.dimensions), number=number + 1)
        self.composed[job.folder] = composed
        return job

    def started(self, job: Job) -> None:
        config = self.composed[job.folder].config
        self.context.callbacks.on_job_start(config=config, task_function=self.task_function)

    def told(self, outcome: Outcome) -> None:
        note_ran(outcome)
        add(self.plan, outcome)
        self.teller.ended(outcome)
        if self.context.callbacks.callbacks:
            composed = self.composed[outcome.job.folder]
            returned = job_return(composed, outcome, self.plan.objective, whole=True)
            self.context.callbacks.on_job_end(config=composed.config, job_return=returned)

    def lines(self) -> list[str]:
        """What is said at the end: how the trials ended, which was best, and the command that runs it alone."""
        count = ", ".join(f"{number} {state}" for state, number in self.study.states().items())
        objective, best = self.plan.objective, self.study.best()
        if best is None:
            return [f"trials: {count or 'none'}"]
        settings = " ".join(self.space.varied(best.values))
        command = shlex.join(["python", "-m", "alexnet_exp", *self.space.overrides(best.values)])
        return [
            f"trials: {count}",
            f"best: trial {best.number + 1}, {label(objective)} {value_text(objective, best.value)}, {settings}",
            f"  {command}",
        ]


def _at_once(launcher: JobsLauncher) -> int | None:
    """How many trials may be begun at once; None where the launcher's pool knows. A queue takes any number."""
    queue = getattr(launcher, "settings", None)
    return None if queue is None else getattr(queue, "jobs", None) or QUEUED


def _settings(given: Mapping[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except Refused as refused:
        raise Refused([problem.under(NODE) for problem in refused.problems]) from None


def _check_objective(objective: str, configs: Sequence[Config]) -> None:
    """A search follows a metric that each epoch has, and never the test images: they would be no test any more."""
    if objective.startswith("test/"):
        instead = "a search would choose by the test images; write val/top1 or val/loss"
        raise Refused([Problem("objective", objective, instead)])
    without = [config for config in configs if not isinstance(config.data, UserClass) and not config.data.has_val]
    if objective.startswith("val/") and without:
        raise Refused([Problem("objective", objective, "there is no validation; write data.val=split")])


def _longest(configs: Sequence[Config]) -> int | None:
    """The most epochs that a trial may have; None where they are not limited."""
    lengths = [config.trainer.max_epochs for config in configs]
    return None if None in lengths else max(lengths)
