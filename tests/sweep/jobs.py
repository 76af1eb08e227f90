"""Provides jobs as the launcher writes them, a folder with a configuration, and helpers for processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from omegaconf import OmegaConf

from alexnet_exp.config.compose import compose
from alexnet_exp.config.composition import Composition
from alexnet_exp.config.nodes import read_node
from alexnet_exp.config.schema import Config, Trainer
from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.local import LocalPool
from alexnet_exp.sweep.execute.pool import EndedJob
from tests.conftest import TINY


def plain_job(folder: Path, container: dict[str, Any], hydra: dict[str, Any] | None = None) -> Job:
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(container), folder / ".hydra" / "config.yaml")
    if hydra is not None:
        OmegaConf.save(OmegaConf.create({"hydra": hydra}), folder / ".hydra" / "hydra.yaml")
    return Job(1, folder, ())


class Unvalidated(dict[Path, Composition]):
    """A pool's `compositions` for works that need a trainer and settings that no run has: read and not validated."""

    def pop(self, folder: Path, *_: Any) -> Any:
        container = Job(1, folder, ()).container()
        config = SimpleNamespace(trainer=read_node(Trainer, container["trainer"], "trainer"))
        return Composition(cast("Config", config), container)


def tiny_job(folder: Path, *overrides: str) -> Job:
    return plain_job(folder, compose([*TINY, *overrides]))


def run_all(pool: LocalPool, *jobs: Job, seconds: float = 120) -> dict[str, EndedJob]:
    """Runs all jobs, as many at once as the pool has room for; returns them by the names of their folders."""
    ended: dict[str, EndedJob] = {}
    left, until = list(jobs), time.monotonic() + seconds
    while len(ended) < len(jobs):
        assert time.monotonic() < until
        while left and pool.has_room(left[0]):
            pool.start(left.pop(0))
        ended |= {each.job.folder.name: each for each in pool.wait(0.5)}
    assert pool.running() == []
    return ended


def wait_until(holds: Callable[[], Any], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def pids_in(*files: Path) -> list[int]:
    """Waits until processes have written their pids to the files; returns these."""
    wait_until(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files))
    return [int(pid) for file in files for pid in file.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def are_gone(pids: list[int], seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while any(map(is_running, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
