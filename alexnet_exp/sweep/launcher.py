"""Provides the base of the launchers: validates all jobs, writes their folders, and runs them with `run_jobs`.

A subclass makes the pool in which the jobs run; `hydra_plugins/alexnet_exp/` has the subclasses that Hydra finds.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import Job, SweepPlan

if TYPE_CHECKING:
    from alexnet_exp.config.composition import Composition
    from alexnet_exp.config.schema import Config
    from alexnet_exp.sweep.execute.pool import JobPool
    from alexnet_exp.sweep.execute.scheduler import Outcome

SEARCH_KIND = "search"  # of a plan


class JobFailed(Exception):  # noqa: N818 (the name is the status)
    """Raised by Hydra's sweepers for a job that failed, with its error; the job's folder has the traceback."""


class SweepCommand:
    """The task function of a sweep, through which its command and Hydra's plugins exchange what Hydra does not pass on.

    typed: the arguments of the command, which the plan records. outcomes: of the jobs that this process ran, by their
    folders; a folder that is not writable does not have its outcome. returned: what `train` returned for each job that
    a launcher of Hydra's ran in this process.
    """

    def __init__(self, typed: Sequence[str], train: TaskFunction):
        self.typed, self.train = list(typed), train
        self.outcomes: dict[Path, Outcome] = {}
        self.returned: list[Any] = []
        self._raised: list[Exception] = []

    @classmethod
    def of(cls, task_function: TaskFunction, master: DictConfig) -> SweepCommand:
        """Returns the command that Hydra passes as task function, or a new one if the sweep was started otherwise."""
        if isinstance(task_function, SweepCommand):
            return task_function
        overrides = master.hydra.overrides
        return cls(["-m", *overrides.task, *overrides.hydra], task_function)

    def __call__(self, config: DictConfig) -> None:
        try:
            self.returned.append(self.train(config))
        except Exception as error:  # Hydra would print its own message, and skip the jobs that follow
            self._raised.append(error)

    def raise_error(self) -> None:
        """Raises the first error of a job that a launcher of Hydra's ran."""
        if self._raised:
            raise self._raised[0]


def plan_of(master: DictConfig, typed: Sequence[str], kind: str = "grid") -> SweepPlan:
    """Returns the plan in the sweep's folder, or a new plan that is not written yet.

    master: Hydra's configuration of the sweep. typed: the arguments of its command.
    """
    folder = Path(master.hydra.sweep.dir)
    command = list(typed)
    if not SweepPlan.is_in(folder):
        return SweepPlan(folder, command, str(Path.cwd()), str(master.objective), kind)
    plan = SweepPlan.read(folder)
    plan.objective = str(master.objective)
    if plan.kind == kind == SEARCH_KIND:  # the command may ask for more trials than before
        plan.command, plan.cwd = command, str(Path.cwd())
    return plan


