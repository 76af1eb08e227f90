"""The jobs of a sweep on a SLURM cluster, through submitit; and what such a job does when its turn has come.

    <sweep>/slurm/    what was submitted, and what SLURM and the processes printed before a job's own train.log began;
                      <number>.stop tells a job that is being stopped for good

A job whose time is up, or that is to make room for another, saves, has itself put into the queue again, unless SLURM
does that anyway, and exits with REQUEUE; it then goes on in its folder.

Jobs that ask for the same are one array. A job's claim is handed over to the queue, so that the sweep can be left
alone: the same command, or a worker, sees in the claim which of SLURM's jobs it is and does not start it again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_exp import logs
from alexnet_exp.config.schema import COLUMNS
from alexnet_exp.errors import ExitCode, Problem, Refused, UserError, missing_package
from alexnet_exp.processes import signals
from alexnet_exp.processes.ranks import rank
from alexnet_exp.processes.signals import STOP_SIGNALS, defer_signals, stop_on_signals
from alexnet_exp.runs.folder import PRUNE_FILE, RunFolder
from alexnet_exp.runs.reader import read_config, read_result
from alexnet_exp.runs.result import record
from alexnet_exp.runs.status import Ending, Status, ending_of
from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.job_lock import SLURM, Claim, Claims
from alexnet_exp.sweep.execute.pool import Ended
from alexnet_exp.sweep.execute.scheduler import WELL, make_ready, status_of
from alexnet_exp.sweep.execute.slurm_queue import ENDED, FORGOTTEN, Queue, own_id, own_restarts, states
from alexnet_exp.sweep.execute.slurm_settings import SlurmSettings
from alexnet_exp.sweep.plan import env

FOLDER = "slurm"
LARGEST_ARRAY = 1000  # SLURM's own limit, unless a cluster has set another
# Seconds between two looks at the queue; for jobs to save and end, when asked, and that SLURM warns them before their
# time is up; for a folder to show what its job wrote last.
LOOK = 0.5
GRACE = 120
SETTLE = 30.0
# Seconds for whoever submitted a job to hand its claim over; for rank 0 to make the folder ready for the others.
HANDING_OVER = 60.0
GETTING_READY = 300.0
# What makes SLURM cut a job short, whatever it was doing: it is worth another try.
CUT_OFF = {"CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"}
# How lines begin with which SLURM tells what it did because a process ended.
NOT_THE_CAUSE = ("srun:", "slurmstepd")
# Variables of a job that this process may be part of, by which the jobs it submits would be misled.
INHERITED = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
KEPT = "SLURM_CONF"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """What one job asks SLURM for."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int | None


def resources(trainer: Mapping[str, Any], settings: SlurmSettings) -> Resources:
    """What a job with this `trainer` needs. Raises `Refused` where the settings say another number than the trainer."""
    tasks, gpus = _devices(trainer, settings.gpus_per_node)
    nodes = int(trainer.get("num_nodes") or 1)
    problems = []
    for key, needed, why in (
        ("tasks_per_node", tasks, "a task is a rank, and the trainer asks for"),
        ("nodes", nodes, "trainer.num_nodes is"),
        ("gpus_per_node", gpus, "the trainer asks for"),
    ):
        said = getattr(settings, key)
        if said is not None and needed is not None and said != needed:
            problems.append(Problem(f"hydra.launcher.{key}", said, f"{why} {needed}; write null, which follows it"))
    if problems:
        raise Refused(problems)
    return Resources(nodes, tasks, settings.gpus_per_node if gpus is None else gpus)


def _devices(trainer: Mapping[str, Any], gpus_per_node: int | None) -> tuple[int, int | None]:
    """Ranks and GPUs on each node; None where the trainer takes what there is."""
    key = "gpus" if trainer.get("gpus") is not None else "devices"
    asked, accelerator = trainer.get(key), trainer.get("accelerator")
    if trainer.get("strategy") == COLUMNS and asked in (None, 0):  # two columns, as `devices` takes it
        if asked == 0:
            return 2, 0
        asked = 2
    if isinstance(asked, list):
        count = len(asked)
        if asked != list(range(count)):
            raise Refused([Problem(f"trainer.{key}", asked, f"SLURM chooses the devices; write their number, {count}")])
    elif asked in (-1, "auto"):
        if accelerator == "cpu":
            return 1, None
        if not gpus_per_node:
            raise Refused([Problem(f"trainer.{key}", asked, "say how many, or set hydra.launcher.gpus_per_node")])
        count = gpus_per_node
    else:
        count = 1 if asked is None else int(asked)
    if key == "gpus":
        return max(1, count), count
    if accelerator in ("cpu", None, "auto", "mps"):
        return count, None
    return count, count


