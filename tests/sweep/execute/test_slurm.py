"""Tests of SLURM requests and answers without a cluster; `tests/slurm/` has tests with one."""

from __future__ import annotations

import builtins
import os
from pathlib import Path

import pytest

from alexnet_exp.errors import Refused, UserError
from alexnet_exp.processes.ranks import is_rank
from alexnet_exp.sweep.execute import slurm_queue
from alexnet_exp.sweep.execute.slurm import SlurmResources, check_resources, require_slurm, resources_of
from alexnet_exp.sweep.execute.slurm_job import _requeue
from alexnet_exp.sweep.execute.slurm_queue import FORGOTTEN_STATE, SlurmQueue, own_job_id, query_states
from alexnet_exp.sweep.execute.slurm_settings import SlurmSettings
from alexnet_exp.training.child_task import rank_environment


@pytest.mark.parametrize(
    ("trainer", "asked"),
    [
        ({}, SlurmResources(1, 1, None)),
        ({"gpus": 0}, SlurmResources(1, 1, 0)),
        ({"gpus": 2}, SlurmResources(1, 2, 2)),
        ({"gpus": [0, 1]}, SlurmResources(1, 2, 2)),
        ({"gpus": 4, "num_nodes": 3}, SlurmResources(3, 4, 4)),
        ({"accelerator": "cpu", "devices": 2}, SlurmResources(1, 2, None)),
        ({"accelerator": "gpu", "devices": 2}, SlurmResources(1, 2, 2)),
        ({"accelerator": "cpu", "devices": "auto"}, SlurmResources(1, 1, None)),
        ({"strategy": "columns"}, SlurmResources(1, 2, None)),
        ({"strategy": "columns", "gpus": 0}, SlurmResources(1, 2, 0)),
        ({"strategy": "columns", "accelerator": "gpu"}, SlurmResources(1, 2, 2)),
        ({"strategy": "columns", "gpus": 4}, SlurmResources(1, 4, 4)),
    ],
)
def test_each_device_is_a_task(trainer, asked):
    assert resources_of(trainer, SlurmSettings()) == asked


def test_gpus_per_node_is_used_if_the_trainer_has_no_number():
    assert resources_of({"gpus": -1}, SlurmSettings(gpus_per_node=8)) == SlurmResources(1, 8, 8)
    assert resources_of({}, SlurmSettings(gpus_per_node=1)) == SlurmResources(1, 1, 1)
    with pytest.raises(Refused, match=r"trainer\.gpus=-1: .*hydra\.launcher\.gpus_per_node"):
        resources_of({"gpus": -1}, SlurmSettings())


def test_settings_that_contradict_the_trainer_are_reported_together():
    settings = SlurmSettings(nodes=2, tasks_per_node=4)
    with pytest.raises(Refused) as refused:
        check_resources([{"gpus": 2}, {"gpus": 2, "optim": 1}, {"gpus": [2, 3]}], settings)
    assert [problem.key for problem in refused.value.problems] == [
        *("hydra.launcher.tasks_per_node", "hydra.launcher.nodes", "trainer.gpus")
    ]


def test_settings_out_of_range_are_reported_together():
    with pytest.raises(Refused) as refused:
        SlurmSettings(timeout_min=0, mem_gb=-1.0, jobs=0)
    assert [problem.key for problem in refused.value.problems] == ["timeout_min", "jobs", "mem_gb"]


