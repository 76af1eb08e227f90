"""Tests of jobs in processes of this machine: their environment and endings; no process is left, no state leaks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_exp.config.schema import Trainer
from alexnet_exp.errors import Refused
from alexnet_exp.processes.signals import ECHO_SECONDS, stop_on_signals
from alexnet_exp.runs import provenance
from alexnet_exp.runs.lock import locked
from alexnet_exp.runs.reader import read_result, read_steps
from alexnet_exp.sweep.execute import local
from alexnet_exp.sweep.execute.local import LocalPool, device_needs
from alexnet_exp.training import launch
from tests.sweep import works
from tests.sweep.jobs import Unvalidated, are_gone, is_running, pids_in, plain_job, run_all, tiny_job, wait_until


@pytest.fixture(scope="module", autouse=True)
def own_server() -> None:
    """Stops the fork server of other tests, which has not imported Lightning."""
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.fixture
def local_pool() -> Iterator[Callable[..., LocalPool]]:
    """Makes pools; fails if a job or a process is left at the end of the test."""
    pools: list[LocalPool] = []

    def make(*arguments: Any, **options: Any) -> LocalPool:
        pools.append(pool := LocalPool(*arguments, **options))
        if options.get("work", works.train_on_what_is_there) is not works.train_on_what_is_there:
            pool.compositions = Unvalidated()
        return pool

    yield make
    left = [ended for pool in pools for ended in pool.close()]
    assert not left
    assert not multiprocessing.active_children()


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a user's package with a callback that raises on one rank, or on all."""
    (tmp_path / "mishap.py").write_text(
        "import pytorch_lightning as pl\n"
        "class Raise(pl.Callback):\n"
        "    def __init__(self, rank=None):\n"
        "        self.rank = rank\n"
        "    def on_train_epoch_start(self, trainer, pl_module):\n"
        "        if self.rank in (None, trainer.global_rank):\n"
        "            raise ValueError('boom')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "mishap")


def around(job: Any, rank: str = "") -> dict[str, Any]:
    environment: dict[str, Any] = json.loads((job.folder / f"around{rank}.json").read_text())
    return environment


Pools = Callable[..., LocalPool]

CPU: dict[str, Any] = {"seed": 3, "trainer": {"accelerator": "cpu"}}
CPU_2: dict[str, Any] = {"seed": 3, "trainer": {"accelerator": "cpu", "devices": 2}}


def test_a_job_imports_no_module_and_starts_no_program(local_pool: Pools, tmp_path: Path) -> None:
    """A module or program that every job needed again would cost its time in each job."""
    one, two = tiny_job(tmp_path / "one"), tiny_job(tmp_path / "two", "trainer=ddp_cpu")
    ended = run_all(local_pool(work=works.train_on_what_is_there), one, two)
    assert [each.ending.status for each in ended.values()] == ["done", "done"], ended
    for job, rank in ((one, ""), (two, "0"), (two, "1")):
        assert json.loads((job.folder / f"imported{rank}.json").read_text()) == []
    assert {read_result(job.folder)["commit"] for job in (one, two)} == {provenance.code().commit}


# The environment of a job


def test_the_environment_is_that_of_the_call_without_variables_of_ranks(
    local_pool: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = local_pool(work=works.look_around)
    run_all(pool, first := plain_job(tmp_path / "first", CPU))  # the fork server has started by now
    monkeypatch.setenv("MARK", "of now")
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "RANK", "PL_GLOBAL_SEED", "SLURM_PROCID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    hydra = {"job": {"env_set": {"SET": "not interpolated: ${oc.env:MARK}", "MARK2": 5}}}
    ended = run_all(pool, job := plain_job(tmp_path / "job", CPU, hydra), two := plain_job(tmp_path / "two", CPU_2))
    assert [each.ending.status for each in ended.values()] == ["done", "done"], ended
    seen = around(job)["environment"]
    assert "MARK" not in around(first)["environment"]
    assert (seen["MARK"], seen["SET"], seen["MARK2"]) == ("of now", "not interpolated: ${oc.env:MARK}", "5")
    assert not {"MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "RANK", "PL_GLOBAL_SEED"} & seen.keys()
    assert not {"WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID"} & seen.keys()
    for rank in "01":
        seen = around(two, rank)["environment"]
        assert (seen["RANK"], seen["LOCAL_RANK"], seen["WORLD_SIZE"]) == (rank, rank, "2")
        assert not {"MASTER_PORT", "SLURM_NTASKS"} & seen.keys()
    assert "SET" not in os.environ


@pytest.mark.parametrize(
    ("jobs", "container", "omp", "expected"),
    [(1, CPU, None, 6), (2, CPU, None, 3), (2, CPU_2, None, 1), (9, CPU, None, 1), (2, CPU, "5", 5)],
)
def test_a_job_has_its_share_of_the_threads(
    local_pool: Pools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
    container: dict[str, Any],
    omp: str | None,
    expected: int,
) -> None:
    for module in (launch, local):
        monkeypatch.setattr(module, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    run_all(local_pool(jobs, work=works.look_around), job := plain_job(tmp_path / "job", container))
    for rank in ("0", "1") if container is CPU_2 else ("",):
        assert around(job, rank)["threads"] == expected
        assert around(job, rank)["environment"]["OMP_NUM_THREADS"] == str(expected)
        assert around(job, rank)["cores"] == max(1, 6 // jobs)


def test_a_job_sees_only_its_own_gpus(local_pool: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    # One process each: several would need NCCL.
    wanted: dict[str, dict[str, Any]] = {
        "one": {"gpus": 1},
        "cpu": {"gpus": 0},
        "named": {"gpus": [3]},
        "best": {},
        "lightnings": {"accelerator": "gpu", "devices": [0]},
    }
    pool = local_pool(4, work=works.look_around)
    jobs = {name: plain_job(tmp_path / name, {"trainer": trainer}) for name, trainer in wanted.items()}
    for name in ("one", "cpu", "named", "best"):
        assert pool.has_room(jobs[name])
        pool.start(jobs[name])
    assert not pool.has_room(jobs["lightnings"])
    ended = []
    while pool.running():
        ended += pool.wait(1)
    assert {each.ending.status for each in ended} == {"done"}
    run_all(pool, jobs["lightnings"])
    seen = {name: around(job)["environment"]["CUDA_VISIBLE_DEVICES"] for name, job in jobs.items()}
    assert seen == {"one": "3", "cpu": "", "named": "3,5,6,7", "best": "5", "lightnings": "3,5,6,7"}
    assert not any(around(job)["cuda"] for job in jobs.values())


def test_device_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)

    def needs(**trainer: Any) -> tuple[int, Any, str]:
        need = device_needs(Trainer(**trainer))
        return need.ranks, need.gpus, need.backend

    assert needs() == (1, 1, "nccl")
    assert needs(gpus=0) == (1, 0, "gloo")
    assert needs(gpus=2) == (2, 2, "nccl")
    assert needs(gpus=-1) == (4, 4, "nccl")
    assert needs(gpus=[0, 2]) == (2, (0, 2), "nccl")
    assert needs(accelerator="cpu", devices=2) == (2, 0, "gloo")
    assert needs(accelerator="gpu", devices="auto") == (4, 4, "nccl")
    assert needs(accelerator="gpu", devices=[1]) == (1, (1,), "nccl")
    with pytest.raises(Refused, match="GPUs 0 to 3"):
        needs(gpus=5)


# The output of a job


def test_the_output_of_a_job_is_in_its_own_log_once(
    local_pool: Pools, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = local_pool(2, work=works.speak)
    jobs = [plain_job(tmp_path / name, CPU) for name in ("a", "b")]
    run_all(pool, *jobs)
    for job in jobs:
        lines = (job.folder / "train.log").read_text(encoding="utf-8").splitlines()
        said = ["by the log: Grüße", "by print", "by print to stderr", "by C code", "by a child"]
        assert sorted(line.rpartition(" INFO ")[2] for line in lines) == sorted(said)
    assert capfd.readouterr() == ("", "")


def test_a_failed_preload_is_logged(local_pool: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PRELOAD", [*launch.PRELOAD, "no_such_module"])
    ended = run_all(local_pool(work=works.speak), job := plain_job(tmp_path / "job", CPU))
    assert ended["job"].ending.status == "done"
    (line,) = [line for line in (job.folder / "train.log").read_text().splitlines() if "WARNING" in line]
    assert line.endswith("the fork server could not import no_such_module; every start is slow")


# The ending of a job


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "sigkill",
            "the process exited without reporting a result (signal SIGKILL; the system may have been out of memory)",
        ),
        ("segfault", "the process exited without reporting a result (signal SIGSEGV)"),
        ("memory", "MemoryError: 1 TiB"),
        (
            "after begin",
            "the process exited without reporting a result (signal SIGKILL; the system may have been out of memory)",
        ),
    ],
)
def test_a_killed_or_crashed_job_is_recorded_as_failed(local_pool: Pools, tmp_path: Path, how: str, said: str) -> None:
    pool = local_pool(work=works.come_to_harm)
    bad, good = plain_job(tmp_path / "bad", CPU | {"how": how}), plain_job(tmp_path / "good", CPU | {"how": ""})
    ended = run_all(pool, bad, good)
    assert (ended["bad"].ending.status, ended["bad"].ending.code, ended["bad"].ending.reason) == ("failed", 1, said)
    result = read_result(bad.folder)
    assert (result["status"], result["error"]) == ("failed", said)
    assert (result["config"]["seed"], "end" in result) == (3, True)
    assert ("come_to_harm" in result.get("traceback", "")) == (how == "memory")
    log = (bad.folder / "train.log").read_text()
    assert f"ERROR failed: {said}" in log
    assert ("Fatal Python error" in log) == (how == "segfault")
    assert ended["good"].ending.status == "done"


def test_a_job_that_dies_after_it_was_done_is_done(local_pool: Pools, tmp_path: Path) -> None:
    job = plain_job(tmp_path / "job", CPU | {"how": "after done"})
    ended = run_all(local_pool(work=works.come_to_harm), job)
    assert (ended["job"].ending.status, read_result(job.folder)["status"]) == ("done", "done")


@pytest.mark.slow
def test_no_state_of_a_job_reaches_the_next(local_pool: Pools, tmp_path: Path, faulty: None) -> None:
    pool = local_pool()
    jobs = [
        tiny_job(tmp_path / "first"),
        tiny_job(tmp_path / "raising", "+callbacks.raise._target_=mishap.Raise"),
        tiny_job(tmp_path / "nan", "optim=sgd", "optim.lr=1e9", "schedule=constant", "model.norm=none"),
        tiny_job(tmp_path / "refused", "trainer.devices=1"),
        tiny_job(tmp_path / "third"),
    ]
    (jobs[3].folder / ".hydra" / "config.yaml").write_text("seed: -1\nname: x\n")
    ended = run_all(pool, *jobs)
    killed = local_pool(work=works.come_to_harm)
    run_all(killed, plain_job(tmp_path / "killed", CPU | {"how": "sigkill"}))
    ended |= run_all(pool, again := tiny_job(tmp_path / "fourth"))
    results = {job.folder.name: read_result(job.folder) for job in [*jobs, again]}
    assert {name: result["status"] for name, result in results.items()} == {
        "first": "done",
        "raising": "failed",
        "nan": "failed",
        "refused": "failed",
        "third": "done",
        "fourth": "done",
    }
    assert results["raising"]["error"] == "ValueError: boom"
    assert "on_train_epoch_start" in results["raising"]["traceback"]
    assert results["nan"]["error"].startswith("the loss is nan at step ")
    assert "seed=-1" in results["refused"]["error"]
    codes = {name: each.ending.code for name, each in ended.items()}
    assert codes == {"first": 0, "raising": 1, "nan": 1, "refused": 2, "third": 0, "fourth": 0}
    first = jobs[0].folder
    for later in (tmp_path / "third", tmp_path / "fourth"):
        assert read_steps(later) == read_steps(first)
        assert (later / "steps.csv").read_bytes() == (first / "steps.csv").read_bytes()
        assert read_result(later)["metrics"] == read_result(first)["metrics"]
    log = (first / "train.log").read_text().splitlines()
    assert len([line for line in log if "test: top-1" in line]) == 1
    assert not [line for line in log if "WARNING" in line]
    assert (
        len(
            [
                line
                for line in (tmp_path / "raising" / "train.log").read_text().splitlines()
                if "failed: ValueError: boom" in line
            ]
        )
        == 1
    )


def test_a_folder_in_use_is_not_changed(local_pool: Pools, tmp_path: Path) -> None:
    job = tiny_job(tmp_path / "job")
    with locked(job.folder):
        ended = run_all(local_pool(), job)
    assert (ended["job"].ending.status, ended["job"].ending.code) == ("refused", 2)
    assert "is in use by process" in ended["job"].ending.reason
    assert not (job.folder / "result.json").exists()


def test_a_job_without_a_configuration_fails(local_pool: Pools, tmp_path: Path) -> None:
    job = plain_job(tmp_path / "job", CPU)
    (job.folder / ".hydra" / "config.yaml").unlink()
    pool = local_pool(work=works.speak)
    pool.start(job)
    assert pool.running() == [job]
    (ended,) = pool.wait(0)
    assert (ended.ending.status, ended.ending.code) == ("failed", 2)
    assert "config.yaml: cannot be read" in read_result(job.folder)["error"]


@pytest.mark.parametrize(
    ("hydra", "said"),
    [
        (
            {"job": {"env_set": {"PYTHONPATH": "/tmp/evil"}}},
            "hydra.job.env_set.PYTHONPATH: it determines which",
        ),
        ({"job": {"env_set": {"ALEXNET_EXP_ALLOW": "os"}}}, "hydra.job.env_set.ALEXNET_EXP_ALLOW: it determines"),
        (
            {"job": {"env_set": {"LD_PRELOAD": "/tmp/evil.so"}}},
            "hydra.job.env_set.LD_PRELOAD: it determines which",
        ),
        ({"job": {"env_set": ["PATH=/tmp/evil"]}}, "hydra.job.env_set must be a mapping from variables to values"),
        ({"job": {"env_set": {"A": {"_target_": "os.system"}}}}, "hydra.job.env_set must be a mapping from variables"),
        ({"job": {"env_set": {"A=B": "1"}}}, "hydra.job.env_set must be a mapping from variables"),
    ],
)
def test_a_folder_must_not_determine_which_code_runs(local_pool: Pools, tmp_path: Path, hydra: Any, said: str) -> None:
    job = plain_job(tmp_path / "job", CPU, hydra)
    ended = run_all(local_pool(work=works.look_around), job)["job"].ending
    assert (ended.status, ended.code) == ("failed", 2)
    assert f"hydra.yaml: {said}" in ended.reason
    assert len(ended.reason.splitlines()) == 1
    assert not (job.folder / "around.json").exists()


def test_several_nodes_need_a_cluster(local_pool: Pools, tmp_path: Path) -> None:
    job = plain_job(tmp_path / "job", {"trainer": {"accelerator": "cpu", "num_nodes": 2}})
    ended = run_all(local_pool(work=works.speak), job)
    assert "trainer.num_nodes=2: needs a cluster" in ended["job"].ending.reason


def test_stop_prunes_a_running_job(local_pool: Pools, tmp_path: Path) -> None:
    job = tiny_job(tmp_path / "job", "trainer.max_epochs=5000")
    pool = local_pool()
    pool.start(job)
    wait_until(lambda: (job.folder / "metrics.csv").exists())
    pool.stop(job, "by the pruner")
    (ended,) = pool.wait(60)
    assert (ended.ending.status, ended.ending.code) == ("pruned", 0)
    assert (read_result(job.folder)["status"], read_result(job.folder)["error"]) == ("pruned", "by the pruner")


# Several ranks


def test_groups_of_ranks_do_not_conflict_in_sequence_or_in_parallel(local_pool: Pools, tmp_path: Path) -> None:
    for jobs in (1, 2):
        two = [plain_job(tmp_path / f"{jobs}{name}", CPU_2) for name in "ab"]
        ended = run_all(local_pool(jobs, work=works.meet), *two)
        assert {each.ending.status for each in ended.values()} == {"done"}
        for job in two:
            expected = repr([(rank, str(job.folder)) for rank in (0, 1)])
            assert [(job.folder / f"met{rank}").read_text() for rank in (0, 1)] == [expected] * 2
            assert not list(job.folder.glob(".rendezvous*"))


@pytest.mark.slow
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_one_device_and_two_in_sequence(local_pool: Pools, tmp_path: Path, order: tuple[int, int]) -> None:
    plain = ("model=none", "model.dropout=0", "optim=sgd", "optim.lr=0.02")
    jobs = [
        tiny_job(tmp_path / f"devices-{devices}", *plain, "trainer=ddp_cpu", f"trainer.devices={devices}")
        for devices in order
    ]
    ended = run_all(local_pool(), *jobs)
    assert {each.ending.status for each in ended.values()} == {"done"}
    results = {devices: read_result(tmp_path / f"devices-{devices}") for devices in order}
    for devices in order:
        assert (results[devices]["ranks"], results[devices]["test_images"]) == (devices, 360)
    assert results[1]["metrics"]["test/loss"] == pytest.approx(results[2]["metrics"]["test/loss"], rel=1e-4)
    logs = sorted(path.name for path in (tmp_path / "devices-2").glob("*.log"))
    assert logs == ["train.log", "train.rank1.log"]
    log = (tmp_path / "devices-2" / "train.log").read_text().splitlines()
    assert len([line for line in log if "test: top-1" in line]) == 1


@pytest.mark.slow
def test_a_rank_that_raises_ends_only_its_own_job(local_pool: Pools, tmp_path: Path, faulty: None) -> None:
    raising = ("+callbacks.raise._target_=mishap.Raise", "+callbacks.raise.rank=1")
    bad = tiny_job(tmp_path / "bad", "trainer=ddp_cpu", *raising)
    good = tiny_job(tmp_path / "good", "trainer=ddp_cpu")
    ended = run_all(local_pool(2), bad, good)
    assert read_result(bad.folder)["error"] == "rank 1: ValueError: boom"
    assert "on_train_epoch_start" in read_result(bad.folder)["traceback"]
    assert (bad.folder / "train.log").read_text().count("failed: rank 1: ValueError: boom") == 1
    assert (ended["good"].ending.status, read_result(good.folder)["test_images"]) == ("done", 360)


# No process is left


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (signal.SIGINT, 130, "by Ctrl-C (SIGINT)"),
        (signal.SIGTERM, 75, "by SIGTERM"),
        (signal.SIGUSR1, 75, "by SIGUSR1"),
    ],
)
def test_close_passes_on_the_signal(local_pool: Pools, tmp_path: Path, number: int, code: int, reason: str) -> None:
    """One job is in a step, which it finishes, and saves; the other can be interrupted at once."""
    pool = local_pool(2, work=works.step)
    jobs = [plain_job(tmp_path / name, CPU | {"step": name == "in a step"}) for name in ("in a step", "elsewhere")]
    for job in jobs:
        pool.start(job)
    wait_until(lambda: all((job.folder / "begun").exists() for job in jobs))
    ended = {}
    with stop_on_signals():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            ended = {each.job.folder.name: each.ending for each in pool.close()}
    for job in jobs:
        ending = ended[job.folder.name]
        assert (ending.status, ending.code, ending.reason) == ("interrupted", code, reason)
        assert read_result(job.folder)["error"] == reason
    assert [(job.folder / "saved").exists() for job in jobs] == [True, False]


def test_close_interrupts_running_jobs(local_pool: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "STOP_SECONDS", 2.0)
    pool = local_pool(3, work=works.linger)
    jobs = [
        plain_job(tmp_path / "hears", CPU),
        plain_job(tmp_path / "deaf", CPU | {"deaf": True}),
    ]
    for job in jobs:
        pool.start(job)
    pids = pids_in(*(job.folder / "pids" for job in jobs))
    ended = {each.job.folder.name: each.ending for each in pool.close()}
    for job in jobs:
        assert (ended[job.folder.name].status, ended[job.folder.name].code) == ("interrupted", 75)
        assert read_result(job.folder)["status"] == "interrupted"
    assert pool.running() == []
    deaf, its_child = pids[2:]
    assert are_gone([pids[0], deaf, its_child])
    os.kill(pids[1], signal.SIGKILL)  # the child of a job that ended regularly


@pytest.mark.slow
def test_close_interrupts_training_with_two_ranks(local_pool: Pools, tmp_path: Path) -> None:
    pool = local_pool(2)
    jobs = [
        tiny_job(tmp_path / f"{devices}", "trainer.max_epochs=5000", "trainer=ddp_cpu", f"trainer.devices={devices}")
        for devices in (1, 2)
    ]
    for job in jobs:
        pool.start(job)
    wait_until(lambda: all((job.folder / "metrics.csv").exists() for job in jobs))
    assert {each.ending.status for each in pool.close()} == {"interrupted"}
    for job in jobs:
        result = read_result(job.folder)
        assert (result["status"], result["error"]) == ("interrupted", "by SIGTERM")
        assert "Traceback" not in (job.folder / "train.log").read_text()


SWEEP = """
import os
import sys
from pathlib import Path
from alexnet_exp.training import launch
from alexnet_exp.processes.signals import stop_on_signals
from alexnet_exp.sweep.execute.local import LocalPool
from tests.sweep import works
from tests.sweep.jobs import Unvalidated, plain_job

if __name__ == "__main__":
    launch.PRELOAD = ["alexnet_exp.processes.forkserver", "torch"]
    pool = LocalPool(2, work=works.linger)
    pool.compositions = Unvalidated()
    cpu = {"trainer": {"accelerator": "cpu"}, "deaf": sys.argv[1] == "deaf"}
    with stop_on_signals():
        try:
            for name in ("a", "b"):
                pool.start(plain_job(Path(name).absolute(), cpu))
            while True:
                pool.wait(60)
        except KeyboardInterrupt:
            Path("closing").touch()
            print(sorted(str(each.ending.status) for each in pool.close()), flush=True)
            os._exit(130)
"""


def sweep(folder: Path, how: str = "", **options: Any) -> subprocess.Popen[str]:
    """Starts a process with a pool of two jobs that linger, with the imports of this one."""
    (folder / "sweep.py").write_text(SWEEP)
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "sweep.py", how], cwd=folder, env=environment, **pipes, **options)


