"""Hydra's launcher, as we want one: all jobs composed and checked, laid out as folders, then run by `run_jobs`.

Where they run is a pool's affair, which a subclass makes: `hydra_plugins/alexnet_exp/` has those that Hydra finds.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from alexnet_exp.runs.status import Status
from alexnet_exp.runs.sweep_plan import Job, SweepPlan

if TYPE_CHECKING:
    from alexnet_exp.config.schema import Config
    from alexnet_exp.sweep.execute.pool import JobPool
    from alexnet_exp.sweep.execute.scheduler import Outcome
    from alexnet_exp.sweep.plan.compose import Composed

SEARCH = "search"  # the kind of a plan


class JobFailed(Exception):  # noqa: N818 (it says what happened)
    """What Hydra is told of a job that did not end well; says why. Its folder has the traceback."""


@dataclass(frozen=True)
class _Command:
    """What Hydra does not pass on: to its plugins what was typed, and back what came of the jobs that were run."""

    typed: Sequence[str]
    ran: dict[Path, Outcome] = field(default_factory=dict)


_command: ContextVar[_Command | None] = ContextVar("command", default=None)


@contextmanager
def typed_as(arguments: Sequence[str]) -> Iterator[dict[Path, Outcome]]:
    """Inside, plans note `arguments` as the command to type again. The jobs that are run come in by their folders."""
    command = _Command(arguments)
    token = _command.set(command)
    try:
        yield command.ran
    finally:
        _command.reset(token)


def note_ran(outcome: Outcome) -> None:
    """Hands the outcome of a job to the command, which else would know only what the job's folder says."""
    command = _command.get()
    if command is not None:
        command.ran[outcome.job.folder] = outcome


def plan_of(master: DictConfig, kind: str = "grid") -> SweepPlan:
    """The plan in the sweep's folder, or a new one that is not written yet; `master` is Hydra's configuration of it."""
    folder = Path(master.hydra.sweep.dir)
    overrides = master.hydra.overrides
    given = _command.get()
    command = list(["-m", *overrides.task, *overrides.hydra] if given is None else given.typed)
    if not SweepPlan.is_in(folder):
        return SweepPlan(folder, command, str(Path.cwd()), str(master.objective), kind)
    plan = SweepPlan.read(folder)
    plan.objective = str(master.objective)
    if plan.kind == kind == SEARCH:  # it may ask for more trials than before
        plan.command, plan.cwd = command, str(Path.cwd())
    return plan


class JobsLauncher(Launcher):
    """Runs a batch of jobs in the pool that `make_pool` makes. `checks`: that nothing need be composed before."""

    checks = True

    @property
    def waits(self) -> bool:
        """Whether `launch` returns only when all jobs have ended, also those that others run."""
        return True

    @property
    def only_plans(self) -> bool:
        """Whether `launch` starts no job, and leaves all to `sweep work`."""
        return False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def check_devices(self, configs: Sequence[Config]) -> None:
        """Raises UserError for devices that are not where the jobs will run."""
        from alexnet_exp.training.devices import check_devices

        check_devices(configs)

    @abstractmethod
    def make_pool(self) -> JobPool:
        """Where the jobs run. Raises UserError for settings that cannot be used."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """How each job ended. Raises UserError, with nothing left on disk, where any of them cannot be used."""
        from alexnet_exp.sweep.execute.job_lock import JobLocks
        from alexnet_exp.sweep.execute.scheduler import read_outcome, run_jobs
        from alexnet_exp.sweep.plan.compose import JobComposer, compose_jobs, lay_out
        from alexnet_exp.sweep.report import SweepReporter, opening_lines
        from alexnet_exp.sweep.results import add_result, write_results

        composer = JobComposer(self.context.config_loader, self.config)
        composed = compose_jobs(composer, job_overrides, self.check_devices)
        pool = None if self.only_plans else self.make_pool()
        with JobLocks(Path(self.config.hydra.sweep.dir)).exclusive():  # another grid may come into the same folder now
            plan = plan_of(self.config)
            jobs = lay_out(plan, composed)
        distinct = list({job.folder: job for job in jobs}.values())
        by_folder = {job.folder: each for job, each in zip(jobs, composed, strict=True)}
        reporter = SweepReporter(plan)
        returns: dict[Path, JobReturn] = {}
        listened = bool(self.context.callbacks.callbacks)
        write_results(plan, map(read_outcome, plan.jobs))
        for line in opening_lines(distinct, len(jobs)):
            reporter.print_line(line)

        def on_start(job: Job) -> None:
            self.context.callbacks.on_job_start(config=by_folder[job.folder].config, task_function=self.task_function)

        def on_end(outcome: Outcome) -> None:
            note_ran(outcome)
            add_result(plan, outcome)
            reporter.print_job(outcome)
            each = by_folder[outcome.job.folder]
            if listened:
                returned = job_return(each, outcome, plan.objective, whole=True)
                self.context.callbacks.on_job_end(config=each.config, job_return=returned)
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
            # of two jobs with one configuration, each has its own overrides
            (returns.get(job.folder) if by_folder[job.folder] is each else None)
            or job_return(each, ended[job.folder], plan.objective)
            for job, each in zip(jobs, composed, strict=True)
        ]


def job_return(composed: Composed, outcome: Outcome, objective: str, whole: bool = False) -> JobReturn:
    """What Hydra and its sweepers want to know of a job: its value is the objective, or a `JobFailed`.

    whole: with copies of the configuration, which take a quarter of a second, for a callback of Hydra's. A sweeper has
    no use for them, and a long sweep would keep them all.
    """
    keys = [str(key) for key in composed.config if key != "hydra"]
    value: Any = outcome.metrics.get(objective)
    well = outcome.status in (Status.DONE, Status.PRUNED)
    return JobReturn(
        overrides=list(composed.overrides),
        cfg=OmegaConf.masked_copy(composed.config, keys) if whole else None,
        hydra_cfg=OmegaConf.masked_copy(composed.config, "hydra") if whole else None,
        working_dir=str(Path.cwd()),
        task_name=composed.config.hydra.job.name,
        status=JobStatus.COMPLETED if well else JobStatus.FAILED,
        _return_value=value if well else JobFailed(f"{outcome.job.folder}: {outcome.status}: {outcome.error or ''}"),
    )


def grid(params: Sequence[str], arguments: Sequence[str], loader: Any) -> list[list[str]]:
    """The jobs of a grid: the product of all that lists several values; what is typed replaces a file's `params`.

    Raises UserError for an interval, which a grid cannot list, and for a sweep over no values.
    """
    from alexnet_exp.config.composer import parsed_override
    from alexnet_exp.config.overrides import exact, swept
    from alexnet_exp.errors import NO_VALUE, Problem, Refused

    choices: dict[str, list[str]] = {}
    problems = []
    for text in [*map(exact, params), *arguments]:
        parsed = parsed_override(text, loader)
        key = parsed.get_key_element()
        if not parsed.is_sweep_override():
            choices[key] = [parsed.input_line or ""]
        elif parsed.is_discrete_sweep():
            choices[key] = swept(parsed)
        else:
            instead = "an interval is for a search; a grid takes a list: 0.1,0.01, or range(1,10,3)"
            problems.append(Problem(parsed.input_line or key, NO_VALUE, instead))
    if problems:
        raise Refused(problems)
    return [list(job) for job in itertools.product(*choices.values())]
