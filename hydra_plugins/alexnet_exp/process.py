"""`hydra/launcher=process`: every job of a sweep in a process of its own, on this machine. The default."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from alexnet_exp.config.schema import Config
from alexnet_exp.sweep.execute.pool import JobPool
from alexnet_exp.sweep.launcher import JobsLauncher


# annotations are evaluated here: Hydra's scan of plugins runs a module that sys.modules does not have yet
@dataclass
class ProcessLauncherConf:
    """`hydra.launcher.jobs`: how many jobs run at once; 0: the sweep is planned, and `sweep work` runs it."""

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
        """Not where it only plans: the workers' machines may be others."""
        if not self.only_plans:
            super().check_devices(configs)

    def make_pool(self) -> JobPool:
        from alexnet_exp.sweep.execute.worker import local_pool

        return local_pool(self.jobs, "hydra.launcher.jobs")


ConfigStore.instance().store(group="hydra/launcher", name="process", node=ProcessLauncherConf, provider="alexnet_exp")
