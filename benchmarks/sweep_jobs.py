"""What a job of a sweep costs beyond its training, in a process of its own, against a fresh `python -m`.

    python -m benchmarks sweep_jobs

A job trains one batch, validates and tests one. Its seconds are those that a sweep of several takes more than a sweep
of one, by the number of jobs more: composing, checking, starting, writing its folder and telling are in them; the
imports, which the sweep does once, are not. The training is what metrics.csv says of the epoch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from alexnet_exp.runs.reader import read_metrics
from benchmarks.rows import Goal, Row
from benchmarks.startup import environment

MOST_BEYOND = 0.4  # seconds
TIMES_LESS = 15
TURNS = 5
JOBS = 8
ONE_BATCH = (
    *("model.width=0.25", "trainer.accelerator=cpu", "trainer.max_epochs=1"),
    *("trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"),
)


def rows(turns: int = TURNS, **_: Any) -> list[Row]:
    """Two rows for 1 and for 2 ranks: a job against its training, and what is beyond it against a fresh process."""
    found = []
    for ranks in (1, 2):
        beyond, fresh = [], []
        for turn in range(turns + 1):
            job, training = job_of_a_sweep(ranks)
            alone, its_training = measured(["seed=1", f"trainer.devices={ranks}"])
            if turn:  # the first one fills caches
                beyond.append((job, training))
                fresh.append((job - training, alone - its_training))
        name = f"{ranks} rank{'s' if ranks > 1 else ''}"
        what = f"job of a sweep, {name}"
        note = f"a sweep of {1 + JOBS} against a sweep of one"
        goal = Goal.at_most_more
        found.append(Row(f"{name}: beyond", what, "its training", "s", beyond, False, MOST_BEYOND, goal, note))
        against = "fresh `python -m`"
        beyond_it = f"{what}, beyond its training"
        found.append(Row(f"{name}: fresh", beyond_it, against, "s", fresh, target=TIMES_LESS, note=note))
    return found


def job_of_a_sweep(ranks: int) -> tuple[float, float]:
    """Seconds of a job more in a sweep, and those of its training."""
    devices = f"trainer.devices={ranks}"
    one, _ = measured(["-m", "seed=1", devices])
    several, training = measured(["-m", f"seed=range(1,{2 + JOBS})", devices])
    return (several - one) / JOBS, training


def measured(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds of a command from its start to its end, and of its runs' training in the mean."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "alexnet_exp", *arguments, *ONE_BATCH]
        start = time.perf_counter()
        ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        told = json.loads(ended.stdout)
        runs = [Path(folder) / run["run"] for run in told.get("runs", [told])]
        return seconds, mean(float(row["seconds"] or 0) for run in runs for row in read_metrics(run))
