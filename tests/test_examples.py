"""The example package, by the commands that its README and its YAML files name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.runs.reader import read_config, read_result

EXAMPLES = Path(__file__).parents[1] / "examples"
YAML = sorted((EXAMPLES / "my_alexnet" / "conf").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is a copy of examples/, on the path as `python -m` puts it there; nothing is allowed yet."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("outputs", "__pycache__"))
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.syspath_prepend(str(tmp_path / "examples"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_alexnet"]:
        del sys.modules[name]
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "")


def command_in(file: Path) -> list[str]:
    (command,) = re.findall(r"Command: python -m alexnet_exp (.+)", file.read_text())
    return shlex.split(command)


def test_the_experiment_learns_and_evaluates_to_the_same_number(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["trainer.max_epochs=3", "trainer.gpus=0", "data.n=600", "optim.lr=0.004"]
    assert main([*command_in(Path("my_alexnet/conf/experiment/mine.yaml")), *short]) == 0
    run = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["run"])
    result = read_result(run)
    assert result["metrics"]["test/top1"] > 0.5  # a third by chance
    assert result["test_images"] == 150
    assert read_config(run)["optim"] == {"_target_": "my_alexnet.optim.Signum", "lr": 0.004}
    assert main(["eval", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["test/top1"] == result["metrics"]["test/top1"]


@pytest.mark.parametrize("file", YAML, ids=lambda file: file.stem)
def test_the_command_that_a_file_names_passes_check(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command_in(file)
    allow_packages, rest = words[:2], words[2:]
    assert main([*allow_packages, "check", *rest, "trainer.gpus=0"]) == 0
    assert capsys.readouterr().out.startswith("ok: ")


def test_a_shipped_network_takes_its_ends_from_the_data_source() -> None:
    from alexnet_exp.config.compose import compose_run
    from alexnet_exp.config.resolve import resolve_network
    from alexnet_exp.config.user_class import allow_packages

    allow_packages(["my_alexnet"])
    spec, _, classes = resolve_network(compose_run(["data=shapes"], "my_alexnet/conf").config)
    assert (spec.in_channels, spec.input_size, spec.num_classes) == (1, 32, 3)  # type: ignore[union-attr]
    assert classes == ["circle", "square", "cross"]


def test_a_misspelt_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = command_in(Path("my_alexnet/conf/experiment/mine.yaml"))
    assert main([*words, "+model.map=3", "trainer.gpus=0"]) == 2
    assert capsys.readouterr().err == "model.map=3: SmallNet has no such argument; did you mean maps?\n"