@pytest.mark.slow
def test_no_job_outlives_a_killed_sweep(tmp_path: Path) -> None:
    process = sweep(tmp_path)
    pids = pids_in(tmp_path / "a" / "pids", tmp_path / "b" / "pids")
    process.kill()
    process.communicate()
    assert are_gone(pids), "the jobs, and the processes that they started"


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [False, True])
def test_ctrl_c_and_a_second_one_for_deaf_jobs(tmp_path: Path, deaf: bool) -> None:
    # A process that a script starts in the background, and its children, inherit that SIGINT is ignored.
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)} if deaf else {}
    process = sweep(tmp_path, "deaf" if deaf else "", process_group=0, **options)
    files = (tmp_path / "a" / "pids", tmp_path / "b" / "pids")
    pids = pids_in(*files)
    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: (tmp_path / "closing").exists() or process.poll() is not None)
    if deaf:
        time.sleep(2 * ECHO_SECONDS)
        assert all(map(is_running, pids)), "they have time to save"
        os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout.strip()) == (130, "['interrupted', 'interrupted']"), stderr
    assert "Traceback" not in stderr
    for name in ("a", "b"):
        assert read_result(tmp_path / name)["error"] == "by Ctrl-C (SIGINT)"
    assert are_gone(pids if deaf else pids[::2])
    for pid in () if deaf else pids[1::2]:
        os.kill(pid, signal.SIGKILL)  # as above


@pytest.mark.slow
def test_a_killed_fork_server_is_replaced(local_pool: Pools, tmp_path: Path) -> None:
    from multiprocessing import forkserver

    pool = local_pool(work=works.linger)
    job = plain_job(tmp_path / "job", CPU)
    pool.start(job)
    pids = pids_in(job.folder / "pids")
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    (ended,) = pool.wait(60)
    assert ended.ending.status == "failed"
    assert "fork server" in read_result(job.folder)["error"]
    assert are_gone(pids)
    later = run_all(local_pool(work=works.look_around), plain_job(tmp_path / "later", CPU))
    assert later["later"].ending.status == "done"
