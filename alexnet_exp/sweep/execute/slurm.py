"""Submits the jobs of a sweep to SLURM, through submitit, and follows them in the queue.

    <sweep>/slurm/    the submission scripts, and what SLURM and the processes print before a job's train.log begins;
                      <job id>.stop keeps a job from requeueing itself

Jobs that need the same resources are one array. A job's lock is handed over to its SLURM job, so that the sweep's
command may end: the same command, or a worker, reads in the lock which SLURM job has it, and does not start it again.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_exp.config.composition import Composition
from alexnet_exp.config.schema import COLUMNS
from alexnet_exp.errors import ExitCode, Problem, Refused, UserError, missing_package
from alexnet_exp.processes import signals
from alexnet_exp.processes.signals import defer_signals
from alexnet_exp.runs.folder import PRUNE_FILE, RunFolder
from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.result import record
from alexnet_exp.runs.status import Ending, Status, ending_of
from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.job_lock import SLURM_PREFIX, JobLocks
from alexnet_exp.sweep.execute.pool import EndedJob
from alexnet_exp.sweep.execute.scheduler import SUCCEEDED, read_status
from alexnet_exp.sweep.execute.slurm_job import QUEUE_POLL_SECONDS, SLURM_FOLDER, run_slurm_job, stop_file
from alexnet_exp.sweep.execute.slurm_queue import FINAL_STATES, FORGOTTEN_STATE, SlurmQueue
from alexnet_exp.sweep.execute.slurm_settings import SlurmSettings

MAX_ARRAY_SIZE = 1000  # SLURM's default limit
# For a job to save and end after a signal; SLURM sends its warning this long before the time limit.
SAVE_SECONDS = 120
# For a shared file system to show what a job on another machine wrote last.
FILE_SYSTEM_DELAY_SECONDS = 30.0
# SLURM itself ended the job in these states: the job is interrupted, not failed.
INTERRUPTED_STATES = {"CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"}
# Lines with these prefixes are SLURM's own, printed after a process has ended: they are not the cause.
SLURM_LINE_PREFIXES = ("srun:", "slurmstepd")
# Variables of a SLURM job that this process may be part of; sbatch and srun would read them as options.
JOB_VARIABLE_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
CONFIG_FILE_VARIABLE = "SLURM_CONF"


@dataclass(frozen=True)
class SlurmResources:
    """What one job asks SLURM for."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int | None


def resources_of(trainer: Mapping[str, Any], settings: SlurmSettings) -> SlurmResources:
    """Returns what a job with this `trainer` needs; raises `Refused` if the settings contradict the trainer."""
    tasks, gpus = _devices(trainer, settings.gpus_per_node)
    nodes = int(trainer.get("num_nodes") or 1)
    problems = []
    for key, needed, reason in (
        ("tasks_per_node", tasks, "a task is a device, and the trainer asks for"),
        ("nodes", nodes, "trainer.num_nodes is"),
        ("gpus_per_node", gpus, "the trainer asks for"),
    ):
        value = getattr(settings, key)
        if value is not None and needed is not None and value != needed:
            instead = f"{reason} {needed}; write {needed}, or null to follow the trainer"
            problems.append(Problem(f"hydra.launcher.{key}", value, instead))
    if problems:
        raise Refused(problems)
    return SlurmResources(nodes, tasks, settings.gpus_per_node if gpus is None else gpus)


def _devices(trainer: Mapping[str, Any], gpus_per_node: int | None) -> tuple[int, int | None]:
    """Returns the ranks and the GPUs of each node; None for GPUs if the trainer takes what the node has."""
    key = "gpus" if trainer.get("gpus") is not None else "devices"
    devices, accelerator = trainer.get(key), trainer.get("accelerator")
    if trainer.get("strategy") == COLUMNS and devices in (None, 0):  # two columns, as in training/devices.py
        if devices == 0:
            return 2, 0
        devices = 2
    if isinstance(devices, list):
        count = len(devices)
        if devices != list(range(count)):
            instead = f"SLURM selects the devices; write their number, {count}"
            raise Refused([Problem(f"trainer.{key}", devices, instead)])
    elif devices in (-1, "auto"):
        if accelerator == "cpu":
            return 1, None
        if not gpus_per_node:
            instead = "the number of GPUs is not known; write a number, or set hydra.launcher.gpus_per_node"
            raise Refused([Problem(f"trainer.{key}", devices, instead)])
        count = gpus_per_node
    else:
        count = 1 if devices is None else int(devices)
    if key == "gpus":
        return max(1, count), count
    if accelerator in ("cpu", None, "auto", "mps"):
        return count, None
    return count, count


def check_resources(trainers: Iterable[Mapping[str, Any]], settings: SlurmSettings) -> None:
    """Raises `Refused` with every problem of `resources_of` for any of the trainers, each once."""
    problems: dict[str, Problem] = {}
    for trainer in trainers:
        try:
            resources_of(trainer, settings)
        except Refused as refused:
            problems |= {str(problem): problem for problem in refused.problems}
    if problems:
        raise Refused(problems.values())


