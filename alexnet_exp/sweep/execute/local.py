"""The pool on this machine: every job in processes of its own, from the one fork server, so that nothing leaks.

A job's process gets its validated configuration and knows nothing of Hydra, of the sweep or of other jobs. What it
prints goes to its own train.log. Should it die without a word, its folder is told here.
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
from alexnet_exp.training.launch import Group, Work, threads, warm

LOOK = 0.5  # seconds between two looks at whether a second signal has come

log = logging.getLogger(__name__)


def run_job(composition: Composition, folder: Path) -> Ending:
    """One job, in its own process."""
    # imported here, or the process that only waits for its jobs would spend seconds on Lightning
    from alexnet_exp.training.train import train_rank

    return train_rank(composition, folder)


@dataclass(frozen=True)
class Need:
    """What a job asks of a machine: processes, and for each a GPU; `gpus` as `GpuAllocator.acquire` has it."""

    ranks: int = 1
    gpus: int | tuple[int, ...] = 0
    nodes: int = 1

    @property
    def backend(self) -> str:
        """By which its processes talk to each other."""
        return "nccl" if self.gpus else "gloo"


@dataclass(frozen=True)
class _Running:
    job: Job
    container: dict[str, Any]
    group: Group
    share: GpuShare
    started: float


class LocalPool:
    """`jobs` at once, each with GPUs of its own or its share of the CPU's threads. See `pool.JobPool`.

    work: what a job's process does. Starts the fork server at once, which imports torch while this process plans.
    """

    def __init__(self, jobs: int = 1, work: Work = run_job):
        self.jobs = jobs
        self._work = work
        self._running: list[_Running] = []
        self._ended: list[EndedJob] = []
        self.compositions: dict[Path, Composition] = {}
        self._asked: dict[Path, tuple[Composition, Need]] = {}  # of jobs that are to be started next
        self._needs: dict[str, Need] = {}  # by the settings that they follow from, which most jobs share
        self._gpus: GpuAllocator | None = None
        warm()
        # or Python would wait for the jobs at its own end, if nobody has closed the pool
        atexit.register(self.close)

    def has_room(self, job: Job) -> bool:
        """Whether a process more is allowed, and the GPUs that the job asks for are free."""
        if len(self._running) >= self.jobs:
            return False
        try:
            self._asked[job.folder] = asked = self._look_at(job)
        except UserError:  # the job will say what is wrong with it
            return True
        return self.gpus.has_free(asked[1].gpus)

    def start(self, job: Job) -> None:
        """Starts it, where there is room. What goes wrong with it here is its ending, which `wait` tells."""
        begun = time.monotonic()
        container: dict[str, Any] = {}
        try:
            composition, need = self._look_at(job)
            container = composition.container
            environment = {**os.environ, **env.read_variables(job.folder)}
            with defer_signals():
                self._start(job, composition, need, environment, begun)
        except UserError as error:
            self._settle(job, container, Ending(Status.FAILED, ExitCode.BAD_INPUT, str(error)), begun)
        except (OSError, EOFError) as error:
            reason = f"no process could be started: {type(error).__name__}: {error}"
            self._settle(job, container, Ending(Status.FAILED, ExitCode.FAILED, reason), begun)

    def _start(self, job: Job, composition: Composition, need: Need, environment: dict[str, str], begun: float) -> None:
        if need.nodes > 1:
            raise UserError(f"trainer.num_nodes={need.nodes}: needs a cluster; write hydra/launcher=slurm")
        share = self.gpus.acquire(need.gpus)
        environment[CORES_VARIABLE] = str(max(1, cores() // self.jobs))
        if share.names is not None:
            environment[VISIBLE_GPUS_VARIABLE] = share.names
        try:
            group = Group(
                self._work,
                composition,
                job.folder.absolute(),
                need.ranks,
                need.backend,
                environment,
                threads(environment, self.jobs * need.ranks),
                own_log=True,
            )
        except BaseException:
            self.gpus.release(share)
            raise
        self._running.append(_Running(job, composition.container, group, share, begun))

    def wait(self, timeout: float) -> list[EndedJob]:
        """Those that ended since the last call; sleeps until one does, for at most `timeout` seconds."""
        until = time.monotonic() + timeout
        while True:
            self._collect()
            left = until - time.monotonic()
            if self._ended or left <= 0:
                ended, self._ended = self._ended, []
                return ended
            groups = [running.group for running in self._running]
            waits = [left, *(seconds for group in groups if (seconds := group.timeout()) is not None)]
            wait([each for group in groups for each in group.waitables()], min(waits))

    def running(self) -> list[Job]:
        """Started and not yet told as ended."""
        return [running.job for running in self._running] + [ended.job for ended in self._ended]

    def stop(self, job: Job, reason: str) -> None:
        """Asks a running job to end after its epoch, with status `pruned`; `wait` tells when it has."""
        with atomic_write(job.folder / PRUNE_FILE) as file:
            file.write(f"{reason}\n".encode())

    def close(self) -> list[EndedJob]:
        """Passes on the signal that asked this process to stop, and waits until what runs has saved and said so.

        What takes longer than `launch.GRACE` is killed, and all at once when this process is asked a second time.
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
                ended += self.wait(LOOK)
        return ended

    @property
    def gpus(self) -> GpuAllocator:
        """The GPUs of this machine that this process may use, and which of them are free."""
        if self._gpus is None:
            import torch

            # counted through NVML: CUDA is not initialised in this process
            self._gpus = GpuAllocator(visible_gpus(os.environ, torch.cuda.device_count()))
        return self._gpus

    def _look_at(self, job: Job) -> tuple[Composition, Need]:
        """A job's configuration and what it asks for; raises UserError where it has none that is valid."""
        asked = self._asked.pop(job.folder, None)
        if asked is not None:
            return asked
        composition = self.compositions.pop(job.folder, None) or Composition.of(job.container())
        settings = repr(composition.config.trainer)
        if settings not in self._needs:
            try:
                self._needs[settings] = need_of(composition.config.trainer)
            except UserError:
                self._needs[settings] = Need()  # the job will say what is wrong with it
        return composition, self._needs[settings]

    def _collect(self) -> None:
        """Takes those that have ended out of the running ones."""
        for running in list(self._running):
            with defer_signals():
                ending = running.group.poll()
                if ending is not None:
                    self._running.remove(running)
                    self.gpus.release(running.share)
                    self._settle(running.job, running.container, ending, running.started, running.group)

    def _settle(
        self, job: Job, container: dict[str, Any], ending: Ending, started: float, group: Group | None = None
    ) -> None:
        """Sees to it that the folder says how the job ended, and keeps it for `wait`."""
        if not ending.recorded:
            try:
                ending = _recorded(job.folder, container, ending, group)
            except (UserError, OSError) as error:  # held by a process that is alive, or a disk that is full
                log.warning(f"{job.folder.name}: how it ended could not be recorded: {error}")
        self._ended.append(EndedJob(job, ending, time.monotonic() - started))


