"""Provides the number of CPU cores that this process may use."""

from __future__ import annotations

import os

# Environment variable with the number of cores of a sweep's job that shares the machine with other jobs.
CORES_VARIABLE = "ALEXNET_EXP_CORES"


def cores() -> int:
    """Returns the number of CPU cores that this process may use; in a job of a sweep, its share."""
    share = os.environ.get(CORES_VARIABLE, "")
    if share.isdigit() and int(share):
        return int(share)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