class SlurmPool:
    """Submits jobs and follows the queue until they have ended; see `pool.JobPool`.

    Without `settings.wait` it follows nothing: a submitted job belongs to the queue, and no longer to this pool.
    """

    def __init__(self, folder: Path, settings: SlurmSettings, name: str = "sweep"):
        self.folder, self.settings, self.name = folder, settings, name
        self.compositions: dict[Path, Composition] = {}
        self.submitted: dict[Path, str] = {}  # SLURM's job ids, also of jobs that have ended
        self._queue = SlurmQueue()
        self._locks = JobLocks(folder)
        self._new: list[Job] = []
        self._running: list[SubmittedJob] = []
        require_slurm()

    def has_room(self, job: Job) -> bool:
        """Returns True: jobs wait in the queue."""
        return True

    def start(self, job: Job) -> None:
        """Adds the job to those that the next call of `wait` submits together."""
        self._new.append(job)

    def running(self) -> list[Job]:
        return [*self._new, *(each.job for each in self._running)]

    def wait(self, timeout: float) -> list[EndedJob]:
        """Raises UserError if sbatch rejects a job."""
        self._submit()
        deadline = time.monotonic() + timeout
        while True:
            ended = self._collect_ended()
            left = deadline - time.monotonic()
            if ended or left <= 0 or not self._running:
                return ended
            time.sleep(min(QUEUE_POLL_SECONDS, left))

    def stop(self, job: Job, reason: str) -> None:
        (job.folder / PRUNE_FILE).write_text(reason + "\n", encoding="utf-8")

    def close(self) -> list[EndedJob]:
        """Passes on the signal that stopped this process, and waits until the running jobs have saved and ended.

        Jobs that wait in the queue are cancelled and stay pending. Jobs that take longer than `SAVE_SECONDS` are
        cancelled too; after a second signal all are cancelled at once.
        """
        ended = [EndedJob(job, _interrupted("before it was submitted"), 0.0) for job in self._new]
        self._new = []
        if not self._running:
            return ended
        with defer_signals(later=False):
            for each in self._running:
                stop_file(self.folder, each.job_id).touch()
            # Never SIGUSR2, which the jobs take for SLURM's warning before their time limit.
            received = {signal.SIGINT, signal.SIGUSR1} & {signals.stop_signal()}
            name = (received.pop() if received else signal.SIGTERM).name.removeprefix("SIG")
            job_ids = [each.job_id for each in self._running]
            _scancel("--state=PENDING", *job_ids)
            _scancel(f"--signal={name}", *job_ids)
            deadline = time.monotonic() + SAVE_SECONDS
            while self._running and time.monotonic() < deadline and not signals.is_stop_repeated():
                ended += self._collect_ended(cancelled_here=True)
                time.sleep(QUEUE_POLL_SECONDS)
            if self._running:  # SLURM ends them later
                _scancel(*(each.job_id for each in self._running))
        for each in self._running:
            ended.append(EndedJob(each.job, _interrupted("cancelled"), each.seconds()))
        self._running = []
        return ended

    def _submit(self) -> None:
        groups: dict[SlurmResources, list[Job]] = {}
        for job in self._new:
            known = self.compositions.pop(job.folder, None)
            trainer = vars(known.config.trainer) if known else job.container()["trainer"]
            groups.setdefault(resources_of(trainer, self.settings), []).append(job)
        for resources, jobs in groups.items():
            for first in range(0, len(jobs), MAX_ARRAY_SIZE):
                self._submit_array(resources, jobs[first : first + MAX_ARRAY_SIZE])

    def _submit_array(self, resources: SlurmResources, jobs: list[Job]) -> None:
        job_ids = submit(self.folder, resources, self.settings, self.name, [job.folder for job in jobs])
        for job, job_id in zip(jobs, job_ids, strict=True):
            self._new.remove(job)
            self.submitted[job.folder] = job_id
            lock = self._locks.own_lock(job)
            if lock is not None:
                lock.hand_over(f"{SLURM_PREFIX}{job_id}", detach=not self.settings.wait)
            if self.settings.wait:
                self._running.append(SubmittedJob(job, job_id))

    def _collect_ended(self, cancelled_here: bool = False) -> list[EndedJob]:
        ended = []
        for each in list(self._running):
            state = self._queue.state(each.job_id)
            if state is None or (state not in FINAL_STATES and state != FORGOTTEN_STATE):
                continue
            ending = each.ending(state, self.folder / SLURM_FOLDER, cancelled_here)
            if ending is not None:
                self._queue.unwatch(each.job_id)
                self._running.remove(each)
                ended.append(EndedJob(each.job, ending, each.seconds()))
        return ended