class JobsLauncher(Launcher):
    """Runs a batch of jobs in the pool of `make_pool`. validates_jobs: the sweeper need not validate them."""

    validates_jobs = True

    @property
    def waits(self) -> bool:
        """Whether `launch` returns only when all jobs have ended, including those that other processes run."""
        return True

    @property
    def only_plans(self) -> bool:
        """Whether `launch` starts no job, so that `sweep work` runs them."""
        return False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config
        self.command = SweepCommand.of(task_function, config)

    def check_devices(self, configs: Sequence[Config]) -> None:
        """Raises UserError for devices that the machine on which the jobs run does not have."""
        from alexnet_exp.training.devices import check_devices

        check_devices(configs)

    @abstractmethod
    def make_pool(self) -> JobPool:
        """Returns the pool in which the jobs run; raises UserError for invalid settings."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs, returns their results. Raises UserError, with nothing left on disk, if any job is invalid."""
        from alexnet_exp.sweep.execute.job_lock import JobLocks
        from alexnet_exp.sweep.execute.scheduler import read_outcome, run_jobs
        from alexnet_exp.sweep.plan.compose import JobComposer, compose_jobs, lay_out
        from alexnet_exp.sweep.report import SweepReporter, opening_lines
        from alexnet_exp.sweep.results import add_result, write_results

        composer = JobComposer(self.context.config_loader, self.config)
        composed = compose_jobs(composer, job_overrides, self.check_devices)
        pool = None if self.only_plans else self.make_pool()
        with JobLocks(Path(self.config.hydra.sweep.dir)).exclusive():  # others may add a grid to the folder
            plan = plan_of(self.config, self.command.typed)
            jobs = lay_out(plan, composed)
        distinct = list({job.folder: job for job in jobs}.values())
        by_folder = {job.folder: each for job, each in zip(jobs, composed, strict=True)}
        if pool is not None:
            pool.compositions |= by_folder
        reporter = SweepReporter(plan)
        returns: dict[Path, JobReturn] = {}
        has_callbacks = bool(self.context.callbacks.callbacks)
        write_results(plan, map(read_outcome, plan.jobs))
        for line in opening_lines(distinct, len(jobs)):
            reporter.print_line(line)

        def on_start(job: Job) -> None:
            config = by_folder[job.folder].hydra_config
            self.context.callbacks.on_job_start(config=config, task_function=self.task_function)

        def on_end(outcome: Outcome) -> None:
            self.command.outcomes[outcome.job.folder] = outcome
            add_result(plan, outcome)
            reporter.print_job(outcome)
            each = by_folder[outcome.job.folder]
            if has_callbacks:
                returned = job_return(each, outcome, plan.objective, with_config=True)
                self.context.callbacks.on_job_end(config=each.hydra_config, job_return=returned)
            returns[outcome.job.folder] = job_return(each, outcome, plan.objective)

        outcomes = list(map(read_outcome, distinct))
        if pool is not None:
            try:
                outcomes = run_jobs(
                    plan,
                    distinct,
                    pool,
                    retry_failed=True,
                    wait=self.waits,
                    on_end=on_end,
                    on_start=on_start,
                    on_poll=reporter.print_progress,
                )
            finally:
                reporter.clear_progress()
        write_results(plan, map(read_outcome, plan.jobs))
        ended = {outcome.job.folder: outcome for outcome in outcomes}
        return [
            # Two jobs with the same configuration have overrides of their own.
            (returns.get(job.folder) if by_folder[job.folder] is each else None)
            or job_return(each, ended[job.folder], plan.objective)
            for job, each in zip(jobs, composed, strict=True)
        ]


def job_return(composition: Composition, outcome: Outcome, objective: str, with_config: bool = False) -> JobReturn:
    """Returns a job's result for Hydra and its sweepers: its value is the objective, or a `JobFailed`.

    with_config: whether it contains copies of the configuration, for Hydra's callbacks. They take a quarter of a
    second; sweepers do not use them, and a long sweep would keep them all in memory.
    """
    config = composition.hydra_config
    keys = [str(key) for key in config if key != "hydra"]
    value: Any = outcome.metrics.get(objective)
    succeeded = outcome.status in (Status.DONE, Status.PRUNED)
    failure = JobFailed(f"{outcome.job.folder}: {outcome.status}: {outcome.error or ''}")
    return JobReturn(
        overrides=list(composition.overrides),
        cfg=OmegaConf.masked_copy(config, keys) if with_config else None,
        hydra_cfg=OmegaConf.masked_copy(config, "hydra") if with_config else None,
        working_dir=str(Path.cwd()),
        task_name=config.hydra.job.name,
        status=JobStatus.COMPLETED if succeeded else JobStatus.FAILED,
        _return_value=value if succeeded else failure,
    )


def grid_jobs(params: Sequence[str], arguments: Sequence[str], loader: Any) -> list[list[str]]:
    """Returns the overrides of each job of a grid: the product of all lists; `arguments` replace `params` of a file.

    Raises UserError for an interval, whose values a grid cannot list, and for a sweep without values.
    """
    from alexnet_exp.config.composer import parse_override
    from alexnet_exp.config.overrides import quote_text, sweep_overrides
    from alexnet_exp.errors import NO_VALUE, Problem, Refused

    choices: dict[str, list[str]] = {}
    problems = []
    for text in [*map(quote_text, params), *arguments]:
        parsed = parse_override(text, loader)
        key = parsed.get_key_element()
        if not parsed.is_sweep_override():
            choices[key] = [parsed.input_line or ""]
        elif parsed.is_discrete_sweep():
            choices[key] = sweep_overrides(parsed)
        else:
            instead = "an interval is for a search; write a list, 0.1,0.01, or range(1,10,3)"
            problems.append(Problem(parsed.input_line or key, NO_VALUE, instead))
    if problems:
        raise Refused(problems)
    return [list(job) for job in itertools.product(*choices.values())]
