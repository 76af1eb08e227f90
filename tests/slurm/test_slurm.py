"""Tests of sweeps on a real SLURM cluster of one node, which `cluster.sh` starts and stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from alexnet_exp.config.compose import compose
from alexnet_exp.runs.reader import read_metrics, read_result
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.sweep.execute.job_lock import JobLocks
from tests.conftest import TINY

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("cluster.sh")
NO_CLUSTER_CODE = 3  # of cluster.sh
TIMEOUT_SECONDS = 180
PYTHON = [sys.executable, "-m", "alexnet_exp"]
LONG_EPOCHS = 60  # of a run that is still running when the test looks for it


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell on a cluster."""
    home = tmp_path_factory.mktemp("cluster")
    started = subprocess.run([SCRIPT, "start", home], capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if started.returncode == NO_CLUSTER_CODE:
        pytest.skip(started.stderr.strip().splitlines()[-1])
    assert started.returncode == 0, started.stderr
    variables = dict(line.split("=", 1) for line in started.stdout.splitlines())
    here = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    yield here | variables | {"OMP_NUM_THREADS": "1"}
    subprocess.run([SCRIPT, "stop", home], capture_output=True, timeout=TIMEOUT_SECONDS)


class Shell:
    """Runs commands in a folder, in the environment of the cluster."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.environment = folder, environment

    def start(self, *command: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*map(str, command)], cwd=self.folder, env=self.environment, **pipes)

    def run(self, *command: Any) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "timeout": TIMEOUT_SECONDS}
        return subprocess.run([*map(str, command)], cwd=self.folder, env=self.environment, **options)

    def sweep(self, *overrides: str) -> list[str]:
        return [*PYTHON, "-m", *TINY, "hydra/launcher=slurm", *overrides]

    def batch(self, *options: str) -> str:
        """Submits a job and waits (`sbatch --wait` polls too rarely); returns the final states, also of an array."""
        number = self.run("sbatch", "--parsable", *options).stdout.strip()
        until(lambda: not self.run("squeue", "--noheader", f"--jobs={number}").stdout.strip())
        shown = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%T", f"--jobs={number}").stdout
        return " ".join(sorted(set(shown.split())))

    def queue(self) -> dict[str, str]:
        """Returns the states of the waiting and running jobs by their ids."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T").stdout.splitlines()
        return dict(line.split() for line in lines)

    def folders(self) -> dict[int, Path]:
        """Returns the folders of the jobs by number; none before the sweep is planned."""
        plans = list(self.folder.glob("outputs/*/*/sweep.json"))
        return {job.number: job.folder for job in SweepPlan.read(plans[0].parent).jobs} if plans else {}


@pytest.fixture
def shell(tmp_path: Path, cluster: dict[str, str]) -> Iterator[Shell]:
    shell = Shell(tmp_path, cluster)
    yield shell
    if shell.queue():
        shell.run("scancel", *shell.queue())
        until(lambda: not shell.queue())


def until(holds: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Waits until `holds` returns a true value, and returns it; fails if `process` ends before."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if result := holds():
            return result
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.2)
    raise AssertionError("the condition did not become true")