@dataclass
class SubmittedJob:
    """A job of the sweep in SLURM's queue, under `job_id`."""

    job: Job
    job_id: str
    submitted_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None  # when the queue first reported a final state

    def seconds(self) -> float:
        """Returns the seconds since the submission."""
        return time.monotonic() - self.submitted_at

    def ending(self, state: str, output_folder: Path, cancelled_here: bool) -> Ending | None:
        """Returns the ending of a job in a final state, and writes it to result.json if the job could not.

        Returns None if the folder does not show the ending yet.
        """
        self.ended_at = self.ended_at or time.monotonic()
        status = read_status(self.job.folder)
        is_stale = status == Status.RUNNING or (status == Status.PENDING and state == "COMPLETED")
        if is_stale and time.monotonic() < self.ended_at + FILE_SYSTEM_DELAY_SECONDS:
            return None  # a file system shared by several machines shows changes with a delay
        if status not in (Status.PENDING, Status.DIED, Status.RUNNING):
            result = read_result(self.job.folder)
            code = (
                ExitCode.OK
                if status in SUCCEEDED
                else ExitCode.TERMINATED
                if status == Status.INTERRUPTED
                else ExitCode.FAILED
            )
            return Ending(Status(status), code, result.get("error", ""), recorded=True)
        if status == Status.PENDING and cancelled_here:
            return _interrupted("cancelled while it waited in the queue")
        ending = self._ending_from_state(status, state, output_folder)
        if status != Status.RUNNING:
            ending = record(RunFolder(self.job.folder), self.job.container(), ending)
        return ending

    def _ending_from_state(self, status: str, state: str, output_folder: Path) -> Ending:
        """Returns the ending of a job that ended without writing one itself."""
        # The controller keeps nothing of an array's job that was cancelled while it waited.
        if status == Status.PENDING and state in ("CANCELLED", FORGOTTEN_STATE):
            return Ending(Status.FAILED, ExitCode.FAILED, f"SLURM job {self.job_id} was cancelled before it started")
        reason = f"SLURM job {self.job_id} ended in state {state}"
        if state in INTERRUPTED_STATES and status != Status.PENDING:
            return Ending(Status.INTERRUPTED, ExitCode.TERMINATED, reason)
        file = output_folder / f"{self.job_id}_0_log.err"
        last = _last_line(file)
        return Ending(Status.FAILED, ExitCode.FAILED, f"{reason}: {last}" if last else f"{reason}; see {file}")


def _interrupted(reason: str) -> Ending:
    return Ending(Status.INTERRUPTED, ending_of(signals.stop_error()).code, reason)


def _scancel(*arguments: str) -> None:
    subprocess.run(["scancel", *arguments], capture_output=True, check=False)


def _last_line(file: Path) -> str:
    """Returns the last line that a process printed, such as its exception; empty if the file has none."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    own_lines = (line.strip() for line in reversed(lines) if not line.startswith(SLURM_LINE_PREFIXES))
    return next(filter(None, own_lines), "")


def require_slurm() -> None:
    """Raises UserError if submitit, or SLURM itself, is not installed."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(f"hydra/launcher=slurm: {missing_package('submitit', 'slurm')}") from None
    import shutil

    if shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=slurm: sbatch is not installed here; run the command on a SLURM login node")


def submit(
    sweep: Path, resources: SlurmResources, settings: SlurmSettings, name: str, folders: list[Path]
) -> list[str]:
    """Submits a job for each folder, several as one array; returns their SLURM job ids.

    Raises UserError with sbatch's message if it rejects them.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(folder=(sweep / SLURM_FOLDER).resolve())
    executor.update_parameters(
        job_name=name,
        time=settings.timeout_min,
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        cpus_per_task=settings.cpus_per_task,
        gpus_per_node=resources.gpus_per_node or None,
        mem=None if settings.mem_gb is None else f"{round(settings.mem_gb * 1024)}M",
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        array_parallelism=settings.jobs or MAX_ARRAY_SIZE,
        setup=list(settings.setup),
        # When a rank fails, SLURM ends the other ranks, which would wait for it.
        srun_args=["--kill-on-bad-exit=1"],
        # Under a time limit of less than 4 minutes, the warning comes at half the time.
        signal_delay_s=min(SAVE_SECONDS, 30 * settings.timeout_min) if settings.timeout_min else SAVE_SECONDS,
        wckey=None,
        additional_parameters={"requeue": True, **settings.additional_parameters},
    )
    printed = io.StringIO()  # submitit repeats sbatch's message, which the error below has
    try:
        with _without_job_variables(), contextlib.redirect_stderr(printed):
            jobs = executor.map_array(run_slurm_job, [str(folder.resolve()) for folder in folders])
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"sbatch: {'; '.join(str(error).split(chr(10)))}") from None
    return [str(job.job_id) for job in jobs]


@contextlib.contextmanager
def _without_job_variables() -> Iterator[None]:
    """Within it, the environment is that of no SLURM job."""
    hidden = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(JOB_VARIABLE_PREFIXES) and key != CONFIG_FILE_VARIABLE
    }
    for key in hidden:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(hidden)
