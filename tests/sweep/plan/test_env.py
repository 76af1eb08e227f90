"""Which environment variables a job's folder may set."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alexnet_exp.errors import Refused, UserError
from alexnet_exp.sweep.plan.env import check, of_job


def noted(folder: Path, env_set: object) -> Path:
    (folder / ".hydra").mkdir()
    text = yaml.safe_dump({"hydra": {"job": {"env_set": env_set}}})
    (folder / ".hydra" / "hydra.yaml").write_text(text)
    return folder


def test_they_come_as_they_stand(tmp_path: Path) -> None:
    folder = noted(tmp_path, {"OMP_NUM_THREADS": 2, "DATA": "${oc.env:HOME}/data"})
    assert of_job(folder) == {"OMP_NUM_THREADS": "2", "DATA": "${oc.env:HOME}/data"}


def test_without_any_there_are_none(tmp_path: Path) -> None:
    assert of_job(tmp_path) == {}
    assert of_job(noted(tmp_path, None)) == {}


def test_those_that_steer_are_refused_together() -> None:
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
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "hydra.yaml").write_text(text)
    with pytest.raises(UserError, match="cannot be read") as refused:
        of_job(tmp_path)
    assert len(str(refused.value).splitlines()) == 1
