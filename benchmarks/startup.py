"""CPU time of commands that train nothing, and seconds from Enter to the first line and to the first training step.

    python -m benchmarks startup

CPU time: user and system time of the whole process, as the system accounts it. The first step: of the default network
on the digits, until its end. Bytecode is cached and kernels are compiled, as they are from the second start on.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_exp.config.user_class import ALLOW_VARIABLE
from alexnet_exp.runs.folder import RunFolder
from benchmarks.rows import Goal, Row, alternate

TURNS = 15
FIRST_STEP = 2.5  # seconds more than importing torch
FIRST_LINE = 1.0  # seconds more than Python's bare start
CHECKOUT = Path(__file__).parents[1]
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
        measured = alternate(lambda: seconds_to_first_step(folder), lambda: seconds_to_import_torch(folder), turns, 1)
        line = alternate(lambda: seconds_to_first_line(folder), lambda: seconds_of_bare_start(folder), turns, 1)
    more = Goal.at_most_more
    found.append(
        Row("first_line", "first line of a training", "`python -c pass`", "s", line, target=FIRST_LINE, goal=more)
    )
    name = "first training step on digits"
    return [*found, Row("first_step", name, "`python -c 'import torch'`", "s", measured, target=FIRST_STEP, goal=more)]


def seconds_to_first_step(folder: str) -> float:
    """Seconds from the start of a training on the digits to the end of its first step."""
    notes = Path(folder) / "stopwatch.jsonl"
    notes.unlink(missing_ok=True)
    callback = "+callbacks.stopwatch._target_=benchmarks.stopwatch.Stopwatch", f"+callbacks.stopwatch.file={notes}"
    words = ["trainer.max_epochs=null", "trainer.max_steps=1", "test.run=false", "checkpoint.keep=none"]
    start = time.monotonic()  # the clock of the notes, which all processes share
    _run(["-m", "alexnet_exp", *words, *callback], folder)
    steps = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    return float(next(step["at"] for step in steps if step["what"] == "step") - start)


def seconds_to_first_line(folder: str) -> float:
    """Seconds from the start of a training to what it prints first on a terminal; it is killed then."""
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "alexnet_exp", "data.subset=200"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=its, stderr=its)
    os.close(its)
    try:
        os.read(mine, 1)
        return time.perf_counter() - start
    finally:
        process.kill()
        process.wait()
        os.close(mine)


def seconds_of_bare_start(folder: str) -> float:
    """Seconds of a process that imports nothing and ends."""
    start = time.perf_counter()
    _run(["-c", "pass"], folder)
    return time.perf_counter() - start


def seconds_to_import_torch(folder: str) -> float:
    """Seconds of a process that imports torch and ends."""
    start = time.perf_counter()
    _run(["-c", "import torch"], folder)
    return time.perf_counter() - start


def _run(arguments: Sequence[str], folder: str) -> None:
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    around = environment() | {"PYTHONPATH": path, ALLOW_VARIABLE: "benchmarks"}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=around, check=True, capture_output=True)


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
