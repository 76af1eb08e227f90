"""Provides the Optuna study of a search: the next trial, the results of trials, and unfinished trials.

Optuna is an optional dependency and takes half a second to import: this module is imported when a search starts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import URL

from alexnet_exp.errors import UserError
from alexnet_exp.runs.metric import higher_is_better
from alexnet_exp.sweep.search.settings import DEFAULT_TRIALS, GRID_SAMPLER, SearchSettings
from alexnet_exp.sweep.search.space import Choice, Dimension, IntegerRange, SearchValue, Space

STUDY_FILE = "study.db"
SQLITE_TIMEOUT_SECONDS = 60  # for another program, such as a dashboard, to release the file

# The names of a trial's user attributes in the study.
RUN_ATTRIBUTE, ERROR_ATTRIBUTE, DUPLICATE_ATTRIBUTE, VOID_ATTRIBUTE = "run", "error", "same as trial", "void"

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class UnfinishedTrial:
    """A trial that an earlier search started and did not finish. run: the name of its job's folder, if it has one."""

    number: int
    values: dict[str, SearchValue]
    run: str | None


@dataclass(frozen=True)
class BestTrial:
    """The best of the complete trials."""

    number: int
    value: float
    values: dict[str, SearchValue]
    run: str


class Study:
    """Asks Optuna for trials and reports their results to it. Used by one thread of one process at a time.

    Raises UserError if the storage cannot be used, or if its study belongs to another search.
    """

    def __init__(
        self, settings: SearchSettings, space: Space, folder: Path, objective: str, max_epochs: int | None = None
    ):
        self.settings, self.space = settings, space
        self._combinations = list(space.combinations()) if settings.sampler == GRID_SAMPLER else []
        self.maximize = (settings.direction or _direction(objective)) == "maximize"
        self._distributions = {key: self._distribution(dimension) for key, dimension in space.dimensions.items()}
        name = settings.study_name or folder.resolve().name
        self.study = self._open(settings.storage or _sqlite_url(folder / STUDY_FILE), name, max_epochs)
        self._trials: dict[int, Trial] = {}
        self._check_space()

    @property
    def wanted(self) -> int:
        """The number of trials in all."""
        if self.settings.sampler == GRID_SAMPLER:
            return min(len(self._combinations), self.settings.n_trials or len(self._combinations))
        return self.settings.n_trials or DEFAULT_TRIALS

    def count_started(self) -> int:
        """Returns the number of trials that were started, whatever their status."""
        waiting = TrialState.WAITING
        return sum(trial.state != waiting and VOID_ATTRIBUTE not in trial.user_attrs for trial in self._all())

    def count_finished(self) -> int:
        """Returns the number of trials that have ended, whatever their status."""
        return sum(trial.state.is_finished() and VOID_ATTRIBUTE not in trial.user_attrs for trial in self._all())

    def ask(self) -> tuple[int, dict[str, SearchValue]]:
        """Starts a trial; returns its number and values.

        The proposal depends on the seed and on the trials before and their results, not on the process that asks: a
        search that was stopped and resumed proposes the same values as one that was not.
        """
        if self.settings.sampler == GRID_SAMPLER:
            self._enqueue_next()
        self.study.sampler = self._sampler(len(self._all()))
        trial = self.study.ask(self._distributions)
        self._trials[trial.number] = trial
        return trial.number, self._values(trial.params)

    def unfinished_trials(self) -> list[UnfinishedTrial]:
        """Returns the trials that an earlier search left running.

        A trial that was stopped before all its values were chosen is closed, and does not count.
        """
        unfinished = []
        for frozen in self._all():
            if frozen.state != TrialState.RUNNING:
                continue
            trial = self._trials[frozen.number] = Trial(self.study, frozen._trial_id)
            if set(frozen.params) < set(self.space.dimensions):
                trial.set_user_attr(VOID_ATTRIBUTE, True)
                self.fail(frozen.number, "stopped before its values were chosen")
            else:
                run = frozen.user_attrs.get(RUN_ATTRIBUTE)
                unfinished.append(UnfinishedTrial(frozen.number, self._values(frozen.params), run))
        return unfinished

    def set_attributes(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Writes user attributes of an unfinished trial, for readers of the study: `run`, `seconds`, metrics."""
        for key, value in attributes.items():
            self._trials[number].set_user_attr(key, value)

    def report_epoch(self, number: int, epoch: int, value: float) -> bool:
        """Reports the value of an epoch of an unfinished trial, once; returns whether the trial should be pruned.

        A trial that was stopped and runs again is not pruned in the epochs whose values the study already has.
        """
        trial = self._trials[number]
        known = self._frozen(number).intermediate_values
        if epoch not in known:
            trial.report(value, epoch)
        return epoch >= max(known, default=epoch) and trial.should_prune()

    def complete(self, number: int, value: float) -> None:
        """Closes a trial with its value."""
        self.study.tell(number, value)

    def prune(self, number: int) -> None:
        """Closes a trial as pruned; its value is the last that was reported."""
        self.study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, error: str) -> None:
        """Closes a trial as failed; it has no value."""
        self._trials[number].set_user_attr(ERROR_ATTRIBUTE, error)
        self.study.tell(number, state=TrialState.FAIL)

    def close_duplicate(self, number: int, run: str) -> int | None:
        """Closes a trial with the result of a finished trial of the same run; returns that one's number, or None."""
        for other in self._all():
            if other.number != number and other.state.is_finished() and other.user_attrs.get(RUN_ATTRIBUTE) == run:
                self._trials[number].set_user_attr(DUPLICATE_ATTRIBUTE, other.number)
                if other.state == TrialState.COMPLETE and other.value is not None:
                    self.complete(number, other.value)
                elif other.state == TrialState.PRUNED:
                    for epoch, value in other.intermediate_values.items():
                        self._trials[number].report(value, epoch)
                    self.prune(number)
                else:
                    self.fail(number, other.user_attrs.get(ERROR_ATTRIBUTE, ""))
                return int(other.number)
        return None

    def best(self) -> BestTrial | None:
        """Returns the best complete trial, the first of equal ones; None if no trial is complete."""
        complete = [
            BestTrial(trial.number, trial.value, self._values(trial.params), trial.user_attrs.get(RUN_ATTRIBUTE, ""))
            for trial in self._all()
            if trial.state == TrialState.COMPLETE and trial.value is not None
        ]
        return (max if self.maximize else min)(complete, key=lambda trial: trial.value) if complete else None

    def count_states(self) -> dict[str, int]:
        """Returns the number of trials in each state of Optuna, in lower case: complete, pruned, fail, running."""
        count: dict[str, int] = {}
        for trial in self._all():
            if VOID_ATTRIBUTE not in trial.user_attrs:
                count[trial.state.name.lower()] = count.get(trial.state.name.lower(), 0) + 1
        return count

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _frozen(self, number: int) -> FrozenTrial:
        return next(trial for trial in self._all() if trial.number == number)

    def _values(self, params: Mapping[str, Any]) -> dict[str, SearchValue]:
        return {key: params[key] for key in self.space.dimensions}

    def _texts(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(dimension.text(params[key]) for key, dimension in self.space.dimensions.items() if key in params)

    def _open(self, url: str, name: str, max_epochs: int | None) -> optuna.Study:
        direction = "maximize" if self.maximize else "minimize"
        try:
            arguments = {"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}} if url.startswith("sqlite") else None
            storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize" if self.maximize else "minimize",
                pruner=self._pruner(max_epochs),
                load_if_exists=True,
            )
        except Exception as error:  # SQLAlchemy, its drivers and Optuna raise exceptions of their own
            # Not the URL, which may contain a password.
            source = STUDY_FILE if self.settings.storage is None else "hydra.sweeper.storage"
            raise UserError(f"{source}: cannot be opened as a study ({_first_line(error)})") from error
        if study.direction.name.lower() != direction:
            raise UserError(
                f"hydra.sweeper.study_name={name}: the study with this name is set to {study.direction.name.lower()}, "
                f"this search to {direction}; write another name"
            )
        return study

    def _check_space(self) -> None:
        """Raises UserError if the study has other dimensions.

        A shared storage may have another search of this name, or the file of the experiment was changed.
        """
        remedy = "write another hydra.sweeper.study_name" if self.settings.storage else "write another hydra.sweep.dir"
        check_compatible = optuna.distributions.check_distribution_compatibility
        for trial in self._all():
            for key, distribution in self._distributions.items():
                if key in trial.distributions:
                    try:
                        check_compatible(trial.distributions[key], distribution)
                    except ValueError:
                        message = f"{key}: the study {self.study.study_name} searches other values of it; {remedy}"
                        raise UserError(message) from None

    def _enqueue_next(self) -> None:
        """Enqueues the first combination without a trial, unless an earlier search has enqueued one."""
        if any(trial.state == TrialState.WAITING for trial in self._all()):
            return
        tried = {self._texts(trial.params) for trial in self._all() if VOID_ATTRIBUTE not in trial.user_attrs}
        for values in self._combinations:
            if self._texts(values) not in tried:
                self.study.enqueue_trial(values)
                return

    def _distribution(self, dimension: Dimension) -> BaseDistribution:
        if isinstance(dimension, Choice):
            return CategoricalDistribution(dimension.texts)
        if isinstance(dimension, IntegerRange):
            return IntDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)

    def _sampler(self, before: int) -> optuna.samplers.BaseSampler:
        samplers = optuna.samplers
        seed = None if self.settings.seed is None else (self.settings.seed * 1_000_003 + before) % 2**32
        if self.settings.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.RandomSampler(seed=seed)  # not used for a grid, whose values are all enqueued

    def _pruner(self, max_epochs: int | None) -> optuna.pruners.BasePruner:
        pruners, settings = optuna.pruners, self.settings
        if settings.pruner == "median":
            return pruners.MedianPruner(settings.startup_trials, settings.warmup_epochs)
        if settings.pruner == "hyperband":
            longest = max(max_epochs, settings.warmup_epochs) if max_epochs else "auto"
            return pruners.HyperbandPruner(settings.warmup_epochs, longest)
        return pruners.NopPruner()


def _sqlite_url(path: Path) -> str:
    """Returns the URL of an SQLite file; its path may contain any character."""
    return URL.create("sqlite", database=str(path.resolve())).render_as_string()


def _direction(objective: str) -> str:
    return "maximize" if higher_is_better(objective) else "minimize"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