def check(trainers: Iterable[Mapping[str, Any]], settings: SlurmSettings) -> None:
    """Raises `Refused` with all that keeps any of these trainers from being asked for, once."""
    problems: dict[str, Problem] = {}
    for trainer in trainers:
        try:
            resources(trainer, settings)
        except Refused as refused:
            problems |= {str(problem): problem for problem in refused.problems}
    if problems:
        raise Refused(problems.values())


class SlurmPool:
    """Submits jobs, and watches the queue until they have ended; see `pool.Pool`.

    Without `settings.wait` nothing is watched: a submitted job is the queue's, and no more of this pool's.
    """

    def __init__(self, folder: Path, settings: SlurmSettings, name: str = "sweep"):
        self.folder, self.settings, self.name = folder, settings, name
        self.submitted: dict[Path, str] = {}  # SLURM's numbers, also of those that have ended
        self._queue = Queue()
        self._claims = Claims(folder)
        self._new: list[Job] = []
        self._running: list[_Submitted] = []
        need_submitit()

    def has_room(self, job: Job) -> bool:
        """Always: the queue is the place to wait in."""
        return True

    def start(self, job: Job) -> None:
        """Submits it, with those that were started since, when `wait` is called."""
        self._new.append(job)

    def running(self) -> list[Job]:
        return [*self._new, *(each.job for each in self._running)]

    def wait(self, timeout: float) -> list[Ended]:
        """Raises UserError where sbatch refuses a job."""
        self._submit()
        deadline = time.monotonic() + timeout
        while True:
            ended = self._ended()
            left = deadline - time.monotonic()
            if ended or left <= 0 or not self._running:
                return ended
            time.sleep(min(LOOK, left))

    def stop(self, job: Job, reason: str) -> None:
        (job.folder / PRUNE_FILE).write_text(reason + "\n", encoding="utf-8")

    def close(self) -> list[Ended]:
        """Passes on the signal that asked this process to stop, and waits until what runs has saved and said so.

        What was waiting in the queue is cancelled, and stays open; so is what takes longer than `GRACE`, and all at
        once when this process is asked a second time.
        """
        ended = [Ended(job, _interrupted("before it was submitted"), 0.0) for job in self._new]
        self._new = []
        if not self._running:
            return ended
        with defer_signals(later=False):
            for each in self._running:
                _stop_file(self.folder, each.number).touch()
            # not SIGUSR2, which the jobs take for SLURM's notice of their time limit
            passed = {signal.SIGINT, signal.SIGUSR1} & {signals.stop_signal()}
            name = (passed.pop() if passed else signal.SIGTERM).name.removeprefix("SIG")
            numbers = [each.number for each in self._running]
            _scancel("--state=PENDING", *numbers)
            _scancel(f"--signal={name}", *numbers)
            deadline = time.monotonic() + GRACE
            while self._running and time.monotonic() < deadline and not signals.is_stop_repeated():
                ended += self._ended(cancelled_here=True)
                time.sleep(LOOK)
            if self._running:  # SLURM will end them; it does not say when
                _scancel(*(each.number for each in self._running))
        for each in self._running:
            ended.append(Ended(each.job, _interrupted("cancelled"), each.seconds()))
        self._running = []
        return ended

    def _submit(self) -> None:
        groups: dict[Resources, list[Job]] = {}
        for job in self._new:
            groups.setdefault(resources(job.container()["trainer"], self.settings), []).append(job)
        for asked, jobs in groups.items():
            for first in range(0, len(jobs), LARGEST_ARRAY):
                self._submit_array(asked, jobs[first : first + LARGEST_ARRAY])

    def _submit_array(self, asked: Resources, jobs: list[Job]) -> None:
        numbers = submit(self.folder, asked, self.settings, self.name, [job.folder for job in jobs])
        for job, number in zip(jobs, numbers, strict=True):
            self._new.remove(job)
            self.submitted[job.folder] = number
            claim = self._claims.mine(job)
            if claim is not None:
                claim.hand_over(f"{SLURM}{number}", let_go=not self.settings.wait)
            if self.settings.wait:
                self._running.append(_Submitted(job, number))

    def _ended(self, cancelled_here: bool = False) -> list[Ended]:
        found = []
        for each in list(self._running):
            state = self._queue.state(each.number)
            if state is None or (state not in ENDED and state != FORGOTTEN):
                continue
            ending = each.ending(state, self.folder / FOLDER, cancelled_here)
            if ending is not None:
                self._queue.forget(each.number)
                self._running.remove(each)
                found.append(Ended(each.job, ending, each.seconds()))
        return found


