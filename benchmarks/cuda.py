"""On a GPU: first whether each of its paths is correct, then how fast it is; within a budget of time.

    python -m benchmarks cuda
    python -m benchmarks cuda --budget 300 --cifar FOLDER

Skipped without a CUDA GPU. Each part is a process of its own and is ended when the budget is used. What was found is
written after each part, so that a command that is killed keeps it. A failed check makes the exit code 1. --cifar adds
the ladder's last rung. The first lines of cuda_checks.py and cuda_rows.py say what is compared.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.cuda_part import Check, Found, Setup
from benchmarks.machine import Watch, machine
from benchmarks.processor import gpu, this_processor
from benchmarks.rows import Measured, Missing, Row
from benchmarks.table import Result, save

BUDGET = 540.0  # seconds: 10 minutes, less the start and the end of the command


class Planned(NamedTuple):
    """A part. least: seconds below which it is not begun; most: seconds after which it is ended."""

    name: str
    module: str
    function: str
    least: float
    most: float


CHECKS, ROWS = "benchmarks.cuda_checks", "benchmarks.cuda_rows"
# The seconds are estimates: no card has run this yet.
PARTS = (
    Planned("check of LRN", CHECKS, "lrn", 10, 60),
    Planned("check of layouts, types and copies", CHECKS, "placement", 10, 60),
    Planned("check of repeated and resumed runs", CHECKS, "runs", 30, 120),
    Planned("check of precisions", CHECKS, "precisions", 30, 90),
    Planned("check of two ranks", CHECKS, "ranks", 20, 90),
    Planned("LRN", ROWS, "lrn", 10, 60),
    Planned("throughput", ROWS, "throughput", 20, 120),
    Planned("precision", ROWS, "precision", 15, 60),
    Planned("compile modes", ROWS, "compile_modes", 40, 200),
    Planned("the ladder's last rung", ROWS, "ladder", 60, 180),
)


def rows(
    turns: int = 5,
    cifar: Path | None = None,
    budget: float = BUDGET,
    out: Path | None = None,
    setup: Setup | None = None,
    parts: Sequence[Planned] = PARTS,
) -> Measured:
    """All rows; data: the checks, the names of those that failed, and what was skipped. Raises `Missing` without a GPU.

    budget: seconds from now. out: the folder of the processors' folders, where results are kept after each part.
    """
    if setup is None:
        if not torch.cuda.is_available():
            raise Missing("no CUDA GPU on this machine")
        setup = Setup(turns=turns, cifar=None if cifar is None else str(cifar))
    watch, began = Watch(), time.perf_counter()
    found, skipped = Found(), list[str]()
    for part in parts:
        left = budget - (time.perf_counter() - began)
        if left < part.least:
            skipped.append(f"{part.name} ({left:.0f} s of the budget left, needs {part.least:.0f})")
            continue
        print(f"cuda: {part.name} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        added, problem = run(part, setup, min(left, part.most))
        found.checks += added.checks
        found.rows += added.rows
        skipped += [f"{part.name}: {problem}"] if problem else []
        used = f"{time.perf_counter() - start:.0f} s, {time.perf_counter() - began:.0f} of {budget:.0f} s in all"
        print(f"cuda: {part.name}: {_summary(added)}; {used}", file=sys.stderr, flush=True)
        if out is not None:
            keep(found, skipped, setup, watch, time.perf_counter() - began, out)
    unchecked = [f"{check.name} ({check.detail})" for check in found.checks if check.passed is None]
    print(f"cuda: skipped: {'; '.join([*skipped, *unchecked]) or 'nothing'}", file=sys.stderr, flush=True)
    return Measured(found.rows, data(found, skipped))


def run(part: Planned, setup: Setup, seconds: float) -> tuple[Found, str]:
    """Returns what a part found in at most so many seconds, and why it found no more; empty where it ended itself."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.json"
        words = [part.module, part.function, str(file), json.dumps(asdict(setup))]
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.cuda_part", *words], start_new_session=True)
        problem = ""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            problem = f"ended after {seconds:.0f} s"
        finally:  # also on Ctrl-C; the runs that it started are in its group
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        found = Found.read(file)
        if not problem and process.returncode:
            found.checks.append(Check(part.name, False, f"its process ended with exit code {process.returncode}"))
        return found, problem


def data(found: Found, skipped: Sequence[str]) -> dict[str, Any]:
    """What goes beside the rows, as plain containers."""
    failed = [check.name for check in found.checks if check.passed is False]
    return {"checks": [asdict(check) for check in found.checks], "failed": failed, "skipped": list(skipped)}


def keep(found: Found, skipped: Sequence[str], setup: Setup, watch: Watch, seconds: float, out: Path) -> Path:
    """Writes what was found so far, in the form of a whole result; returns the file."""
    processor = gpu(torch.cuda.get_device_name()) if setup.device == "cuda" else this_processor()
    result = Result("cuda", found.rows, machine(), watch.load(), seconds, data(found, skipped))
    return save(result, processor.save(out))


def _summary(found: Found) -> str:
    passed = sum(check.passed is True for check in found.checks)
    parts = [f"{passed} checks passed"] if passed else []
    parts += [f"FAILED: {check.name}: {check.detail}" for check in found.checks if check.passed is False]
    return "; ".join([*parts, *map(_row, found.rows)]) or "nothing"


def _row(row: Row) -> str:
    return f"{row.name} {row.ratio:.3g}x"
