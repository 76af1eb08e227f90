"""What SLURM's queue says of jobs, without its accounting database, which test clusters and small ones do not have.

A controller has better things to do than to answer: all jobs are asked for at once, and the more rarely the longer
nothing happens.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable

# The states in which a job has ended for good. COMPLETING is none: a requeued job passes through it.
ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED")
) | {"TIMEOUT"}
FORGOTTEN = "FORGOTTEN"  # ended so long ago that the controller does not know it any more
# Seconds for which an answer holds: at first, and at most.
FRESH, STALE = 1.0, 15.0
# Seconds for squeue to answer.
PATIENCE = 60


def own_id() -> str | None:
    """SLURM's number of the job that this process is part of, `12` or `12_3` in an array; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def own_restarts() -> int:
    """How often SLURM has started this process's job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


class Queue:
    """The states of jobs, by their numbers (`12`, or `12_3` of an array). Used by one thread."""

    def __init__(self) -> None:
        self._watched: set[str] = set()
        self._states: dict[str, str] | None = {}
        self._asked = float("-inf")
        self._holds = FRESH

    def state(self, number: str) -> str | None:
        """RUNNING, PENDING, ... as squeue has it; FORGOTTEN of a job that it does not know; None: no answer."""
        if number not in self._watched or time.monotonic() - self._asked > self._holds:
            self._watched.add(number)
            self._ask()
        return None if self._states is None else self._states.get(number, FORGOTTEN)

    def is_alive(self, number: str) -> bool | None:
        """Whether a job waits or runs; None where the queue cannot be asked."""
        state = self.state(number)
        return None if state is None else state not in ENDED and state != FORGOTTEN

    def forget(self, number: str) -> None:
        """Does not ask for this job any more."""
        self._watched.discard(number)

    def _ask(self) -> None:
        before, self._states = self._states, states(self._watched)
        self._asked = time.monotonic()
        same = self._states is not None and before == self._states
        self._holds = min(self._holds * 1.2, STALE) if same else FRESH


def states(numbers: Iterable[str]) -> dict[str, str] | None:
    """The states of the jobs that the controller knows; None where it does not answer."""
    wanted = sorted({number.partition("_")[0] for number in numbers})
    if not wanted:
        return {}
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={','.join(wanted)}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if told.returncode != 0:  # a single job that it has forgotten is an error, of several it is silent
        return {} if "invalid job id" in told.stderr.lower() else None
    return dict(re.findall(r"^(\S+)\|(\w+)$", told.stdout, re.MULTILINE))