def test_without_submitit_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "submitit":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"^hydra/launcher=slurm: .*pip install -e '\.\[slurm\]'$"):
        require_slurm()


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "wrap"}, False),  # sbatch -n 4, plain python
        ({"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),  # srun in it
        ({"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, False),  # srun -n 1 in it
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_NAME": "bash"}, False),  # srun --pty bash
    ],
)
def test_a_rank_of_srun_is_distinguished_from_a_process_in_an_allocation(variables, several, monkeypatch):
    for key in [key for key in os.environ if key.startswith("SLURM_")]:
        monkeypatch.delenv(key)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert is_rank() is several
    # A worker may be one of several tasks of srun; its jobs are not.
    monkeypatch.setattr(os, "environ", rank_environment(dict(os.environ), 0, 1))
    assert not is_rank()


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Replaces squeue by a script with a fixed answer that logs its arguments."""

    def answers(lines: str, code: int = 0, error: str = "") -> Path:
        program = tmp_path / "squeue"
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat <<END\n{lines}\nEND\necho "{error}" >&2\nexit {code}\n'
        )
        program.chmod(0o755)
        return tmp_path / "asked"

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return answers


def test_one_query_asks_for_all_jobs_and_omits_unknown_ones(squeue):
    asked = squeue("12_0|RUNNING\n12_1|CANCELLED\n15|COMPLETING")
    assert query_states(["12_0", "12_1", "15", "9"]) == {"12_0": "RUNNING", "12_1": "CANCELLED", "15": "COMPLETING"}
    assert asked.read_text().count("--jobs=12,15,9") == 1


def test_a_forgotten_job_is_distinguished_from_a_queue_without_answer(squeue):
    squeue("", 1, "slurm_load_jobs error: Invalid job id specified")
    queue = SlurmQueue()
    assert (queue.state("7"), queue.is_alive("7")) == (FORGOTTEN_STATE, False)
    squeue("", 1, "slurm_load_jobs error: Unable to contact slurm controller")
    queue = SlurmQueue()
    assert (queue.state("7"), queue.is_alive("7")) == (None, None)


def test_queries_become_less_frequent_while_nothing_changes(squeue, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(slurm_queue.time, "monotonic", lambda: now[0])
    asked = squeue("7|RUNNING")
    queue = SlurmQueue()
    for _ in range(100):
        assert queue.is_alive("7")
        now[0] += 1.0
    assert 8 <= len(asked.read_text().splitlines()) <= 30
    squeue("8|PENDING")
    assert queue.is_alive("8")  # a new job is queried at once
    assert queue.state("7") == FORGOTTEN_STATE


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "5"}, "5"),
        ({"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "3", "SLURM_ARRAY_TASK_ID": "2"}, "3_2"),
    ],
)
def test_the_id_of_a_job_in_an_array_is_that_of_its_time_in_the_queue(variables, number, monkeypatch):
    for key in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(key, raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert own_job_id() == number


@pytest.fixture
def scontrol(tmp_path, squeue, monkeypatch):
    """Replaces scontrol by a script that logs its arguments; yields a function that requeues job 7, and its folder."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requests\n')
    (tmp_path / "scontrol").chmod(0o755)
    for key in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    folder = tmp_path / "sweep" / "job"
    folder.mkdir(parents=True)
    (tmp_path / "sweep" / "slurm").mkdir()

    def requeue(state: str, has_progress: bool) -> str:
        squeue(f"7|{state}")
        _requeue(folder, has_progress)
        requests = tmp_path / "requests"
        return requests.read_text().strip() if requests.exists() else ""

    return requeue, folder


def test_a_job_that_saved_is_requeued(scontrol):
    requeue, folder = scontrol
    assert requeue("RUNNING", has_progress=True) == "requeue 7"
    assert "SLURM job 7: requeued" in (folder / "train.log").read_text()


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING", "CANCELLED", "PREEMPTED"])
def test_a_job_that_slurm_requeued_or_cancelled_is_not_requeued(scontrol, state):
    requeue, _ = scontrol
    assert requeue(state, has_progress=True) == ""


def test_a_job_of_a_stopped_sweep_is_not_requeued(scontrol):
    requeue, folder = scontrol
    (folder.parent / "slurm" / "7.stop").touch()
    assert requeue("RUNNING", has_progress=True) == ""


def test_a_job_that_saved_nothing_is_not_requeued(scontrol):
    requeue, folder = scontrol
    assert requeue("RUNNING", has_progress=False) == ""
    assert "not requeued: nothing was saved within the time limit" in (folder / "train.log").read_text()