@dataclass
class _Submitted:
    job: Job
    number: str
    since: float = field(default_factory=time.monotonic)
    over: float | None = None  # when the queue first said that it has ended

    def seconds(self) -> float:
        """From the submission."""
        return time.monotonic() - self.since

    def ending(self, state: str, printed: Path, cancelled_here: bool) -> Ending | None:
        """How a job that the queue calls ended has ended, also into its result.json; None: its folder does not say."""
        self.over = self.over or time.monotonic()
        status = status_of(self.job.folder)
        unsettled = status == Status.RUNNING or (status == Status.PENDING and state == "COMPLETED")
        if unsettled and time.monotonic() < self.over + SETTLE:
            return None  # a file system that several machines share tells with a delay
        if status not in (Status.PENDING, Status.DIED, Status.RUNNING):
            result = read_result(self.job.folder)
            code = (
                ExitCode.OK
                if status in WELL
                else ExitCode.TERMINATED
                if status == Status.INTERRUPTED
                else ExitCode.FAILED
            )
            return Ending(Status(status), code, result.get("error", ""), recorded=True)
        if status == Status.PENDING and cancelled_here:
            return _interrupted("cancelled while it waited in the queue")
        ending = self._unsaid(status, state, printed)
        if status != Status.RUNNING:
            ending = record(RunFolder(self.job.folder), self.job.container(), ending)
        return ending

    def _unsaid(self, status: str, state: str, printed: Path) -> Ending:
        """The ending of a job that could not tell it itself."""
        # of an array's job that was cancelled while it waited the controller keeps nothing
        if status == Status.PENDING and state in ("CANCELLED", FORGOTTEN):
            return Ending(Status.FAILED, ExitCode.FAILED, f"SLURM job {self.number} was cancelled before it began")
        said = f"SLURM job {self.number} ended as {state}"
        if state in CUT_OFF and status != Status.PENDING:
            return Ending(Status.INTERRUPTED, ExitCode.TERMINATED, said)
        file = printed / f"{self.number}_0_log.err"
        last = _last_line(file)
        return Ending(Status.FAILED, ExitCode.FAILED, f"{said}: {last}" if last else f"{said}; {file} may say why")


def _interrupted(reason: str) -> Ending:
    return Ending(Status.INTERRUPTED, ending_of(signals.stop_error()).code, reason)


def _stop_file(sweep: Path, number: str) -> Path:
    """By which the job of this number knows that it is not to be put into the queue again."""
    return sweep / FOLDER / f"{number}.stop"


def _scancel(*arguments: str) -> None:
    subprocess.run(["scancel", *arguments], capture_output=True, check=False)


def _last_line(file: Path) -> str:
    """The last words of a process, such as its exception."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    words = (line.strip() for line in reversed(lines) if not line.startswith(NOT_THE_CAUSE))
    return next(filter(None, words), "")


def need_submitit() -> None:
    """Raises UserError where submitit, or SLURM itself, is not installed."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(f"hydra/launcher=slurm: {missing_package('submitit', 'slurm')}") from None
    import shutil

    if shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=slurm: this machine has no sbatch; run the command where SLURM is")


def submit(sweep: Path, asked: Resources, settings: SlurmSettings, name: str, folders: list[Path]) -> list[str]:
    """Submits a job for each folder, as one array where they are several; returns SLURM's numbers of them.

    Raises UserError with sbatch's words where it refuses.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(folder=(sweep / FOLDER).resolve())
    executor.update_parameters(
        job_name=name,
        time=settings.timeout_min,
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        cpus_per_task=settings.cpus_per_task,
        gpus_per_node=asked.gpus_per_node or None,
        mem=None if settings.mem_gb is None else f"{round(settings.mem_gb * 1024)}M",
        nodes=asked.nodes,
        ntasks_per_node=asked.tasks_per_node,
        array_parallelism=settings.jobs or LARGEST_ARRAY,
        setup=list(settings.setup),
        # a rank that has failed ends the others, which would wait for it
        srun_args=["--kill-on-bad-exit=1"],
        # a shorter limit has room for a shorter warning
        signal_delay_s=min(GRACE, 30 * settings.timeout_min) if settings.timeout_min else GRACE,
        wckey=None,
        additional_parameters={"requeue": True, **settings.additional_parameters},
    )
    words = io.StringIO()
    try:
        with _outside_of_jobs(), contextlib.redirect_stderr(words):
            jobs = executor.map_array(be_job, [str(folder.resolve()) for folder in folders])
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"sbatch: {'; '.join(str(error).split(chr(10)))}") from None
    return [str(job.job_id) for job in jobs]


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Inside, the environment is that of no job: sbatch and srun take what they find there for options."""
    hidden = {key: value for key, value in os.environ.items() if key.startswith(INHERITED) and key != KEPT}
    for key in hidden:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(hidden)


