"""Provides a pool that writes results without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alexnet_exp.config.composition import Composition
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.status import Ending
from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.pool import EndedJob


class FakePool:
    """Runs `size` jobs at once; each ends at the next `wait` with its status in `endings`, default done."""

    def __init__(self, size: int = 1, endings: dict[int, str] | None = None, on_wait: Callable[[], None] | None = None):
        self.size, self.endings, self.on_wait = size, endings or {}, on_wait
        self.compositions: dict[Path, Composition] = {}
        self.started: list[int] = []
        self.most = 0
        self._running: list[Job] = []
        self.closed = False

    def has_room(self, job: Job) -> bool:
        return len(self._running) < self.size

    def start(self, job: Job) -> None:
        assert self.has_room(job)
        RunFolder(job.folder).begin({"seed": job.number}, {})
        self.started.append(job.number)
        self._running.append(job)
        self.most = max(self.most, len(self._running))

    def wait(self, timeout: float) -> list[EndedJob]:
        if self.on_wait is not None:
            self.on_wait()
        return [self._end(self._running[0], self.endings.get(self._running[0].number, "done"))]

    def running(self) -> list[Job]:
        return list(self._running)

    def stop(self, job: Job, reason: str) -> None:
        raise NotImplementedError

    def close(self) -> list[EndedJob]:
        self.closed = True
        return [self._end(job, "interrupted") for job in self.running()]

    def _end(self, job: Job, status: str) -> EndedJob:
        self._running.remove(job)
        facts = {"error": "ValueError: boom"} if status == "failed" else {}
        RunFolder(job.folder).finish(status, metrics={"val/top1": job.number / 10, "train/loss": 1.0}, **facts)
        return EndedJob(job, Ending(status, int(status != "done")), 1.0)
