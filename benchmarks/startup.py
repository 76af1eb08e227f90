"""CPU time of commands that train nothing, against Python's bare start: --help, --cfg job, compare without a test.

    python -m benchmarks startup

User and system time of the whole process, as the system accounts it. Bytecode is cached, as it is from the second
start on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_exp.runs.folder import RunFolder
from benchmarks.rows import Goal, Row, alternate

TURNS = 15
OUTPUTS = "outputs"
# What is typed, and the seconds of CPU time that it may take above the bare start.
COMMANDS: Mapping[tuple[str, ...], float] = {
    ("--help",): 0.4,
    ("--cfg", "job"): 0.5,
    ("compare", OUTPUTS): 0.5,
}


def rows(turns: int = TURNS, **_: Any) -> list[Row]:
    """A row a command."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder) / OUTPUTS)
        for command, target in COMMANDS.items():
            seconds = alternate(
                lambda command=command: cpu_seconds(["-m", "alexnet_exp", *command], folder),  # type: ignore[misc]
                lambda: cpu_seconds(["-c", "pass"], folder),
                turns,
                warmup=2,
            )
            note = "two arms of one seed each, so that nothing is tested" if command[0] == "compare" else ""
            goal = Goal.at_most_more
            found.append(
                Row(
                    command[0].strip("-"),
                    " ".join(command),
                    "`python -c pass`",
                    "s",
                    seconds,
                    False,
                    target,
                    goal,
                    note,
                )
            )
    return found


def cpu_seconds(arguments: Sequence[str], folder: str) -> float:
    """User and system time of a Python that is given `arguments`; raises CalledProcessError where it does not end well.

    Its own children's are counted too.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(arguments), stderr=told)
    return used.ru_utime + used.ru_stime


def environment() -> dict[str, str]:
    """A user's: Python may keep bytecode, whatever whoever measures has forbidden it."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def make_runs(folder: Path) -> None:
    """Finished runs of two arms."""
    for norm, accuracy in (("bn", 0.91), ("lrn", 0.88)):
        run = RunFolder(_made(folder / "train" / norm))
        run.begin({"seed": 1, "model": {"name": "alexnet", "norm": norm}, "objective": "val/top1"}, {"name": "train"})
        run.finish("done", metrics={"val/top1": accuracy, "test/top1": accuracy}, test_images=360, images_per_s=100.0)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
