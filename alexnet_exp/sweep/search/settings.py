"""What a search can be told: `hydra.sweeper.*` of `hydra/sweeper=optuna`. No Optuna here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.errors import Checks

GRID = "grid"
SAMPLERS = ("tpe", "random", GRID)
PRUNERS = ("none", "median", "hyperband")
DIRECTIONS = ("maximize", "minimize")
TRIALS = 20  # unless said otherwise; a grid has as many as it has


@dataclass
class Settings:
    """`hydra.sweeper.*` of `hydra/sweeper=optuna`.

    n_trials: how many in all, those of earlier searches in the same folder included; null = 20, of a grid all.
    seed: of the sampler; null = another one every time. direction: null = as the objective's name says.
    storage: the address of a database for SQLAlchemy; null = the file study.db in the sweep's folder.
    study_name: null = the name of the sweep's folder.
    startup_trials: complete ones before any is pruned (median). warmup_epochs: how many a trial has in any case.
    params: the space, as one would type it: `{optim.lr: "interval(0.001,0.1)"}`; the command line goes first.
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
