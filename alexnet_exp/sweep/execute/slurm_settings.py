"""Provides the settings of SLURM jobs: `hydra.launcher.*` of `hydra/launcher=slurm`. Does not import submitit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alexnet_exp.errors import Checks


@dataclass
class SlurmSettings:
    """The resources of each job of `hydra/launcher=slurm`; null = the default of the cluster.

    timeout_min: minutes. mem_gb: gigabytes for each node. nodes, tasks_per_node and gpus_per_node: null = those of the
    job's trainer (a task is a rank, and has its own device); gpus_per_node is required if the trainer has no number.
    setup: shell lines before the job. additional_parameters: other options of sbatch, `{constraint: a100}`. jobs: how
    many of the jobs with equal resources run at once. wait: whether the command waits for its jobs.
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
