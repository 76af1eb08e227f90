"""Tests of the environment variables that a job's folder may set."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alexnet_exp.errors import Refused, UserError
from alexnet_exp.sweep.plan.env import check, read_variables


def write_env_set(folder: Path, env_set: object) -> Path:
    (folder / ".hydra").mkdir()
    text = yaml.safe_dump({"hydra": {"job": {"env_set": env_set}}})
    (folder / ".hydra" / "hydra.yaml").write_text(text)
    return folder


def test_variables_are_read_without_interpolation(tmp_path: Path) -> None:
    folder = write_env_set(tmp_path, {"OMP_NUM_THREADS": 2, "DATA": "${oc.env:HOME}/data"})
    assert read_variables(folder) == {"OMP_NUM_THREADS": "2", "DATA": "${oc.env:HOME}/data"}


def test_without_env_set_there_are_no_variables(tmp_path: Path) -> None:
    assert read_variables(tmp_path) == {}
    assert read_variables(write_env_set(tmp_path, None)) == {}


def test_variables_that_determine_the_code_are_rejected_together() -> None:
    names = [
        "PATH",
        "PYTHONSTARTUP",
        "LD_LIBRARY_PATH",
        "DYLD_INSERT_LIBRARIES",
        "ALEXNET_EXP_ALLOW",
        "OMP_TOOL_LIBRARIES",
    ]
    with pytest.raises(Refused) as refused:
        check([*names, "CUDA_VISIBLE_DEVICES", "MINE"])
    assert [problem.key.rpartition(".")[2] for problem in refused.value.problems] == names


@pytest.mark.parametrize("text", ["{", "hydra: !!python/object/apply:os.system [true]", "a: \0"])
def test_an_unreadable_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "hydra.yaml").write_text(text)
    with pytest.raises(UserError, match="cannot be read") as refused:
        read_variables(tmp_path)
    assert len(str(refused.value).splitlines()) == 1
