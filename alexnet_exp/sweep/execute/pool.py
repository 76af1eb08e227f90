"""Defines where the jobs of a sweep run: the interface of a pool, on this machine or on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alexnet_exp.config.composition import Composition
from alexnet_exp.runs.status import Ending
from alexnet_exp.runs.sweep_plan import Job


@dataclass(frozen=True)
class EndedJob:
    """A job that has ended. Its result.json has the ending too, even if its process was killed."""

    job: Job
    ending: Ending
    seconds: float


class JobPool(Protocol):
    """Starts jobs and reports which have ended. Used by one thread.

    compositions: the configurations that this process has validated, by the jobs' folders; others are read from there.
    """

    compositions: dict[Path, Composition]

    def has_room(self, job: Job) -> bool:
        """Whether `job` could start now, with the devices that it asks for."""

    def start(self, job: Job) -> None:
        """Starts a job and returns at once. Its folder has `.hydra/`, and the caller holds its lock."""

    def wait(self, timeout: float) -> list[EndedJob]:
        """Returns the jobs that ended since the last call; waits for one for at most `timeout` seconds."""

    def running(self) -> list[Job]:
        """Returns the jobs that were started and that `wait` has not returned yet."""

    def stop(self, job: Job, reason: str) -> None:
        """Asks a running job to end after its epoch with status `pruned`; `wait` returns it when it has ended."""

    def close(self) -> list[EndedJob]:
        """Interrupts the running jobs, as Ctrl-C does, and returns them; none of their processes is left."""
