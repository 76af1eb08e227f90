"""Composes a command line with Hydra once, and has Hydra run what was composed.

`hydra.main` composes a command line twice, and an experiment must be validated before Hydra makes its folder. So the
steps of `hydra.main` are taken here one by one, from the functions that Hydra's launchers are made of.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from alexnet_exp.config.compose import (
    ROOT_CONFIG,
    VERSION_BASE,
    diagnose_jobs,
    each_job,
    refuse_misleading,
    register,
)
from alexnet_exp.config.composer import quote_value, to_plain
from alexnet_exp.config.composition import Composition, validate_new_run
from alexnet_exp.config.diagnose import describe_error
from alexnet_exp.errors import NO_VALUE, Problem, Refused, UserError
from alexnet_exp.paths import conf_dir

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.types import RunMode

T = TypeVar("T")


@dataclass(frozen=True)
class HydraSession:
    """A command line that Hydra has composed.

    config: the configuration with Hydra's own node `hydra`; what a sweep varies is not in it. loader: composes the jobs
    of a sweep.
    """

    overrides: Sequence[str]
    config_dir: str | None
    loader: ConfigLoader
    config: DictConfig
    is_sweep: bool

    def composition(self) -> Composition:
        """Validates the configuration of a single run; raises UserError with every problem."""
        from omegaconf.errors import OmegaConfBaseException

        keys = [str(key) for key in self.config if key != "hydra"]
        alone = OmegaConf.masked_copy(self.config, keys)
        try:
            container = to_plain(alone)
        except (OmegaConfBaseException, ValueError) as error:
            raise _diagnosed([self.overrides], self.config_dir, error) from error
        OmegaConf.copy_cache(alone, self.config)  # the folder's name has the same `${now:}`
        composition = validate_new_run(container)
        refuse_misleading(self.overrides, self.config_dir)
        return composition

    def run(self, task: Callable[[DictConfig], T]) -> T:
        """Makes the run's folder `hydra.run.dir` and calls `task` with the configuration; returns what that returns.

        Raises what `task` raises, and UserError if the folder cannot be made.
        """
        from hydra._internal.callbacks import Callbacks
        from hydra.core.utils import run_job
        from hydra.types import HydraContext, RunMode

        raised: list[Exception] = []

        def keep_error(config: DictConfig) -> T | None:  # Hydra would print a message of its own
            try:
                return task(config)
            except Exception as error:
                raised.append(error)
                return None

        with _errors_in_one_line():
            self._set_mode(RunMode.RUN)
            callbacks = Callbacks(self.config)
            callbacks.on_run_start(config=self.config, config_name=ROOT_CONFIG)
            returned = run_job(
                task_function=keep_error,
                config=self.config,
                job_dir_key="hydra.run.dir",
                job_subdir_key=None,
                hydra_context=HydraContext(config_loader=self.loader, callbacks=callbacks),
            )
            callbacks.on_run_end(config=self.config, config_name=ROOT_CONFIG, job_return=returned)
        if raised:
            raise raised[0]
        result: T = returned.return_value
        return result

    def sweep(self, folder: Path, task: Callable[[DictConfig], Any]) -> None:
        """Makes Hydra's sweeper and launcher run the jobs into `folder`; both receive `task` in their `setup`."""
        from hydra._internal.callbacks import Callbacks
        from hydra.core.plugins import Plugins
        from hydra.types import HydraContext, RunMode

        self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quote_value(str(folder))}")  # of each job too
        self.config.hydra.sweep.dir = str(folder)
        with _errors_in_one_line():
            self._set_mode(RunMode.MULTIRUN)
            callbacks = Callbacks(self.config)
            callbacks.on_multirun_start(config=self.config, config_name=ROOT_CONFIG)
            sweeper = Plugins.instance().instantiate_sweeper(
                config=self.config,
                hydra_context=HydraContext(config_loader=self.loader, callbacks=callbacks),
                task_function=task,
            )
            task_overrides: Any = OmegaConf.to_container(self.config.hydra.overrides.task, resolve=False)
            sweeper.sweep(arguments=task_overrides)
            callbacks.on_multirun_end(config=self.config, config_name=ROOT_CONFIG)

    def _set_mode(self, mode: RunMode) -> None:
        """Records the mode as `hydra.main` does."""
        node = self.config.hydra
        if node.mode == mode:
            return
        if node.mode is not None:
            warnings.warn("Running Hydra app with --multirun, overriding with `hydra.mode=MULTIRUN`.", stacklevel=2)
        node.mode = mode
        node.overrides.hydra.append(f"hydra.mode={mode.name}")


