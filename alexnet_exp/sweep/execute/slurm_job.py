"""Runs one job of a sweep inside a SLURM job: `run_slurm_job` is what `submit` in slurm.py has SLURM call.

When its time limit is near, or another job preempts it, the job saves, requeues itself unless SLURM does that, and
exits with `ExitCode.TERMINATED`; after the requeue it resumes in its folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from alexnet_exp import logs
from alexnet_exp.errors import ExitCode, UserError
from alexnet_exp.processes import signals
from alexnet_exp.processes.ranks import rank
from alexnet_exp.processes.signals import STOP_SIGNALS, stop_on_signals
from alexnet_exp.runs.reader import read_config
from alexnet_exp.runs.status import ending_of
from alexnet_exp.runs.sweep_plan import Job
from alexnet_exp.sweep.execute.job_lock import JobLock, JobLocks
from alexnet_exp.sweep.execute.scheduler import SUCCEEDED, prepare_folder, read_status
from alexnet_exp.sweep.execute.slurm_queue import own_job_id, own_restart_count, query_states
from alexnet_exp.sweep.plan import env

# In the sweep's folder: the submission scripts, and what SLURM and the processes print before train.log begins.
SLURM_FOLDER = "slurm"
QUEUE_POLL_SECONDS = 0.5
# For the process that submitted the job to hand the job's lock over.
HANDOVER_TIMEOUT_SECONDS = 60.0
# For rank 0 to prepare the folder for the other ranks.
RANK_0_TIMEOUT_SECONDS = 300.0


def run_slurm_job(path: str) -> None:
    """Trains into the folder `path`, in every task of a SLURM job, and exits the process with its exit code."""
    # Of submitit's handlers, two only log, and one would requeue the job itself when its time is up.
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # outside of `stop_on_signals`, which handles it
    logging.getLogger("submitit").propagate = False  # its messages are about itself, not for train.log
    folder = Path(path)
    before = _checkpoint_digest(folder)
    with stop_on_signals():
        try:
            code = _run_rank_0(folder) if rank() == 0 else _run_other_rank(folder)
        except KeyboardInterrupt as stop:
            code = ending_of(stop).code
        for each in STOP_SIGNALS:  # the rest is short, and SLURM sends its signals more than once
            signal.signal(each, signal.SIG_IGN)
        if code == ExitCode.TERMINATED and rank() == 0:
            # SIGUSR2 is the warning that the job's time limit is near, see `submit` in slurm.py.
            has_progress = _checkpoint_digest(folder) != before or signals.stop_signal() != signal.SIGUSR2
            _requeue(folder, has_progress)
    if code != ExitCode.OK:
        sys.exit(code)


def stop_file(sweep: Path, job_id: str) -> Path:
    """Returns the file which, if it exists, keeps a job from requeueing itself."""
    return sweep / SLURM_FOLDER / f"{job_id}.stop"


def _run_rank_0(folder: Path) -> int:
    ready_file = _ready_file(folder)
    lock = _acquire_lock(folder)
    try:
        runs = _prepare(folder) if lock is not None or _owns_lock(folder) else False
        ready_file.write_text("run" if runs else "skip", encoding="utf-8")
        return _train(folder) if runs else ExitCode.OK
    finally:
        ready_file.unlink(missing_ok=True)
        if lock is not None:
            lock.release()


def _run_other_rank(folder: Path) -> int:
    return _train(folder) if _wait_for_rank_0(_ready_file(folder)) else ExitCode.OK


def _ready_file(folder: Path) -> Path:
    """Returns the file in which rank 0 writes for the other ranks whether the job is to be run."""
    return folder.parent / SLURM_FOLDER / f"{own_job_id()}_{own_restart_count()}.ready"


def _checkpoint_digest(folder: Path) -> bytes | None:
    """Returns the checksum of the newest checkpoint, which changes with every save; None without a checkpoint."""
    try:
        return (folder / "checkpoints" / "last.ckpt.sha256").read_bytes()
    except OSError:
        return None


def _requeue(folder: Path, has_progress: bool) -> None:
    """Puts this job into the queue again, where it resumes later.

    Has no effect if SLURM has cancelled or requeued the job, or if its sweep was stopped. has_progress: whether the job
    saved something new; a job that saves nothing within its time limit would be requeued for ever.
    """
    job_id = own_job_id()
    if job_id is None or stop_file(folder.parent, job_id).exists():
        return
    if (query_states([job_id]) or {}).get(job_id) != "RUNNING":
        return
    if not has_progress:
        message = "not requeued: nothing was saved within the time limit; raise hydra.launcher.timeout_min"
        logs.append_line(folder, "ERROR", message)
        return
    done = subprocess.run(["scontrol", "requeue", job_id], capture_output=True, text=True, check=False)
    succeeded = done.returncode == 0
    result = "requeued" if succeeded else f"scontrol requeue failed: {done.stderr.strip()}"
    logs.append_line(folder, "INFO" if succeeded else "ERROR", f"SLURM job {job_id}: {result}")


def _prepare(folder: Path) -> bool:
    """Prepares the folder for the next attempt; returns False if the job has succeeded already."""
    if read_status(folder) in SUCCEEDED:
        return False
    failure = prepare_folder(Job(0, folder, ()))
    if failure:
        raise UserError(f"{folder}: {failure.error}")
    if own_restart_count():
        logs.append_line(folder, "INFO", f"requeued by SLURM, restart {own_restart_count()}")
    return True


def _train(folder: Path) -> int:
    os.environ.update(env.read_variables(folder))
    import torch

    from alexnet_exp.training.train import train

    threads = os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK") or "1"
    torch.set_num_threads(int(threads))  # torch counts the cores of the node, of which the job may have only some
    return train(read_config(folder), folder)


def _acquire_lock(folder: Path) -> JobLock | None:
    """Returns the job's lock; None if the lock is this SLURM job's already, or another owner has it.

    It is not handed over to this SLURM job if the process that submitted it died before it could do so.
    """
    job = Job(0, folder, ())
    locks = JobLocks(folder.parent)
    deadline = time.monotonic() + HANDOVER_TIMEOUT_SECONDS
    while True:
        owner = locks.owner(job)
        if owner is not None and locks.is_own_scheduler_job(owner):
            return None
        lock = locks.acquire(job)
        if lock is not None or time.monotonic() > deadline:
            return lock
        time.sleep(QUEUE_POLL_SECONDS)


def _owns_lock(folder: Path) -> bool:
    locks = JobLocks(folder.parent)
    owner = locks.owner(Job(0, folder, ()))
    return owner is not None and locks.is_own_scheduler_job(owner)


def _wait_for_rank_0(ready_file: Path) -> bool:
    """Waits until rank 0 has prepared the folder; returns whether the job is to be run. Raises RuntimeError."""
    deadline = time.monotonic() + RANK_0_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if text := ready_file.read_text(encoding="utf-8"):
                return text == "run"
        time.sleep(QUEUE_POLL_SECONDS)
    raise RuntimeError(f"rank 0 did not start within {RANK_0_TIMEOUT_SECONDS:g} seconds")
