"""Implements `hydra/sweeper=optuna`: validates the search, opens its folder and study, and runs it.

Optuna is imported after everything else has been validated.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from alexnet_exp.config.composition import Composition
from alexnet_exp.config.overrides import quote_text
from alexnet_exp.config.schema import Config
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.errors import Problem, Refused, UserError, missing_package
from alexnet_exp.runs.lock import locked
from alexnet_exp.runs.metric import label, value_text
from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.pool import JobPool
from alexnet_exp.sweep.execute.scheduler import Outcome, read_outcome
from alexnet_exp.sweep.launcher import SEARCH_KIND, JobsLauncher, SweepCommand, job_return, plan_of
from alexnet_exp.sweep.plan.compose import JobComposer, compose_jobs, config_dir, lay_out
from alexnet_exp.sweep.plan.folder import MULTIRUN_FILE, create_folder
from alexnet_exp.sweep.report import SweepReporter
from alexnet_exp.sweep.results import add_result, write_results
from alexnet_exp.sweep.search.settings import GRID_SAMPLER, SearchSettings
from alexnet_exp.sweep.search.space import SearchValue, Space, parse

SWEEPER_KEY = "hydra.sweeper"
DEFAULT_QUEUED_TRIALS = 4  # in the queue of a cluster at once, unless hydra.launcher.jobs is set


def search(
    arguments: Sequence[str],
    given: Mapping[str, Any],
    launcher: object,
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
) -> None:
    """Runs a search to its end, in the folder `hydra.sweep.dir`.

    arguments: the overrides of the command. given: the settings of the sweeper. master: Hydra's configuration of the
    sweep. Raises UserError, with nothing left on disk, if any of it is invalid.
    """
    settings = _settings(given)
    if find_spec("optuna") is None:
        raise UserError(f"hydra/sweeper=optuna: {missing_package('optuna')}")
    params = (quote_text(f"{key}={value}") for key, value in settings.params.items())
    space = parse([*params, *arguments], context.config_loader)
    if settings.sampler == GRID_SAMPLER:
        space.combinations()
    configs = space.check(config_dir(master))
    _check_objective(str(master.objective), configs)
    if not isinstance(launcher, JobsLauncher) or not launcher.waits:
        instead = "a search waits for its trials; write hydra/launcher=process, or slurm with hydra.launcher.wait=true"
        raise Refused([Problem("hydra/launcher", master.hydra.runtime.choices.get("hydra/launcher"), instead)])
    launcher.check_devices(configs)
    pool = launcher.make_pool()
    folder = create_folder(master)
    with locked(folder):
        OmegaConf.save(master, folder / MULTIRUN_FILE)
        _SearchCommand(settings, space, launcher, context, task_function, master, _max_epochs(configs)).run(pool)


class _SearchCommand:
    """Connects one search to Hydra, and prints its progress."""

    def __init__(
        self,
        settings: SearchSettings,
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
        self.command = SweepCommand.of(task_function, master)
        self.plan = plan_of(master, self.command.typed, SEARCH_KIND)
        if self.plan.kind != SEARCH_KIND:
            instead = "the folder contains a sweep that is not a search; write another folder"
            raise Refused([Problem("hydra.sweep.dir", self.plan.folder, instead)])
        self.plan.direction = settings.direction
        self.study = Study(settings, space, self.plan.folder, self.plan.objective, max_epochs)
        self.compose = JobComposer(context.config_loader, master)
        self.composed: dict[Path, Composition] = {}
        self.reporter = SweepReporter(self.plan, self.study.wanted)

    def run(self, pool: JobPool) -> None:
        from alexnet_exp.sweep.search.loop import Search

        self.pool = pool
        self.plan.write()
        write_results(self.plan, map(read_outcome, self.plan.jobs))
        finished = self.study.count_finished()
        if finished:
            self.reporter.print_line(f"{finished} of {self.study.wanted} trials already finished")
        try:
            Search(
                self.study,
                self.plan,
                pool,
                self.make_job,
                self.on_end,
                on_start=self.on_start,
                on_poll=self.reporter.print_progress,
                print_line=self.reporter.print_line,
                max_running=_max_running(self.launcher),
            ).run()
        finally:
            self.reporter.clear_progress()
            write_results(self.plan, map(read_outcome, self.plan.jobs))
            for line in self.closing_lines():
                self.reporter.print_line(line)

    def make_job(self, number: int, values: dict[str, SearchValue]) -> Job:
        overrides = self.space.overrides(values)
        [composed] = compose_jobs(self.compose, [overrides], self.launcher.check_devices)
        [job] = lay_out(self.plan, [composed], varying=list(self.space.dimensions), number=number + 1)
        self.composed[job.folder] = self.pool.compositions[job.folder] = composed
        return job

    def on_start(self, job: Job) -> None:
        config = self.composed[job.folder].hydra_config
        self.context.callbacks.on_job_start(config=config, task_function=self.task_function)

    def on_end(self, outcome: Outcome) -> None:
        self.command.outcomes[outcome.job.folder] = outcome
        add_result(self.plan, outcome)
        self.reporter.print_job(outcome)
        if self.context.callbacks.callbacks:
            composed = self.composed[outcome.job.folder]
            returned = job_return(composed, outcome, self.plan.objective, with_config=True)
            self.context.callbacks.on_job_end(config=composed.hydra_config, job_return=returned)

    def closing_lines(self) -> list[str]:
        """Returns the last lines: the trials by state, the best trial, and the command that runs it alone."""
        states = self.study.count_states().items()
        count = ", ".join(f"{number} {'failed' if state == 'fail' else state}" for state, number in states)
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


def _max_running(launcher: JobsLauncher) -> int | None:
    """Returns how many trials may run at once; None if the launcher's pool limits them. A queue takes any number."""
    slurm = getattr(launcher, "settings", None)
    return None if slurm is None else getattr(slurm, "jobs", None) or DEFAULT_QUEUED_TRIALS


def _settings(given: Mapping[str, Any]) -> SearchSettings:
    try:
        return SearchSettings(**given)
    except Refused as refused:
        raise Refused([problem.under(SWEEPER_KEY) for problem in refused.problems]) from None


def _check_objective(objective: str, configs: Sequence[Config]) -> None:
    """Raises `Refused` unless each epoch has the objective. A metric of the test set is rejected: it would be tuned."""
    if objective.startswith("test/"):
        instead = "a search must not use the test set; write val/top1 or val/loss"
        raise Refused([Problem("objective", objective, instead)])
    without = [config for config in configs if not isinstance(config.data, UserClass) and not config.data.has_val]
    if objective.startswith("val/") and without:
        raise Refused([Problem("objective", objective, "the data has no validation set; write data.val=split")])


def _max_epochs(configs: Sequence[Config]) -> int | None:
    """Returns the largest number of epochs of a trial; None if a trial has no limit."""
    lengths = [config.trainer.max_epochs for config in configs]
    return None if None in lengths else max(lengths)
