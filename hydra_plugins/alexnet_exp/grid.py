"""Provides `hydra/sweeper=grid`, the default: Hydra's basic sweeper for launchers that validate all jobs themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from alexnet_exp.sweep.launcher import grid_jobs
from alexnet_exp.sweep.plan.folder import MULTIRUN_FILE, create_folder


# Without `from __future__ import annotations`: Hydra's plugin scan runs this module before it is in sys.modules.
@dataclass
class GridSweeperConf:
    """`hydra.sweeper.params`: the swept settings of a file, such as `{seed: "1,2,3"}`."""

    _target_: str = "hydra_plugins.alexnet_exp.grid.GridSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


class GridSweeper(BasicSweeper):
    """Makes the jobs of Hydra's basic sweeper as one batch, so that all are validated before the first one runs.

    `max_batch_size`, a setting of Hydra's, has no effect: `hydra.launcher.jobs` sets how many jobs run at once.
    """

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        batch = grid_jobs(self._parse_config(), arguments, self.hydra_context.config_loader)
        self.validate_batch_is_legal(batch)
        OmegaConf.save(self.config, create_folder(self.config) / MULTIRUN_FILE)
        # Hydra does not read the values: reading that of a failed job would raise.
        return [self.launcher.launch(batch, initial_job_idx=0)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        if not getattr(self.launcher, "validates_jobs", False):  # Hydra's launchers do not
            from alexnet_exp.sweep.plan.compose import JobComposer, compose_jobs

            assert self.config is not None
            assert self.hydra_context is not None
            compose_jobs(JobComposer(self.hydra_context.config_loader, self.config), batch)


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="alexnet_exp")
