"""Freed memory stays allocated to the process, unless the user has configured malloc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from alexnet_exp.processes.memory import malloc_setting

# Prints the page faults of three tensors of 40 MB, each freed before the next, after a warm-up.
PROGRAM = """
import resource, sys
from alexnet_exp.processes.memory import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else ""
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(5):
    faults()
print(faults(), told)
"""
glibc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")


def faults(argument: str, **environment: str) -> tuple[int, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM, argument]
    ran = subprocess.run(
        command, env=clean | {"OMP_NUM_THREADS": "1"} | environment, capture_output=True, text=True, check=True
    )
    number, _, told = ran.stdout.strip().partition(" ")
    return int(number), told


@glibc
def test_freed_tensor_is_not_mapped_again() -> None:
    without, _ = faults("leave")
    kept, told = faults("keep")
    assert told == "freed memory stays allocated to the process"
    assert kept < 100 < without


@glibc
def test_malloc_settings_of_the_user_are_kept() -> None:
    found, told = faults("keep", MALLOC_MMAP_THRESHOLD_="131072")
    assert told == "malloc is configured by MALLOC_MMAP_THRESHOLD_"
    assert found > 100


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, "GLIBC_TUNABLES"),
        ({"GLIBC_TUNABLES": "glibc.rtld.nns=4"}, ""),
        ({"MALLOC_TRIM_THRESHOLD_": "100000"}, "MALLOC_TRIM_THRESHOLD_"),
        ({"LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"}, "LD_PRELOAD"),
        ({"LD_PRELOAD": "libtcmalloc_minimal.so.4"}, "LD_PRELOAD"),
        ({"LD_PRELOAD": "libgomp.so.1"}, ""),
    ],
)
def test_malloc_setting_is_read_from_the_environment(environment: dict[str, str], expected: str) -> None:
    assert malloc_setting(environment) == expected
