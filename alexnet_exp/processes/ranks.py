"""Which rank of a distributed training this process is, from its environment. The only answer to that; no torch."""

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
"""Environment variables by which Lightning, torch and this package take a process for one rank of several."""


def is_rank() -> bool:
    """Whether this process is one rank of several, started by torchrun, srun or `launch.py`."""
    return "LOCAL_RANK" in os.environ or is_srun_rank()


def is_srun_rank() -> bool:
    """Whether this process is one of several tasks that one `srun` started, and so a rank of SLURM's making.

    SLURM_NTASKS does not tell: inside `sbatch -n 4` or `salloc -n 4` a plain `python` sees 4 and is alone. A shell
    under `srun --pty` is alone too; Lightning knows it by its job's name.
    """
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return False
    return "SLURM_STEP_ID" in os.environ and _number("SLURM_STEP_NUM_TASKS", 1) > 1


def rank() -> int:
    """This process's rank; 0 where it is alone, whatever numbers another program left in its environment."""
    if not is_rank():
        return 0
    of_slurm = _number("SLURM_PROCID", 0)
    return _number("RANK", of_slurm) if "LOCAL_RANK" in os.environ else of_slurm


def remove_rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is no rank."""
    return {key: value for key, value in environment.items() if key not in RANK_VARIABLES}


def drop_rank_variables() -> None:
    """Where this process is no rank, removes the variables by which Lightning would take it for one.

    A number of ranks or a rank other than the first was meant for somebody: one line on stderr names them.
    """
    if is_rank():
        return
    names = [name for name in ("RANK", "SLURM_PROCID") if _number(name, 0)]
    names += ["WORLD_SIZE"] if _number("WORLD_SIZE", 1) != 1 else []
    if names:
        given = " ".join(f"{name}={os.environ[name]!r}" for name in names)
        print(
            f"{given} in the environment: ignored, this is a single process; start ranks with torchrun, srun or "
            "trainer.devices=N",
            file=sys.stderr,
        )
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)


def _number(name: str, otherwise: int) -> int:
    try:
        return int(os.environ.get(name, otherwise))
    except ValueError:  # empty, or not a number: no program that starts ranks writes that
        return otherwise
