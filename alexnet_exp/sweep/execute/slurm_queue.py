"""Reads the states of jobs from SLURM's queue, without its accounting database, which small clusters do not have.

To spare the controller, one query asks for all jobs, and queries become less frequent while no state changes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable

# A job in one of these states does not run again. COMPLETING is not among them: a requeued job passes through it.
FINAL_STATES = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED")
) | {"TIMEOUT"}
FORGOTTEN_STATE = "FORGOTTEN"  # not SLURM's: the job ended so long ago that the controller no longer knows it
# An answer is reused for this time: at first, and at most.
MIN_QUERY_INTERVAL_SECONDS, MAX_QUERY_INTERVAL_SECONDS = 1.0, 15.0
SQUEUE_TIMEOUT_SECONDS = 60


def own_job_id() -> str | None:
    """Returns the SLURM job that this process is part of, `12`, or `12_3` in an array; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def own_restart_count() -> int:
    """Returns how often SLURM has restarted the job that this process is part of."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


class SlurmQueue:
    """The states of jobs by their ids (`12`, or `12_3` of an array). Used by one thread."""

    def __init__(self) -> None:
        self._watched: set[str] = set()
        self._states: dict[str, str] | None = {}
        self._last_query = float("-inf")
        self._interval = MIN_QUERY_INTERVAL_SECONDS

    def state(self, job_id: str) -> str | None:
        """Returns RUNNING, PENDING, ... as squeue prints it; FORGOTTEN for an unknown job; None without an answer."""
        if job_id not in self._watched or time.monotonic() - self._last_query > self._interval:
            self._watched.add(job_id)
            self._query()
        return None if self._states is None else self._states.get(job_id, FORGOTTEN_STATE)

    def is_alive(self, job_id: str) -> bool | None:
        """Whether a job waits or runs; None if the queue does not answer."""
        state = self.state(job_id)
        return None if state is None else state not in FINAL_STATES and state != FORGOTTEN_STATE

    def unwatch(self, job_id: str) -> None:
        """Leaves the job out of later queries."""
        self._watched.discard(job_id)

    def _query(self) -> None:
        before, self._states = self._states, query_states(self._watched)
        self._last_query = time.monotonic()
        is_unchanged = self._states is not None and before == self._states
        longer = min(self._interval * 1.2, MAX_QUERY_INTERVAL_SECONDS)
        self._interval = longer if is_unchanged else MIN_QUERY_INTERVAL_SECONDS


def query_states(job_ids: Iterable[str]) -> dict[str, str] | None:
    """Returns the states of the jobs that the controller knows; None if it does not answer."""
    wanted = sorted({job_id.partition("_")[0] for job_id in job_ids})
    if not wanted:
        return {}
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={','.join(wanted)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SQUEUE_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:  # an error for a single unknown job; among several jobs, squeue leaves it out silently
        return {} if "invalid job id" in done.stderr.lower() else None
    return dict(re.findall(r"^(\S+)\|(\w+)$", done.stdout, re.MULTILINE))
