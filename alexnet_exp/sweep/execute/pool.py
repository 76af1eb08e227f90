"""Where the jobs of a sweep run: what the loop over jobs needs of a place, be it this machine or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from alexnet_exp.runs.status import Ending
from alexnet_exp.runs.sweep_plan import Job


@dataclass(frozen=True)
class Ended:
    """A job that has ended. Its result.json says so too, also where its process was killed."""

    job: Job
    ending: Ending
    seconds: float


class Pool(Protocol):
    """Starts jobs and tells which have ended. Used by one thread."""

    def has_room(self, job: Job) -> bool:
        """Whether `job` could start now, with the devices it asks for."""

    def start(self, job: Job) -> None:
        """Starts it; returns at once. Its folder has `.hydra/`, and the caller has claimed it."""

    def wait(self, timeout: float) -> list[Ended]:
        """Those that ended since the last call; sleeps until one does, for at most `timeout` seconds."""

    def running(self) -> list[Job]:
        """Started and not yet told as ended."""

    def stop(self, job: Job, reason: str) -> None:
        """Asks a running job to end after its epoch, with status `pruned`; `wait` tells when it has."""

    def close(self) -> list[Ended]:
        """Interrupts what runs, as Ctrl-C does; no process of it is left. Returns how they ended."""
