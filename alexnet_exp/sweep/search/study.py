"""An Optuna study as a search sees it: what to try next, what came of it, what an earlier search left open.

Optuna takes half a second to import, and is an extra: this module is imported when a search begins, not before.
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
from alexnet_exp.sweep.search.settings import GRID, TRIALS, Settings
from alexnet_exp.sweep.search.space import Choice, Dimension, Space, Value, Whole

FILE = "study.db"
PATIENCE = 60  # seconds that SQLite waits for another program, such as a dashboard, to let go of the file

# What a trial's user attributes are called.
RUN, ERROR, SAME_AS, VOID = "run", "error", "same as trial", "void"

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class Left:
    """A trial that an earlier search began and did not see the end of. run: its job's folder, where it had one."""

    number: int
    values: dict[str, Value]
    run: str | None


@dataclass(frozen=True)
class Best:
    """The best of the complete trials."""

    number: int
    value: float
    values: dict[str, Value]
    run: str


class Study:
    """Asks Optuna for trials and tells it what came of them. Used by one thread of one process at a time.

    Raises UserError where the storage cannot be used, or the study in it is another search's.
    """

    def __init__(self, settings: Settings, space: Space, folder: Path, objective: str, max_epochs: int | None = None):
        self.settings, self.space = settings, space
        self._combinations = list(space.combinations()) if settings.sampler == GRID else []
        self.maximize = (settings.direction or _direction(objective)) == "maximize"
        self._distributions = {key: self._distribution(dimension) for key, dimension in space.dimensions.items()}
        name = settings.study_name or folder.resolve().name
        self.study = self._open(settings.storage or _file(folder / FILE), name, max_epochs)
        self._trials: dict[int, Trial] = {}
        self._refuse_other_space()

    @property
    def wanted(self) -> int:
        """How many trials there are to be in all."""
        if self.settings.sampler == GRID:
            return min(len(self._combinations), self.settings.n_trials or len(self._combinations))
        return self.settings.n_trials or TRIALS

    def counted(self) -> int:
        """The trials begun so far, however they ended."""
        waiting = TrialState.WAITING
        return sum(trial.state != waiting and VOID not in trial.user_attrs for trial in self._all())

    def finished(self) -> int:
        """The trials that have ended, however they did."""
        return sum(trial.state.is_finished() and VOID not in trial.user_attrs for trial in self._all())

    def ask(self) -> tuple[int, dict[str, Value]]:
        """Begins a trial: its number and values.

        The sampler is a function of (seed, trials before, what came of them), never of which process asks: a search
        that was cut off and goes on proposes what it would have proposed.
        """
        if self.settings.sampler == GRID:
            self._enqueue_next()
        self.study.sampler = self._sampler(len(self._all()))
        trial = self.study.ask(self._distributions)
        self._trials[trial.number] = trial
        return trial.number, self._values(trial.params)

    def left_open(self) -> list[Left]:
        """The trials that an earlier search left running, to be gone on with.

        One that was cut off before all its values were chosen is closed, and does not count.
        """
        left = []
        for frozen in self._all():
            if frozen.state != TrialState.RUNNING:
                continue
            trial = self._trials[frozen.number] = Trial(self.study, frozen._trial_id)
            if set(frozen.params) < set(self.space.dimensions):
                trial.set_user_attr(VOID, True)
                self.failed(frozen.number, "cut off before its values were chosen")
            else:
                left.append(Left(frozen.number, self._values(frozen.params), frozen.user_attrs.get(RUN)))
        return left

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        """Notes facts of an open trial for whoever looks at the study: `run`, `seconds`, metrics."""
        for key, value in facts.items():
            self._trials[number].set_user_attr(key, value)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Tells an epoch's value of an open trial, once; returns whether the trial is hopeless.

        One that was cut off and runs again is judged from where it had got to: its values are known up to there.
        """
        trial = self._trials[number]
        known = self._frozen(number).intermediate_values
        if epoch not in known:
            trial.report(value, epoch)
        return epoch >= max(known, default=epoch) and trial.should_prune()

    def complete(self, number: int, value: float) -> None:
        """Closes a trial with its value."""
        self.study.tell(number, value)

    def pruned(self, number: int) -> None:
        """Closes a trial that was ended early; its value is the last that was reported."""
        self.study.tell(number, state=TrialState.PRUNED)

    def failed(self, number: int, error: str) -> None:
        """Closes a trial that has no value."""
        self._trials[number].set_user_attr(ERROR, error)
        self.study.tell(number, state=TrialState.FAIL)

    def close_as_twin(self, number: int, run: str) -> int | None:
        """Closes a trial as another of the same run ended; that one's number, or None where there is none."""
        for other in self._all():
            if other.number != number and other.state.is_finished() and other.user_attrs.get(RUN) == run:
                self._trials[number].set_user_attr(SAME_AS, other.number)
                if other.state == TrialState.COMPLETE and other.value is not None:
                    self.complete(number, other.value)
                elif other.state == TrialState.PRUNED:
                    for epoch, value in other.intermediate_values.items():
                        self._trials[number].report(value, epoch)
                    self.pruned(number)
                else:
                    self.failed(number, other.user_attrs.get(ERROR, ""))
                return int(other.number)
        return None

    def best(self) -> Best | None:
        """The best complete trial, of equals the first; None before there is one."""
        complete = [
            Best(trial.number, trial.value, self._values(trial.params), trial.user_attrs.get(RUN, ""))
            for trial in self._all()
            if trial.state == TrialState.COMPLETE and trial.value is not None
        ]
        return (max if self.maximize else min)(complete, key=lambda trial: trial.value) if complete else None

    def states(self) -> dict[str, int]:
        """How many trials ended how: complete, pruned, fail; running are those left open."""
        count: dict[str, int] = {}
        for trial in self._all():
            if VOID not in trial.user_attrs:
                count[trial.state.name.lower()] = count.get(trial.state.name.lower(), 0) + 1
        return count

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _frozen(self, number: int) -> FrozenTrial:
        return next(trial for trial in self._all() if trial.number == number)

    def _values(self, params: Mapping[str, Any]) -> dict[str, Value]:
        return {key: params[key] for key in self.space.dimensions}

    def _texts(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(dimension.text(params[key]) for key, dimension in self.space.dimensions.items() if key in params)

    def _open(self, url: str, name: str, max_epochs: int | None) -> optuna.Study:
        direction = "maximize" if self.maximize else "minimize"
        try:
            arguments = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else None
            storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize" if self.maximize else "minimize",
                pruner=self._pruner(max_epochs),
                load_if_exists=True,
            )
        except Exception as error:  # SQLAlchemy's, a driver's, Optuna's: each has its own
            kept = FILE if self.settings.storage is None else "hydra.sweeper.storage"  # an address may hold a password
            raise UserError(f"{kept}: cannot be used ({_line(error)})") from error
        if study.direction.name.lower() != direction:
            raise UserError(
                f"hydra.sweeper.study_name={name}: that study is to {study.direction.name.lower()}, and this search to "
                f"{direction}; give this one another name"
            )
        return study

    def _refuse_other_space(self) -> None:
        """A shared storage may have another search of this name; an experiment's file may have changed."""
        other = f"the study {self.study.study_name} has other values of {{}}; "
        other += "write another hydra.sweeper.study_name" if self.settings.storage else "move the sweep's folder away"
        compatible = optuna.distributions.check_distribution_compatibility
        for trial in self._all():
            for key, ours in self._distributions.items():
                if key in trial.distributions:
                    try:
                        compatible(trial.distributions[key], ours)
                    except ValueError:
                        raise UserError(other.format(key)) from None

    def _enqueue_next(self) -> None:
        """The first combination that no trial has; none, where one waits that a search has left so."""
        if any(trial.state == TrialState.WAITING for trial in self._all()):
            return
        tried = {self._texts(trial.params) for trial in self._all() if VOID not in trial.user_attrs}
        for values in self._combinations:
            if self._texts(values) not in tried:
                self.study.enqueue_trial(values)
                return

    def _distribution(self, dimension: Dimension) -> BaseDistribution:
        if isinstance(dimension, Choice):
            return CategoricalDistribution(dimension.texts)
        if isinstance(dimension, Whole):
            return IntDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)

    def _sampler(self, before: int) -> optuna.samplers.BaseSampler:
        samplers = optuna.samplers
        seed = None if self.settings.seed is None else (self.settings.seed * 1_000_003 + before) % 2**32
        if self.settings.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.RandomSampler(seed=seed)  # of a grid it is never asked: every value is given

    def _pruner(self, max_epochs: int | None) -> optuna.pruners.BasePruner:
        pruners, settings = optuna.pruners, self.settings
        if settings.pruner == "median":
            return pruners.MedianPruner(settings.startup_trials, settings.warmup_epochs)
        if settings.pruner == "hyperband":
            longest = max(max_epochs, settings.warmup_epochs) if max_epochs else "auto"
            return pruners.HyperbandPruner(settings.warmup_epochs, longest)
        return pruners.NopPruner()


def _file(path: Path) -> str:
    """The address of an SQLite file; its path may hold anything."""
    return URL.create("sqlite", database=str(path.resolve())).render_as_string()


def _direction(objective: str) -> str:
    return "maximize" if higher_is_better(objective) else "minimize"


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