def be_job(path: str) -> None:
    """What SLURM runs, in every task of a job: trains into the folder, and ends the process with its exit code."""
    # of submitit's handlers, two do nothing but tell, and one starts the job again when its time is up
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # but for the time in which we listen to it
    logging.getLogger("submitit").propagate = False  # its words are about itself, and not for train.log
    folder = Path(path)
    before = _saved(folder)
    with stop_on_signals():
        try:
            code = _be_rank_0(folder) if rank() == 0 else _be_another_rank(folder)
        except KeyboardInterrupt as stop:
            code = ending_of(stop).code
        for each in STOP_SIGNALS:  # what is still to do is short, and SLURM repeats itself
            signal.signal(each, signal.SIG_IGN)
        if code == ExitCode.TERMINATED and rank() == 0:
            # SIGUSR2 is the notice that the job's time limit is near, see `submit`
            _requeue(folder, new=_saved(folder) != before or signals.stop_signal() != signal.SIGUSR2)
    if code != ExitCode.OK:
        sys.exit(code)


def _be_rank_0(folder: Path) -> int:
    mark = _mark(folder)
    claim = _claim(folder)
    try:
        runs = _makes_ready(folder) if claim is not None or _is_ours(folder) else False
        mark.write_text("run" if runs else "skip", encoding="utf-8")
        return _train(folder) if runs else ExitCode.OK
    finally:
        mark.unlink(missing_ok=True)
        if claim is not None:
            claim.release()


def _be_another_rank(folder: Path) -> int:
    return _train(folder) if _is_ready(_mark(folder)) else ExitCode.OK


def _mark(folder: Path) -> Path:
    """The file in which rank 0 tells the others whether this job is to be run."""
    return folder.parent / FOLDER / f"{own_id()}_{own_restarts()}.ready"


def _saved(folder: Path) -> bytes | None:
    """What changes whenever a checkpoint is saved."""
    try:
        return (folder / "checkpoints" / "last.ckpt.sha256").read_bytes()
    except OSError:
        return None


def _requeue(folder: Path, new: bool) -> None:
    """Puts this job into the queue again, where it goes on.

    Not where SLURM has it cancelled or put back already, nor where somebody stops it for good. new: whether it has come
    further; a job that saves nothing within its time limit would begin for ever.
    """
    number = own_id()
    if number is None or _stop_file(folder.parent, number).exists():
        return
    if (states([number]) or {}).get(number) != "RUNNING":
        return
    if not new:
        logs.append_line(
            folder, "ERROR", "not requeued: nothing was saved within the time limit; raise it (timeout_min)"
        )
        return
    told = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True, check=False)
    said = "requeued" if told.returncode == 0 else f"could not be requeued: {told.stderr.strip()}"
    logs.append_line(folder, "INFO" if told.returncode == 0 else "ERROR", f"SLURM job {number}: {said}")


def _makes_ready(folder: Path) -> bool:
    """Whether the job is to be run; its folder then has nothing of an earlier life of it but what it goes on with."""
    if status_of(folder) in WELL:
        return False
    unusable = make_ready(Job(0, folder, ()))
    if unusable:
        raise UserError(f"{folder}: {unusable.error}")
    if own_restarts():
        logs.append_line(folder, "INFO", f"requeued by SLURM, restart {own_restarts()}")
    return True


def _train(folder: Path) -> int:
    os.environ.update(env.of_job(folder))
    import torch

    from alexnet_exp.training.train import train

    threads = os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK") or "1"
    torch.set_num_threads(int(threads))  # torch sees the node's cores, of which a job may have a few
    return train(read_config(folder), folder)


def _claim(folder: Path) -> Claim | None:
    """The claim on the job, where it is not this job's already: whoever submitted it died before it was handed over."""
    job = Job(0, folder, ())
    claims = Claims(folder.parent)
    deadline = time.monotonic() + HANDING_OVER
    while True:
        owner = claims.owner(job)
        if owner is not None and claims.is_of_this_job(owner):
            return None
        claim = claims.take(job)
        if claim is not None or time.monotonic() > deadline:
            return claim
        time.sleep(LOOK)


def _is_ours(folder: Path) -> bool:
    claims = Claims(folder.parent)
    owner = claims.owner(Job(0, folder, ()))
    return owner is not None and claims.is_of_this_job(owner)


def _is_ready(mark: Path) -> bool:
    """Waits until rank 0 says whether this job is to be run."""
    deadline = time.monotonic() + GETTING_READY
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if word := mark.read_text(encoding="utf-8"):
                return word == "run"
        time.sleep(LOOK)
    raise RuntimeError(f"rank 0 has not begun within {GETTING_READY:g} seconds")
