"""How much of the machine's CPU is ours."""

from __future__ import annotations

import os

# What a job that shares the machine with others is told of its share.
CORES_VARIABLE = "ALEXNET_EXP_CORES"


def cores() -> int:
    """CPU cores that this process may use: of a sweep's job, its share of them."""
    share = os.environ.get(CORES_VARIABLE, "")
    if share.isdigit() and int(share):
        return int(share)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
