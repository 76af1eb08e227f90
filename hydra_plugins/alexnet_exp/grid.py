"""`hydra/sweeper=grid`, the default: Hydra's basic sweeper, for launchers that check every job themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from alexnet_exp.sweep.launcher import grid
from alexnet_exp.sweep.plan.folder import MULTIRUN_FILE, make


# annotations are evaluated here: Hydra's scan of plugins runs a module that sys.modules does not have yet
@dataclass
class GridSweeperConf:
    """`hydra.sweeper.params`: what a file sweeps, such as `{seed: "1,2,3"}`."""

    _target_: str = "hydra_plugins.alexnet_exp.grid.GridSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


class GridSweeper(BasicSweeper):
    """The same jobs in the same order. All are one batch, so that all are checked before the first is started.

    `max_batch_size` is Hydra's, and does nothing here: `hydra.launcher.jobs` says how many run at once.
    """

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        batch = grid(self._parse_config(), arguments, self.hydra_context.config_loader)
        self.validate_batch_is_legal(batch)
        OmegaConf.save(self.config, make(self.config) / MULTIRUN_FILE)
        # a job that failed raises where it is asked for its value; the others' values are not asked for less
        return [self.launcher.launch(batch, initial_job_idx=0)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        if not getattr(self.launcher, "checks", False):  # Hydra's own launchers
            from alexnet_exp.sweep.plan.compose import JobComposer, compose_jobs

            assert self.config is not None
            assert self.hydra_context is not None
            compose_jobs(JobComposer(self.hydra_context.config_loader, self.config), batch)


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="alexnet_exp")