def need_of(trainer: Trainer) -> Need:
    """What a job asks for; raises UserError where this machine has not got it."""
    from alexnet_exp.training.devices import device_count, select_devices

    accelerator, devices, _ = select_devices(trainer)
    if accelerator != "cuda":
        return Need(device_count(devices), nodes=trainer.num_nodes)
    named = trainer.gpus if isinstance(trainer.gpus, list) else trainer.devices
    gpus = tuple(named) if isinstance(named, list) else device_count(devices)
    return Need(device_count(devices), gpus, trainer.num_nodes)


def _recorded(folder: Path, container: dict[str, Any], ending: Ending, group: Group | None) -> Ending:
    """The ending, with result.json saying it. Raises UserError while another process holds the folder."""
    run = RunFolder(folder)
    refused = ending.status == Status.REFUSED
    if refused:  # a sweep's table is to show it
        ending = replace(ending, status=Status.FAILED)
    with run.lock():
        last_words = _last_words(run, group.pid) if group and group.wordless else None
        if last_words:
            return last_words
        if ending.code != ExitCode.OK and not refused:  # that it has said itself
            logs.append_line(folder, "ERROR", f"{ending.status}: {ending.reason}")
        return record(run, container, ending)


def _last_words(run: RunFolder, pid: int) -> Ending | None:
    """The good ending that process `pid` wrote into result.json before it could tell no more; None if it did not."""
    if not run.result.exists():
        return None
    result = read_result(run.path)
    if result.get("pid") != pid or result["status"] not in (Status.DONE, Status.PRUNED):
        return None
    return Ending(result["status"], ExitCode.OK, result.get("error", ""), recorded=True)
