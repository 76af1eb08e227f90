"""Configures malloc and the garbage collector of a training process.

glibc's malloc returns a large tensor to the kernel as soon as it is freed. A training step frees each activation and
allocates one of the same size in the next step. The kernel then maps it again and zeroes it page by page: tens of
thousands of page faults a step, a quarter of a CPU step's time. This module does not import torch.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Mapping
from functools import cache

# The parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = -1
MOST_RETAINED_BYTES = 1 << 30
"""Larger blocks, such as the array of a large data set, are still returned to the kernel when they are freed."""

# Environment variables by which a user configures malloc.
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")
TUNABLES_VARIABLE = "GLIBC_TUNABLES"
PRELOAD_VARIABLE = "LD_PRELOAD"  # jemalloc, tcmalloc, mimalloc


def keep_freed_memory() -> str:
    """Configures malloc to keep freed memory in this process. Returns a text for the log, empty without glibc.

    Call it before large tensors are created. If the environment configures malloc or loads another allocator, nothing
    is changed. The cost: the peak memory of the process stays resident until it ends.
    """
    if not _is_glibc():
        return ""
    choice = malloc_setting(os.environ)
    if choice:
        return f"malloc is configured by {choice}"
    if _configure_malloc():
        return "freed memory stays allocated to the process"
    return "freed memory is returned to the system: malloc rejects the setting"


def malloc_setting(environment: Mapping[str, str]) -> str:
    """Returns the variable of `environment` that configures malloc or loads another allocator; empty if none does."""
    for name in MALLOC_VARIABLES:
        if environment.get(name):
            return name
    if "glibc.malloc." in environment.get(TUNABLES_VARIABLE, ""):
        return TUNABLES_VARIABLE
    return PRELOAD_VARIABLE if "malloc" in environment.get(PRELOAD_VARIABLE, "") else ""


@cache
def _configure_malloc() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # older glibc rejects thresholds above 32 MiB; there mapping of single blocks is disabled
    mapped = mallopt(M_MMAP_THRESHOLD, MOST_RETAINED_BYTES) or mallopt(M_MMAP_MAX, 0)
    return bool(mapped and mallopt(M_TRIM_THRESHOLD, NEVER))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; macOS and musl lack this name
        return False


@cache
def freeze_garbage_collector() -> None:
    """Excludes the objects that exist now from garbage collection. It has an effect once per process.

    torch, Lightning and their dependencies have about a million objects. A full collection takes half a second for
    them, somewhere in the first epoch, and frees next to nothing. It is not repeated for later runs of the process,
    because the objects of an earlier run must be collected.
    """
    gc.freeze()
