"""Runs jobs on this machine, each in processes of its own from one fork server, so that no state leaks between jobs.

A job's process gets its validated configuration and has no access to Hydra, the sweep or other jobs. Its output goes to
its train.log. If it dies without reporting a result, this module writes the result to its folder.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from alexnet_exp import logs
from alexnet_exp.atomic import atomic_write
from alexnet_exp.config.composition import Composition
from alexnet_exp.config.schema import Trainer
from alexnet_exp.errors import ExitCode, UserError
from alexnet_exp.processes import signals
from alexnet_exp.processes.cpus import CORES_VARIABLE, cores
from alexnet_exp.processes.signals import defer_signals
from alexnet_exp.runs.folder import PRUNE_FILE, RunFolder
from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.result import record
from alexnet_exp.runs.status import Ending, Status
from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.gpus import VISIBLE_GPUS_VARIABLE, GpuAllocator, GpuShare, visible_gpus
from alexnet_exp.sweep.execute.pool import EndedJob
from alexnet_exp.sweep.plan import env
from alexnet_exp.training.child_task import Work
from alexnet_exp.training.launch import RankGroup, threads, warm

STOP_POLL_SECONDS = 0.5  # how often `close` checks for a second signal

log = logging.getLogger(__name__)


def run_job(composition: Composition, folder: Path) -> Ending:
    """Runs one job, in its own process."""
    # Imported here, because the process that waits for the jobs needs no Lightning, which takes seconds to import.
    from alexnet_exp.training.train import train_rank

    return train_rank(composition, folder)


@dataclass(frozen=True)
class DeviceNeeds:
    """The ranks, GPUs and nodes that a job needs; `gpus` is the argument of `GpuAllocator.acquire`."""

    ranks: int = 1
    gpus: int | tuple[int, ...] = 0
    nodes: int = 1

    @property
    def backend(self) -> str:
        """The torch.distributed backend of its ranks."""
        return "nccl" if self.gpus else "gloo"


@dataclass(frozen=True)
class RunningJob:
    job: Job
    container: dict[str, Any]
    group: RankGroup
    share: GpuShare
    started: float


class LocalPool:
    """Runs `jobs` jobs at once, each with its own GPUs or its share of the CPU threads. See `pool.JobPool`.

    work: what the process of a job executes. The fork server is started at once, and imports torch in the background.
    """

    def __init__(self, jobs: int = 1, work: Work = run_job):
        self.jobs = jobs
        self._work = work
        self._running: list[RunningJob] = []
        self._ended: list[EndedJob] = []
        self.compositions: dict[Path, Composition] = {}
        self._next: dict[Path, tuple[Composition, DeviceNeeds]] = {}  # jobs that `has_room` has read
        self._needs: dict[str, DeviceNeeds] = {}  # by trainer settings, which most jobs share
        self._gpus: GpuAllocator | None = None
        warm()
        # Without it, Python would wait at exit for the jobs of a pool that nobody has closed.
        atexit.register(self.close)

    def has_room(self, job: Job) -> bool:
        """Whether another job may run, and the GPUs that it needs are free."""
        if len(self._running) >= self.jobs:
            return False
        try:
            self._next[job.folder] = _, needs = self._read(job)
        except UserError:  # `start` reports it as the job's ending
            return True
        return self.gpus.has_free(needs.gpus)

    def start(self, job: Job) -> None:
        """Starts a job. An error here becomes its ending, which `wait` returns."""
        started = time.monotonic()
        container: dict[str, Any] = {}
        try:
            composition, needs = self._read(job)
            container = composition.container
            environment = {**os.environ, **env.read_variables(job.folder)}
            with defer_signals():
                self._start(job, composition, needs, environment, started)
        except UserError as error:
            self._finish(job, container, Ending(Status.FAILED, ExitCode.BAD_INPUT, str(error)), started)
        except (OSError, EOFError) as error:
            reason = f"the job's process could not be started: {type(error).__name__}: {error}"
            self._finish(job, container, Ending(Status.FAILED, ExitCode.FAILED, reason), started)

    def _start(
        self, job: Job, composition: Composition, needs: DeviceNeeds, environment: dict[str, str], started: float
    ) -> None:
        if needs.nodes > 1:
            raise UserError(f"trainer.num_nodes={needs.nodes}: needs a cluster; write hydra/launcher=slurm")
        share = self.gpus.acquire(needs.gpus)
        environment[CORES_VARIABLE] = str(max(1, cores() // self.jobs))
        if share.names is not None:
            environment[VISIBLE_GPUS_VARIABLE] = share.names
        try:
            group = RankGroup(
                self._work,
                composition,
                job.folder.absolute(),
                needs.ranks,
                needs.backend,
                environment,
                threads(environment, self.jobs * needs.ranks),
                own_log=True,
            )
        except BaseException:
            self.gpus.release(share)
            raise
        self._running.append(RunningJob(job, composition.container, group, share, started))

    def wait(self, timeout: float) -> list[EndedJob]:
        """Returns the jobs that ended since the last call; waits for one for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            self._collect()
            left = deadline - time.monotonic()
            if self._ended or left <= 0:
                ended, self._ended = self._ended, []
                return ended
            groups = [running.group for running in self._running]
            waits = [left, *(seconds for group in groups if (seconds := group.timeout()) is not None)]
            wait([each for group in groups for each in group.waitables()], min(waits))

    def running(self) -> list[Job]:
        """Returns the jobs that were started and that `wait` has not returned yet."""
        return [running.job for running in self._running] + [ended.job for ended in self._ended]

    def stop(self, job: Job, reason: str) -> None:
        """Asks a running job to end after its epoch with status `pruned`; `wait` returns it when it has ended."""
        with atomic_write(job.folder / PRUNE_FILE) as file:
            file.write(f"{reason}\n".encode())

    def close(self) -> list[EndedJob]:
        """Passes on the signal that stopped this process, and waits until the running jobs have saved and ended.

        Jobs that take longer than `launch.STOP_SECONDS` are killed; after a second signal all are killed at once.
        """
        atexit.unregister(self.close)
        ended: list[EndedJob] = []
        with defer_signals(later=False):
            for running in self._running:
                running.group.interrupt(signals.stop_signal() or signal.SIGTERM)
            while self._running or self._ended:
                if signals.is_stop_repeated():
                    for running in self._running:
                        running.group.give_up()
                ended += self.wait(STOP_POLL_SECONDS)
        return ended

    @property
    def gpus(self) -> GpuAllocator:
        """The GPUs that this process may use, and which of them are free."""
        if self._gpus is None:
            import torch

            # Counted through NVML: CUDA is not initialised in this process.
            self._gpus = GpuAllocator(visible_gpus(os.environ, torch.cuda.device_count()))
        return self._gpus

    def _read(self, job: Job) -> tuple[Composition, DeviceNeeds]:
        """Returns the configuration and the needs of a job; raises UserError if its configuration is invalid."""
        known = self._next.pop(job.folder, None)
        if known is not None:
            return known
        composition = self.compositions.pop(job.folder, None) or Composition.of(job.container())
        settings = repr(composition.config.trainer)
        if settings not in self._needs:
            try:
                self._needs[settings] = device_needs(composition.config.trainer)
            except UserError:
                self._needs[settings] = DeviceNeeds()  # the job itself reports what is missing
        return composition, self._needs[settings]

    def _collect(self) -> None:
        """Removes the jobs that have ended from the running ones."""
        for running in list(self._running):
            with defer_signals():
                ending = running.group.poll()
                if ending is not None:
                    self._running.remove(running)
                    self.gpus.release(running.share)
                    self._finish(running.job, running.container, ending, running.started, running.group)

    def _finish(
        self, job: Job, container: dict[str, Any], ending: Ending, started: float, group: RankGroup | None = None
    ) -> None:
        """Writes the ending of a job to its folder, unless it is there, and keeps it for `wait`."""
        if not ending.recorded:
            try:
                ending = _write_ending(job.folder, container, ending, group)
            except (UserError, OSError) as error:  # a living process holds the folder, or the disk is full
                log.warning(f"{job.folder.name}: its ending could not be written to result.json: {error}")
        self._ended.append(EndedJob(job, ending, time.monotonic() - started))


