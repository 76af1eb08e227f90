"""Registers `hydra/sweeper=optuna` with Hydra; the code is in `alexnet_exp/sweep/search/sweeper.py`."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from alexnet_exp.sweep.search.settings import SearchSettings


class OptunaSweeper(Sweeper):
    """Runs the trials that Optuna proposes as jobs."""

    def __init__(self, **settings: Any):
        self.settings = settings
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from alexnet_exp.sweep.search.sweeper import search

        given = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in self.settings.items()
        }
        assert self.config is not None
        search(arguments, given, self.launcher, self.context, self.task_function, self.config)


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=SearchSettings, provider="alexnet_exp")