@contextmanager
def hydra_session(
    overrides: Sequence[str], config_dir: str | None, sweep: bool = False, log: bool = False
) -> Iterator[HydraSession]:
    """Composes a command line once; Hydra is initialised within the block.

    sweep: whether the command line says that it is one (`-m`); a file may say so too (`hydra.mode: MULTIRUN`). log:
    whether Hydra's own logging is set up as configured. Raises `Refused` if the command line cannot be composed.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    errors = (HydraException, OmegaConfBaseException, ValueError)
    given = list(overrides)
    register()
    with initialize_config_dir(version_base=VERSION_BASE, config_dir=str(conf_dir())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        if config_dir is not None:
            hydra.config_loader = _with_config_dir(hydra.config_loader, config_dir)
        mode = RunMode.MULTIRUN if sweep else RunMode.RUN
        config: DictConfig | None = None
        try:
            config = hydra.compose_config(ROOT_CONFIG, given, mode, with_log_configuration=log)
        except errors as error:
            if not sweep:  # several values are a sweep if a file says so
                with suppress(*errors):
                    config = hydra.compose_config(ROOT_CONFIG, given, RunMode.MULTIRUN, with_log_configuration=log)
            if config is None or (not sweep and config.hydra.mode != RunMode.MULTIRUN):
                jobs = each_job(overrides, config_dir) if sweep else [overrides]
                raise _diagnosed(jobs, config_dir, error) from error
        sweep = sweep or config.hydra.mode == RunMode.MULTIRUN
        yield HydraSession(overrides, config_dir, hydra.config_loader, config, sweep)


def _with_config_dir(loader: ConfigLoader, config_dir: str) -> ConfigLoader:
    """Returns a loader that also finds the user's files, like Hydra's flag `--config-dir`."""
    from hydra.core.config_search_path import SearchPathQuery

    path = loader.get_search_path()
    place = f"file://{Path(config_dir).absolute()}"
    path.prepend(provider="command-line", path=place, anchor=SearchPathQuery(provider="schema"))
    return type(loader)(path)  # type: ignore[call-arg]


def _diagnosed(jobs: Iterable[Sequence[str]], config_dir: str | None, error: Exception) -> UserError:
    """Returns the UserError for a command line that cannot be composed, with the problems of each override."""
    try:
        diagnose_jobs(jobs, config_dir)
    except UserError as diagnosis:
        return diagnosis
    return Refused([Problem("configuration", NO_VALUE, describe_error(error))])


def print_with_hydra(arguments: list[str]) -> None:
    """Makes Hydra print the output of its own flags: `--cfg`, `--info`, `--hydra-help`, `--shell-completion`."""
    import hydra

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # an exception in place of Hydra's own message and exit
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        with _errors_in_one_line():
            hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name=ROOT_CONFIG)(_do_nothing)()
    finally:
        sys.argv = before


def _do_nothing(config: DictConfig) -> None:
    pass


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Converts Hydra's errors inside the block to UserErrors of one line."""
    from hydra.errors import HydraException

    try:
        yield
    except UserError:
        raise
    except HydraException as error:
        raise UserError(str(error).splitlines()[0]) from error
    except OSError as error:  # from the folder that Hydra makes; a task's error does not come here
        what = f"{error.filename}: " if error.filename else ""
        raise UserError(f"hydra.run.dir: {what}{error.strerror}; name a folder that can be written") from None
    except ValueError as error:  # from flags that exclude each other
        raise UserError(f"{str(error).splitlines()[0]}; python -m alexnet_exp --help lists its arguments") from error