def device_needs(trainer: Trainer) -> DeviceNeeds:
    """Returns what a job needs; raises UserError if this machine does not have it."""
    from alexnet_exp.training.devices import device_count, select_devices

    accelerator, devices, _ = select_devices(trainer)
    if accelerator != "cuda":
        return DeviceNeeds(device_count(devices), nodes=trainer.num_nodes)
    positions = trainer.gpus if isinstance(trainer.gpus, list) else trainer.devices
    gpus = tuple(positions) if isinstance(positions, list) else device_count(devices)
    return DeviceNeeds(device_count(devices), gpus, trainer.num_nodes)


def _write_ending(folder: Path, container: dict[str, Any], ending: Ending, group: RankGroup | None) -> Ending:
    """Writes the ending to result.json, and returns it. Raises UserError while another process holds the folder."""
    run = RunFolder(folder)
    rejected = ending.status == Status.REFUSED
    if rejected:  # so that the table of the sweep has it
        ending = replace(ending, status=Status.FAILED)
    with run.lock():
        result = _recorded_success(run, group.pid) if group and group.unreported else None
        if result:
            return result
        if ending.code != ExitCode.OK and not rejected:  # the job itself has logged a rejection
            logs.append_line(folder, "ERROR", f"{ending.status}: {ending.reason}")
        return record(run, container, ending)


def _recorded_success(run: RunFolder, pid: int) -> Ending | None:
    """Returns the ending of process `pid` from result.json if it succeeded before it died; otherwise None."""
    if not run.result.exists():
        return None
    result = read_result(run.path)
    if result.get("pid") != pid or result["status"] not in (Status.DONE, Status.PRUNED):
        return None
    return Ending(result["status"], ExitCode.OK, result.get("error", ""), recorded=True)
