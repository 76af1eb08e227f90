"""What SLURM can be asked for: `hydra.launcher.*` of `hydra/launcher=slurm`. No submitit here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.errors import Checks


@dataclass
class SlurmSettings:
    """What `hydra/launcher=slurm` asks for, for each job; null is what the cluster does where nothing is asked for.

    timeout_min: minutes. mem_gb: gigabytes a node. nodes, tasks_per_node and gpus_per_node follow from the job's
    trainer (a task is a rank, and has a device of its own); gpus_per_node is to be set where the trainer says none.
    setup: lines of shell before the job. additional_parameters: any other of sbatch's options, `{constraint: a100}`.
    jobs: how many run at once, of those that ask for the same. wait: whether the command waits for its jobs.
    """

    _target_: str = "hydra_plugins.alexnet_exp.slurm.SlurmLauncher"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    timeout_min: int | None = None
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    nodes: int | None = None
    tasks_per_node: int | None = None
    setup: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    jobs: int | None = None
    wait: bool = True

    def __post_init__(self) -> None:
        checks = Checks(self)
        for key in ("timeout_min", "cpus_per_task", "nodes", "tasks_per_node", "jobs"):
            checks.at_least(key, 1)
        checks.at_least("gpus_per_node", 0)
        checks.above("mem_gb", 0)
        checks.done()
