"""Provides `hydra/launcher=slurm`: jobs in a SLURM queue, through submitit."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from alexnet_exp.sweep.execute.pool import JobPool
from alexnet_exp.sweep.execute.slurm_settings import SlurmSettings
from alexnet_exp.sweep.launcher import JobsLauncher

if TYPE_CHECKING:
    from alexnet_exp.config.schema import Config


class SlurmLauncher(JobsLauncher):
    """Runs the jobs in a `SlurmPool`."""

    def __init__(self, **settings: Any):
        self.given = settings

    @property
    def settings(self) -> SlurmSettings:
        """Validated here, because Hydra would wrap an error in `__init__` in one of its own."""
        return SlurmSettings(**OmegaConf.to_container(OmegaConf.create(self.given)))  # type: ignore[arg-type]

    @property
    def waits(self) -> bool:
        return self.settings.wait

    def check_devices(self, configs: "Sequence[Config]") -> None:
        from alexnet_exp.sweep.execute.slurm import check_resources, require_slurm

        require_slurm()
        check_resources((vars(config.trainer) for config in configs), self.settings)

    def make_pool(self) -> JobPool:
        from alexnet_exp.sweep.execute.slurm import SlurmPool

        return SlurmPool(Path(self.config.hydra.sweep.dir), self.settings, str(self.config.name))


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmSettings, provider="alexnet_exp")
