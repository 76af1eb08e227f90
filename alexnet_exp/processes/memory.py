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
"""Bytes. What is larger, such as the array of a large data set, is still handed back when it is freed."""

# By these a user has chosen already how malloc works.
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")
TUNABLES_VARIABLE = "GLIBC_TUNABLES"
PRELOAD_VARIABLE = "LD_PRELOAD"  # jemalloc, tcmalloc, mimalloc


def keep_freed_memory() -> str:
    """Tells malloc to keep freed memory, in all of this process, from now on. Returns in words what holds.

    Call it before large tensors are made. Empty where malloc is not glibc's. Where the environment says how malloc is
    to work, or loads another one, it is left as it is. The cost: what the process held at most stays resident until
    it ends, so that others cannot have it between two steps.
    """
    if not _is_glibc():
        return ""
    choice = malloc_setting(os.environ)
    if choice:
        return f"malloc as {choice} says"
    return (
        "freed memory is kept"
        if _configure_malloc()
        else "freed memory is handed back: malloc does not take the setting"
    )


def malloc_setting(environment: Mapping[str, str]) -> str:
    """The variable by which a user chose how malloc works; empty where none does."""
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
    # an older glibc takes no threshold above 32 MiB: there nothing at all is mapped by itself
    mapped = mallopt(M_MMAP_THRESHOLD, MOST_RETAINED_BYTES) or mallopt(M_MMAP_MAX, 0)
    return bool(mapped and mallopt(M_TRIM_THRESHOLD, NEVER))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; macOS and musl have no such name
        return False


@cache
def freeze_garbage_collector() -> None:
    """From now on, the collector leaves out what this process has imported and made so far.

    torch, Lightning and what they import are a million objects: a full collection goes through them for half a second,
    somewhere in the first epoch, and finds next to nothing. Once a process, not once a run: what an earlier run left
    behind must go.
    """
    gc.freeze()
