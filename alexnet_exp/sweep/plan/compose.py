"""Composes and validates the jobs of a sweep, all before the first starts, and writes their folders.

A job is composed once, by Hydra's own loader (`Composer`), so that its configuration is the one that Hydra would run.
All problems of all jobs are reported together, and then nothing is left on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_exp.atomic import atomic_write
from alexnet_exp.config.compose import JobProblems
from alexnet_exp.config.composer import Composer, to_plain, unquote_value
from alexnet_exp.config.composition import Composition, validate_new_run
from alexnet_exp.config.hydra_files import hydra_files
from alexnet_exp.config.schema import Config
from alexnet_exp.config.validate import is_same_experiment
from alexnet_exp.errors import UserError
from alexnet_exp.paths import group_names
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.plan import env
from alexnet_exp.sweep.plan.naming import differing, hash_of, job_hash, job_name, settings_of

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig


class JobComposer:
    """Composes the jobs of a sweep. master: the configuration that Hydra composed for it as a whole."""

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self.master, self.config_dir = master, config_dir(master)
        self._config = Composer(
            lambda overrides: loader.load_sweep_config(master, list(overrides)), group_names(self.config_dir)
        )

    def __call__(self, overrides: Sequence[str], number: int) -> Composition:
        """Returns the validated configuration of job `number`, from 0; raises UserError, and what Hydra raises."""
        from omegaconf import OmegaConf, open_dict

        config = self._config(overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.runtime.output_dir = str(Path(self.master.hydra.sweep.dir).absolute())
        with _current(config):
            container = to_plain(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
        env.check(config.hydra.job.env_set)
        # A sweep resumes its jobs anyway, and the hash of a job is that of its experiment.
        composition = validate_new_run(container | ({"resume": False} if "resume" in container else {}))
        return replace(composition, _hydra_config=config, overrides=tuple(overrides))


def compose_jobs(
    composer: JobComposer,
    batch: Iterable[Sequence[str]],
    check: Callable[[Sequence[Config]], None] | None = None,
) -> list[Composition]:
    """Returns the validated configurations of a batch. Raises UserError with every problem of any job, a line each.

    check: checks the devices of the jobs; default: against those of this machine.
    """
    problems = JobProblems(composer.config_dir)
    found: list[Composition] = []
    for number, overrides in enumerate(batch):
        with problems.gathered(overrides):
            found.append(composer(overrides, number))
    if check is None:
        from alexnet_exp.training.devices import check_devices  # imports torch

        check = check_devices
    try:
        check([each.config for each in found])
    except UserError as error:
        problems.note(error)
    problems.done()
    return found


def lay_out(
    plan: SweepPlan, composed: Sequence[Composition], varying: Sequence[str] | None = None, number: int | None = None
) -> list[Job]:
    """Adds the jobs to the plan and writes `.hydra/` to their folders; returns them. Equal configurations are one job.

    A job that the plan already has, by the hash of its configuration, keeps its folder and its number; so does one
    that an earlier version planned without settings which are new and have their defaults. varying: the keys in which
    jobs differ; default: derived from the jobs. number: of a single new job; default: the next one.
    """
    known = {hash_of(job.folder.name): job for job in plan.jobs}
    settings = [settings_of(job.overrides) for job in plan.jobs] + [settings_of(each.overrides) for each in composed]
    if varying is None:
        keys = differing([dict(pairs) for pairs in dict.fromkeys(tuple(each.items()) for each in settings)])
    else:
        keys = [key.lstrip("+~") for key in varying]

    def varies(overrides: Sequence[str]) -> dict[str, str]:
        of_this = settings_of(overrides)
        return {key: unquote_value(of_this[key]) for key in keys if key in of_this}

    jobs = {name: replace(job, varies=varies(job.overrides)) for name, job in known.items()}
    planned = {frozenset(job.overrides): job for job in plan.jobs}
    names = []
    for each in composed:
        name = job_hash(each.container)
        if name not in jobs:
            earlier = planned.get(frozenset(each.overrides))
            if earlier is not None and _is_same(earlier, each.config):
                name = hash_of(earlier.folder.name)
        names.append(name)
        if name not in jobs:
            folder = plan.folder / job_name(varies(each.overrides), each.container)
            jobs[name] = Job(number or len(jobs) + 1, folder, each.overrides, varies(each.overrides))
        _write(jobs[name], each)
    plan.jobs = list(jobs.values())
    plan.write()
    return [jobs[name] for name in names]


def _is_same(job: Job, config: Config) -> bool:
    """Whether the configuration of a planned job is `config`, with new settings at their defaults."""
    try:
        return is_same_experiment(job.container(), config)
    except UserError:  # its configuration is missing or damaged
        return False


def config_dir(master: DictConfig) -> str | None:
    """Returns the folder of `--config-dir`; Hydra records a folder of the command line under one of two providers."""
    providers = ("command-line", "hydra.searchpath in command-line")
    return next((source.path for source in master.hydra.runtime.config_sources if source.provider in providers), None)


@contextmanager
def _current(config: DictConfig) -> Iterator[None]:
    """Within it, `${hydra:...}` resolves for this job, whose own process has no Hydra."""
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _write(job: Job, composition: Composition) -> None:
    """Writes the folder `.hydra/` of a job."""
    from omegaconf import OmegaConf, read_write

    folder = job.folder / ".hydra"
    config = composition.hydra_config
    with read_write(config), read_write(config.hydra):
        config.hydra.runtime.output_dir = str(job.folder.absolute())
        config.hydra.job.num = job.number - 1
        config.hydra.job.id = str(job.number - 1)
    if config.hydra.job.env_set:  # variables for the job's process
        with _current(config), read_write(config.hydra):
            OmegaConf.resolve(config.hydra.job.env_set)
    if (folder / "config.yaml").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    texts = hydra_files(config.hydra, composition.overrides, composition.container)
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
