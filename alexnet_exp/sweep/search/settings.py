"""Provides the settings of a search: `hydra.sweeper.*` of `hydra/sweeper=optuna`. Does not import Optuna."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.errors import Checks

GRID_SAMPLER = "grid"
SAMPLERS = ("tpe", "random", GRID_SAMPLER)
PRUNERS = ("none", "median", "hyperband")
DIRECTIONS = ("maximize", "minimize")
DEFAULT_TRIALS = 20  # of a grid: all its combinations


@dataclass
class SearchSettings:
    """`hydra.sweeper.*` of `hydra/sweeper=optuna`.

    n_trials: the number of trials, including those of earlier searches in the same folder; null = 20, of a grid all
    combinations. seed: of the sampler; null = a new seed each time. direction: null = derived from the name of the
    objective: losses are minimized, all other metrics maximized. storage: the SQLAlchemy URL of a database; null = the
    file study.db in the sweep's folder. study_name: null = the name of the sweep's folder. startup_trials: the number
    of complete trials before the first is pruned (median). warmup_epochs: a trial is not pruned before this epoch.
    params: the search space, `{optim.lr: "interval(0.001,0.1)"}`; the command line takes precedence.
    """

    _target_: str = "hydra_plugins.alexnet_exp.optuna_sweeper.OptunaSweeper"
    n_trials: int | None = None
    sampler: str = "tpe"
    seed: int | None = 1
    direction: str | None = None
    storage: str | None = None
    study_name: str | None = None
    pruner: str = "median"
    startup_trials: int = 5
    warmup_epochs: int = 3
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.at_least("n_trials", 1)
        checks.one_of("sampler", SAMPLERS)
        checks.at_least("seed", 0)
        checks.one_of("direction", DIRECTIONS)
        checks.one_of("pruner", PRUNERS)
        checks.at_least("startup_trials", 0)
        checks.at_least("warmup_epochs", 1)
        checks.done()