def finish(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Waits for the process; returns its exit code, the JSON on stdout, and stderr."""
    out, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert out, errors
    return process.returncode, json.loads(out), errors


def job_id_of(shell: Shell, folder: Path) -> str:
    """Returns the id of the SLURM job that has the lock of a folder."""
    owner = JobLocks(folder.parent).owner(Job(0, folder, ()))
    return owner.scheduler.removeprefix("slurm:") if owner and owner.queued else ""


def test_a_sweep_is_one_array(shell: Shell) -> None:
    code, summary, errors = finish(shell.start(*shell.sweep("model=bn,lrn", "seed=1,2")))
    assert (code, summary["status"], summary["counts"]) == (0, "done", {"done": 4}), errors
    for number, folder in shell.folders().items():
        assert f"{number}/4" in errors
        result = read_result(folder)
        assert result["status"] == "done"
        assert result["metrics"]["test/top1"] > 0
        assert not (folder / "earlier").exists()
    submitted = [path.name for path in (folder.parent / "slurm").glob("*_submitted.pkl")]
    assert len({name.partition("_")[0] for name in submitted}) == 1
    assert len(submitted) == 4


def test_a_requeued_job_is_done_and_failed_or_cancelled_jobs_do_not_stop_the_others(shell: Shell) -> None:
    rates = ("optim=sgd", "optim.lr=0.01,1e30,0.02", f"trainer.max_epochs={LONG_EPOCHS}")
    process = shell.start(*shell.sweep(*rates, "hydra.launcher.jobs=2"))
    last = until(lambda: shell.folders() and job_id_of(shell, shell.folders()[3]), process)
    shell.run("scancel", last)
    folder = shell.folders()[1]
    until(lambda: len(read_metrics(folder)) > 1, process)
    number = job_id_of(shell, folder)
    assert shell.queue()[number] == "RUNNING"
    assert shell.run("scontrol", "requeue", number).returncode == 0

    code, summary, errors = finish(process)
    assert (code, summary["status"], summary["counts"]) == (1, "failed", {"done": 1, "failed": 2}), errors
    assert [run["status"] for run in summary["runs"]] == ["done", "failed", "failed"]
    assert "the loss is" in summary["runs"][1]["error"]
    assert summary["runs"][2]["error"] == f"SLURM job {last} was cancelled before it started"
    assert read_result(shell.folders()[3])["status"] == "failed"

    log = (folder / "train.log").read_text()
    assert log.count("requeued by SLURM, restart 1") == 1
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(1, LONG_EPOCHS + 1))
    assert "interrupted: by SIGTERM" in log
    assert "resuming from" in log
    assert not (folder / "earlier").exists()


@pytest.mark.parametrize("sent", ["USR1", "USR2"])
def test_a_job_that_gets_a_warning_saves_and_resumes_after_a_requeue(shell: Shell, sent: str) -> None:
    """USR1 as before a preemption; USR2 as before the time limit, which submitit requests from SLURM."""
    process = shell.start(*shell.sweep("seed=1", f"trainer.max_epochs={LONG_EPOCHS}"))
    folder = until(lambda: shell.folders().get(1), process)
    until(lambda: len(read_metrics(folder)) > 1, process)
    number = job_id_of(shell, folder)
    shell.run("scancel", f"--signal={sent}", number)
    code, summary, errors = finish(process)
    assert (code, summary["counts"]) == (0, {"done": 1}), errors
    log = (folder / "train.log").read_text()
    lines = (f"interrupted: by SIG{sent}", f"SLURM job {number}: requeued", "by SLURM, restart 1", "resuming from")
    assert [log.count(words) for words in lines] == [1, 1, 1, 1], log
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(1, LONG_EPOCHS + 1))


def test_tasks_are_ranks(shell: Shell) -> None:
    code, summary, errors = finish(shell.start(*shell.sweep("trainer=ddp_cpu", "seed=1")))
    assert (code, summary["counts"]) == (0, {"done": 1}), errors
    folder = shell.folders()[1]
    assert (folder / "train.rank1.log").exists()
    assert (folder / "train.log").read_text().count("test: top-1") == 1
    script = next((folder.parent / "slurm").glob("*_submission.sh")).read_text()
    assert "#SBATCH --ntasks-per-node=2" in script

    alone = shell.run(*PYTHON, *TINY, "seed=1")
    metrics = json.loads(alone.stdout)["metrics"]
    result = read_result(folder)
    assert result["test_images"] == 360  # each image once
    # Batch norm sees half of each batch on a rank, so the losses are only approximately equal.
    assert result["metrics"]["train/loss"] == pytest.approx(metrics["train/loss"], rel=0.1)


def test_the_same_command_follows_queued_and_running_jobs(shell: Shell) -> None:
    command = shell.sweep("seed=1,2,3", "hydra.launcher.jobs=1")
    code, summary, errors = finish(shell.start(*command, "hydra.launcher.wait=false"))
    assert (code, summary["status"], summary["counts"]) == (0, "running", {"queued": 3}), errors
    folders = shell.folders()
    numbers = [job_id_of(shell, folder) for folder in folders.values()]
    assert set(numbers) <= set(shell.queue())

    code, summary, errors = finish(shell.start(*command, "hydra.launcher.wait=false"))
    assert (code, summary["status"]) == (0, "running"), errors
    shell.run("scancel", numbers[2])  # no command runs now: the next one finds the job pending and submits it again

    code, summary, errors = finish(shell.start(*command))
    assert (code, summary["counts"]) == (0, {"done": 3}), errors
    submitted = {path.name.removesuffix("_submitted.pkl") for path in folders[1].parent.glob("slurm/*_submitted.pkl")}
    assert len(submitted) == 4
    assert submitted > set(numbers)
    assert not any((folder / "earlier").exists() for folder in folders.values())


def test_ctrl_c_cancels_submitted_jobs(shell: Shell) -> None:
    process = shell.start(*shell.sweep("seed=1,2", f"trainer.max_epochs={50 * LONG_EPOCHS}", "hydra.launcher.jobs=1"))
    folder = until(lambda: shell.folders().get(1), process)
    until(lambda: read_metrics(folder), process)
    process.send_signal(signal.SIGINT)
    code, summary, errors = finish(process)
    assert (code, summary["status"], summary["counts"]) == (130, "interrupted", {"interrupted": 1, "open": 1}), errors
    assert read_result(folder)["status"] == "interrupted"
    until(lambda: not shell.queue())
    locks = JobLocks(folder.parent)
    assert all(locks.owner(Job(0, each, ())) is None for each in shell.folders().values())


def plan_sweep(folder: Path, jobs: list[list[str]]) -> SweepPlan:
    """Plans a sweep with these overrides for each job."""
    plan = SweepPlan(folder, [], str(folder.parent), "val/top1")
    for number, overrides in enumerate(jobs, start=1):
        job = Job(number, folder / f"job-{number}", tuple(overrides), {"seed": str(number)})
        (job.folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(compose([*TINY, *overrides])), job.folder / ".hydra" / "config.yaml")
        plan.jobs.append(job)
    plan.write()
    return plan


def test_two_workers_of_an_array_run_each_job_once(shell: Shell) -> None:
    plan = plan_sweep(shell.folder / "outputs" / "train" / "sweep", [[f"seed={seed}"] for seed in range(1, 5)])
    worker = " ".join([*PYTHON, "sweep", "work", str(plan.folder)])
    ended = shell.batch("--array=0-1", "--output=worker-%a.txt", "--error=%a.err", "--wrap", worker)
    words = [(shell.folder / f"worker-{number}.txt").read_text() for number in range(2)]
    assert ended == "COMPLETED", (words, *(path.read_text() for path in shell.folder.glob("*.err")))
    ran = [run["run"] for text in words for run in json.loads(text.splitlines()[-1])["runs"]]
    assert len(ran) == len(set(ran)) == 4
    for job in plan.jobs:
        assert read_result(job.folder)["status"] == "done"
        assert not (job.folder / "earlier").exists()


def test_a_process_in_an_allocation_starts_its_own_ranks(shell: Shell) -> None:
    """SLURM_NTASKS is 2 there, and has no effect."""
    alone = shell.run("salloc", "--ntasks=2", *PYTHON, *TINY, "hydra.run.dir=outputs/train/alone")
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["status"] == "done"

    batch = " ".join([*PYTHON, *TINY, "trainer=ddp_cpu", "hydra.run.dir=outputs/train/two"])
    ended = shell.batch("--ntasks=2", "--output=two.txt", "--error=two.err", "--wrap", batch)
    assert ended == "COMPLETED", (shell.folder / "two.err").read_text()
    assert read_result(shell.folder / "outputs/train/two")["status"] == "done"
    assert (shell.folder / "outputs/train/two/train.rank1.log").exists()


def test_an_error_of_sbatch_is_one_line(shell: Shell) -> None:
    refused = shell.run(*shell.sweep("seed=1,2", "hydra.launcher.partition=nowhere"))
    assert refused.returncode == 2
    assert "invalid partition" in refused.stderr.splitlines()[-1].lower()
    assert "Traceback" not in refused.stderr
    assert not shell.queue()


def test_sacct_answers_submitit_without_a_database(shell: Shell) -> None:
    states = shell.batch("--array=0-1", "--output=/dev/null", "--wrap", "exit $SLURM_ARRAY_TASK_ID")
    assert states == "COMPLETED FAILED"
    number = shell.run("sbatch", "--parsable", "--hold", "--wrap", "true").stdout.strip()
    asked = shell.run("sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", number, "-j", str(int(number) - 1))
    lines = [line.split("|") for line in asked.stdout.splitlines()]
    assert lines[0] == ["JobID", "State", "NodeList"]
    assert [number, "PENDING"] in [line[:2] for line in lines]
    assert shutil.which("sacct", path=shell.environment["PATH"]) != "/usr/bin/sacct"
