"""The rank of a process, also with leftover variables of another program in the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.processes import ranks
from tests.conftest import TINY


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ranks.RANK_VARIABLES, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)


ALONE = [
    {},
    {"RANK": "1", "WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "elsewhere"},
    {"SLURM_PROCID": "1"},
    {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": ""},
    {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
    {"RANK": "", "WORLD_SIZE": "", "SLURM_PROCID": ""},
]
RANKS = [
    ({"LOCAL_RANK": "0", "RANK": "2", "WORLD_SIZE": "4"}, 2),
    ({"LOCAL_RANK": "1"}, 0),
    ({"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, 3),
]


@pytest.mark.parametrize("environment", ALONE)
def test_process_without_launcher_is_a_single_process(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert not ranks.is_rank()
    assert ranks.rank() == 0
    ranks.drop_rank_variables()
    assert not set(ranks.RANK_VARIABLES) & os.environ.keys(), "Lightning would read them"
    told = capsys.readouterr().err
    misled = {"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "0"}
    named = [name for name, usual in misled.items() if environment.get(name) not in (None, "", usual)]
    assert told.count("\n") == bool(named)
    assert all(f"{name}='{environment[name]}'" in told for name in named)


@pytest.mark.parametrize(("environment", "number"), RANKS)
def test_rank_is_read_from_the_environment(
    environment: dict[str, str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.is_rank()
    assert ranks.rank() == number
    ranks.drop_rank_variables()
    assert environment.items() <= os.environ.items()


@pytest.mark.parametrize("environment", [{"RANK": "1", "WORLD_SIZE": "2"}, {"SLURM_PROCID": "1"}])
def test_run_with_leftover_rank_variables_is_recorded(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "hydra.run.dir=run", "trainer.max_epochs=1"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["status"] == "done"
    assert "in the environment: ignored, because this is a single process" in err.splitlines()[0]
    assert {file.name for file in (tmp_path / "run").iterdir()} >= {"result.json", "metrics.csv", "train.log"}


def test_rejected_rank_reports_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from alexnet_exp.config.compose import compose
    from alexnet_exp.training.train import train

    for name, value in {"LOCAL_RANK": "3", "RANK": "3", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    container = compose([*TINY, "data=folder", f"data.root={tmp_path / 'nowhere'}", "data.subset=null"])
    assert train(container, tmp_path / "run") == 2
    assert "rank 3: failed: " in capfd.readouterr().err
