"""Provides `hydra/launcher=process`, the default: each job of a sweep in its own process, on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from alexnet_exp.config.schema import Config
from alexnet_exp.sweep.execute.pool import JobPool
from alexnet_exp.sweep.launcher import JobsLauncher


# Without `from __future__ import annotations`: Hydra's plugin scan runs this module before it is in sys.modules.
@dataclass
class ProcessLauncherConf:
    """`hydra.launcher.jobs`: the number of jobs at once; 0: the sweep is only planned, and `sweep work` runs it."""

    _target_: str = "hydra_plugins.alexnet_exp.process.ProcessLauncher"
    jobs: int = 1


class ProcessLauncher(JobsLauncher):
    """Runs the jobs in a `LocalPool`."""

    def __init__(self, jobs: int = 1):
        self.jobs = jobs

    @property
    def only_plans(self) -> bool:
        return self.jobs == 0

    def check_devices(self, configs: Sequence[Config]) -> None:
        """Checks the devices of this machine, unless the sweep is only planned: workers may run on other machines."""
        if not self.only_plans:
            super().check_devices(configs)

    def make_pool(self) -> JobPool:
        from alexnet_exp.sweep.execute.worker import local_pool

        return local_pool(self.jobs, "hydra.launcher.jobs")


ConfigStore.instance().store(group="hydra/launcher", name="process", node=ProcessLauncherConf, provider="alexnet_exp")
