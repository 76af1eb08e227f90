"""What SLURM is asked for, and how its answers are read; without a cluster. `tests/slurm/` has one."""

from __future__ import annotations

import builtins
import os
from pathlib import Path

import pytest

from alexnet_exp.errors import Refused, UserError
from alexnet_exp.processes.ranks import is_rank
from alexnet_exp.sweep.execute import slurm_queue
from alexnet_exp.sweep.execute.slurm import Resources, _requeue, check, need_submitit, resources
from alexnet_exp.sweep.execute.slurm_queue import FORGOTTEN, Queue, own_id, states
from alexnet_exp.sweep.execute.slurm_settings import SlurmSettings
from alexnet_exp.training.launch import rank_environment


@pytest.mark.parametrize(
    ("trainer", "asked"),
    [
        ({}, Resources(1, 1, None)),
        ({"gpus": 0}, Resources(1, 1, 0)),
        ({"gpus": 2}, Resources(1, 2, 2)),
        ({"gpus": [0, 1]}, Resources(1, 2, 2)),
        ({"gpus": 4, "num_nodes": 3}, Resources(3, 4, 4)),
        ({"accelerator": "cpu", "devices": 2}, Resources(1, 2, None)),
        ({"accelerator": "gpu", "devices": 2}, Resources(1, 2, 2)),
        ({"accelerator": "cpu", "devices": "auto"}, Resources(1, 1, None)),
        ({"strategy": "columns"}, Resources(1, 2, None)),
        ({"strategy": "columns", "gpus": 0}, Resources(1, 2, 0)),
        ({"strategy": "columns", "accelerator": "gpu"}, Resources(1, 2, 2)),
        ({"strategy": "columns", "gpus": 4}, Resources(1, 4, 4)),
    ],
)
def test_a_task_for_each_device(trainer, asked):
    assert resources(trainer, SlurmSettings()) == asked


def test_where_the_trainer_says_no_number_the_settings_do():
    assert resources({"gpus": -1}, SlurmSettings(gpus_per_node=8)) == Resources(1, 8, 8)
    assert resources({}, SlurmSettings(gpus_per_node=1)) == Resources(1, 1, 1)
    with pytest.raises(Refused, match=r"trainer\.gpus=-1: .*hydra\.launcher\.gpus_per_node"):
        resources({"gpus": -1}, SlurmSettings())


def test_what_trainer_and_settings_say_differently_is_refused_together():
    settings = SlurmSettings(nodes=2, tasks_per_node=4)
    with pytest.raises(Refused) as refused:
        check([{"gpus": 2}, {"gpus": 2, "optim": 1}, {"gpus": [2, 3]}], settings)
    assert [problem.key for problem in refused.value.problems] == [
        *("hydra.launcher.tasks_per_node", "hydra.launcher.nodes", "trainer.gpus")
    ]


def test_settings_out_of_range_are_refused_together():
    with pytest.raises(Refused) as refused:
        SlurmSettings(timeout_min=0, mem_gb=-1.0, jobs=0)
    assert [problem.key for problem in refused.value.problems] == ["timeout_min", "jobs", "mem_gb"]


def test_without_submitit_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "submitit":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"^hydra/launcher=slurm: .*pip install -e '\.\[slurm\]'$"):
        need_submitit()


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "wrap"}, False),  # sbatch -n 4, plain python
        ({"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),  # srun in it
        ({"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, False),  # srun -n 1 in it
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_NAME": "bash"}, False),  # srun --pty bash
    ],
)
def test_a_rank_of_srun_is_told_from_a_process_in_an_allocation(variables, several, monkeypatch):
    for key in [key for key in os.environ if key.startswith("SLURM_")]:
        monkeypatch.delenv(key)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert is_rank() is several
    # a worker may be one of several tasks of an srun; its jobs are not
    monkeypatch.setattr(os, "environ", rank_environment(dict(os.environ), 0, 1))
    assert not is_rank()


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A squeue that answers from a file, and notes what it was asked."""

    def answers(lines: str, code: int = 0, error: str = "") -> Path:
        program = tmp_path / "squeue"
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat <<END\n{lines}\nEND\necho "{error}" >&2\nexit {code}\n'
        )
        program.chmod(0o755)
        return tmp_path / "asked"

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return answers


def test_all_jobs_are_asked_for_at_once_and_what_is_not_there_has_ended(squeue):
    asked = squeue("12_0|RUNNING\n12_1|CANCELLED\n15|COMPLETING")
    assert states(["12_0", "12_1", "15", "9"]) == {"12_0": "RUNNING", "12_1": "CANCELLED", "15": "COMPLETING"}
    assert asked.read_text().count("--jobs=12,15,9") == 1


def test_a_forgotten_job_is_told_from_a_queue_that_does_not_answer(squeue):
    squeue("", 1, "slurm_load_jobs error: Invalid job id specified")
    queue = Queue()
    assert (queue.state("7"), queue.is_alive("7")) == (FORGOTTEN, False)
    squeue("", 1, "slurm_load_jobs error: Unable to contact slurm controller")
    queue = Queue()
    assert (queue.state("7"), queue.is_alive("7")) == (None, None)


def test_an_answer_holds_for_a_while_and_longer_when_nothing_happens(squeue, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(slurm_queue.time, "monotonic", lambda: now[0])
    asked = squeue("7|RUNNING")
    queue = Queue()
    for _ in range(100):
        assert queue.is_alive("7")
        now[0] += 1.0
    assert 8 <= len(asked.read_text().splitlines()) <= 30
    squeue("8|PENDING")
    assert queue.is_alive("8")  # one that was not asked for yet is asked for at once
    assert queue.state("7") == FORGOTTEN


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "5"}, "5"),
        ({"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "3", "SLURM_ARRAY_TASK_ID": "2"}, "3_2"),
    ],
)
def test_a_job_of_an_array_goes_by_the_number_that_it_had_while_it_waited(variables, number, monkeypatch):
    for key in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(key, raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert own_id() == number


@pytest.fixture
def scontrol(tmp_path, squeue, monkeypatch):
    """A controller in whose queue job 7 is as `be` says, and the folder of that job; what it is asked is in `told`."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    (tmp_path / "scontrol").chmod(0o755)
    for key in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    folder = tmp_path / "sweep" / "job"
    folder.mkdir(parents=True)
    (tmp_path / "sweep" / "slurm").mkdir()

    def requeued(state: str, new: bool) -> str:
        squeue(f"7|{state}")
        _requeue(folder, new)
        told = tmp_path / "told"
        return told.read_text().strip() if told.exists() else ""

    return requeued, folder


def test_a_job_that_saved_is_requeued(scontrol):
    requeued, folder = scontrol
    assert requeued("RUNNING", new=True) == "requeue 7"
    assert "SLURM job 7: requeued" in (folder / "train.log").read_text()


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING", "CANCELLED", "PREEMPTED"])
def test_a_job_that_slurm_has_taken_back_or_cancelled_is_left_to_it(scontrol, state):
    requeued, _ = scontrol
    assert requeued(state, new=True) == ""


def test_a_job_that_is_stopped_for_good_is_not_requeued(scontrol):
    requeued, folder = scontrol
    (folder.parent / "slurm" / "7.stop").touch()
    assert requeued("RUNNING", new=True) == ""


def test_a_job_that_saves_nothing_within_its_limit_does_not_begin_for_ever(scontrol):
    requeued, folder = scontrol
    assert requeued("RUNNING", new=False) == ""
    assert "not requeued: nothing was saved within the time limit" in (folder / "train.log").read_text()
