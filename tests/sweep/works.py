"""Provides functions that job processes of the tests run in place of a training, with few imports."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from alexnet_exp import logs
from alexnet_exp.config.composition import Composition
from alexnet_exp.processes.cpus import cores
from alexnet_exp.processes.signals import stop_at_boundaries, stop_error, stop_signal
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.status import Ending, ending_of

DONE = Ending("done", 0)


def look_around(composition: Composition, folder: Path) -> Ending:
    """Writes the environment and the number of threads to a file."""
    around = {
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "cores": cores(),
        "cuda": torch.cuda.is_initialized(),
    }
    (folder / f"around{os.environ.get('RANK', '')}.json").write_text(json.dumps(around))
    return DONE


def speak(composition: Composition, folder: Path) -> Ending:
    """Prints a line in every way that a process can."""
    logs.configure(folder)
    logging.getLogger("alexnet_exp.works").info("by the log: Grüße")
    print("by print")
    print("by print to stderr", file=sys.stderr)
    os.write(1, b"by C code\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    return DONE


def meet(composition: Composition, folder: Path) -> Ending:
    """Exchanges the ranks between all processes."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (dist.get_rank(), str(folder)))
    (folder / f"met{dist.get_rank()}").write_text(repr(everyone))
    return DONE


def come_to_harm(composition: Composition, folder: Path) -> Ending:
    """Dies without reporting a result, in the way that the setting `how` says."""
    if composition.container["how"] == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if composition.container["how"] == "segfault":
        ctypes.string_at(0)
    if composition.container["how"] == "memory":
        raise MemoryError("1 TiB")
    if composition.container["how"] == "after begin":
        RunFolder(folder).begin(composition.container, {})
        os.kill(os.getpid(), signal.SIGKILL)
    if composition.container["how"] == "after done":
        run = RunFolder(folder)
        run.begin(composition.container, {})
        run.finish("done")
        os.kill(os.getpid(), signal.SIGKILL)
    return DONE


def linger(composition: Composition, folder: Path) -> Ending:
    """Runs for a long time, with a child process; writes both pids to the folder. May ignore signals."""
    child = subprocess.Popen(["sleep", "600"])
    (folder / "pids").write_text(f"{os.getpid()} {child.pid}\n")
    until = time.monotonic() + 600
    while time.monotonic() < until:
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            if not composition.container.get("deaf"):
                raise
    return DONE


def train_on_what_is_there(composition: Composition, folder: Path) -> Ending:
    """Trains, writes the modules that it imported to a file, and raises if a program is started."""
    before = set(sys.modules)

    def no_program(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"a job started {arguments}")

    subprocess.Popen = no_program  # type: ignore[assignment,misc]
    from alexnet_exp.training.train import train_rank

    ending = train_rank(composition, folder)
    (folder / f"imported{os.environ.get('RANK', '')}.json").write_text(json.dumps(sorted(set(sys.modules) - before)))
    return ending


def killed_training(composition: Composition, folder: Path) -> Ending:
    """Trains; kills one rank at a training step: `KILLED_AT` has the rank and the number of the step."""
    from alexnet_exp.training.module import AlexNetModule
    from alexnet_exp.training.train import train_rank

    rank, call = map(int, os.environ["KILLED_AT"].split())
    original, calls = AlexNetModule.training_step, 0

    def dying(self: AlexNetModule, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and int(os.environ.get("RANK", "0")) == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments)

    AlexNetModule.training_step = dying  # type: ignore[method-assign]
    return train_rank(composition, folder)


def step(composition: Composition, folder: Path) -> Ending:
    """Runs steps without end; after a signal it finishes its step, if it is in one, and saves."""
    try:
        with stop_at_boundaries() if composition.container["step"] else nullcontext():
            for number in range(600):
                (folder / "begun").touch()
                time.sleep(0.1)
                if stop_signal():
                    (folder / "saved").write_text(str(number))
                    raise stop_error()
    except KeyboardInterrupt as stop:
        return ending_of(stop)
    return DONE


def train_and_count(composition: Composition, folder: Path, **options: Any) -> Ending:
    """A training that writes down how often its process composes and validates."""
    from alexnet_exp.training.train import train_rank
    from tests.counts import counting

    with counting() as counts:
        ending = train_rank(composition, folder, **options)
    (folder / f"counts{os.environ.get('RANK', '')}.json").write_text(json.dumps(counts))
    return ending
