"""Provides the rank of this process in a distributed training, from its environment. Does not import torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

RANK_VARIABLES = (
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("PL_GLOBAL_SEED", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE"),
    *("SLURM_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_ID", "SLURM_STEPID"),
    "SLURM_STEP_NUM_TASKS",
)
"""Environment variables from which Lightning, torch and this package read that a process is one of several ranks."""


def is_rank() -> bool:
    """Returns whether this process is one of several ranks, started by torchrun, srun or `training.launch`."""
    return "LOCAL_RANK" in os.environ or is_srun_rank()


def is_srun_rank() -> bool:
    """Returns whether this process is one of several tasks of one `srun`, which makes it a rank.

    SLURM_NTASKS is not enough: a plain `python` inside `sbatch -n 4` or `salloc -n 4` has the value 4 but is a single
    process. A shell under `srun --pty` is one too; it has the job name that Lightning checks as well.
    """
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return False
    return "SLURM_STEP_ID" in os.environ and _number("SLURM_STEP_NUM_TASKS", 1) > 1


def rank() -> int:
    """Returns the rank of this process; 0 for a single process, whatever the variables of another program say."""
    if not is_rank():
        return 0
    of_slurm = _number("SLURM_PROCID", 0)
    return _number("RANK", of_slurm) if "LOCAL_RANK" in os.environ else of_slurm


def remove_rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns `environment` without `RANK_VARIABLES`, for a process that is not a rank."""
    return {key: value for key, value in environment.items() if key not in RANK_VARIABLES}


def drop_rank_variables() -> None:
    """Removes `RANK_VARIABLES` from the environment of a process that is not a rank, so that Lightning ignores them.

    One line on stderr reports a number of ranks or a rank other than the first, because it was probably intended.
    """
    if is_rank():
        return
    names = [name for name in ("RANK", "SLURM_PROCID") if _number(name, 0)]
    names += ["WORLD_SIZE"] if _number("WORLD_SIZE", 1) != 1 else []
    if names:
        given = " ".join(f"{name}={os.environ[name]!r}" for name in names)
        print(
            f"{given} in the environment: ignored, because this is a single process; start ranks with torchrun, "
            "srun or trainer.devices=N",
            file=sys.stderr,
        )
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:  # empty, or not a number: not from a program that starts ranks
        return default
