"""`--help`: what it names, and that nothing heavy is loaded for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_exp.__main__ import COMMANDS, main
from alexnet_exp.paths import groups
from alexnet_exp.runs.folder import RunFolder


def test_help_names_every_command_group_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed, complaints = capsys.readouterr()
    words = set(printed.replace(",", " ").split())
    assert words >= set(COMMANDS)
    assert words >= set(groups())
    assert words >= {option for options in groups().values() for option in options}
    assert words >= {"--config-dir", "--allow", "--cfg", "-sc"}
    assert not complaints
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_loads_nothing_heavy(flag: str) -> None:
    """Half a second of CPU time is the promise; torch alone takes three, Hydra a quarter."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from alexnet_exp.__main__ import main\n"
        f"assert main([{flag!r}]) == 0\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before}, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert "alexnet_exp" in loaded
    heavy = {
        "torch",
        "torchvision",
        "pytorch_lightning",
        "lightning_fabric",
        "hydra",
        "omegaconf",
        "numpy",
        "yaml",
        "rich",
        "PIL",
    }
    assert not loaded & heavy


def loaded_by(arguments: list[str], folder: Path) -> set[str]:
    code = (
        "import sys\n"
        "from alexnet_exp.__main__ import main\n"
        f"assert main({arguments!r}) == 0\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return set(ran.stderr.split())


HEAVY = {"torch", "torchvision", "pytorch_lightning", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "rich"}


def test_a_configuration_is_shown_without_anything_that_computes(tmp_path: Path) -> None:
    loaded = loaded_by(["--cfg", "job"], tmp_path)
    assert "hydra" in loaded
    assert not loaded & HEAVY


def test_runs_are_compared_without_a_test_and_without_anything_that_computes(tmp_path: Path) -> None:
    for norm, accuracy in (("bn", 0.9), ("lrn", 0.8)):
        (tmp_path / "outputs" / "train").mkdir(parents=True, exist_ok=True)
        run = RunFolder(tmp_path / "outputs" / "train" / norm)
        run.begin({"seed": 1, "model": {"norm": norm}}, {"name": "train"})
        run.finish("done", metrics={"test/top1": accuracy}, test_images=360)
    loaded = loaded_by(["compare"], tmp_path)
    assert not loaded & (HEAVY | {"hydra", "omegaconf"})


def exit_code(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as ended:  # argparse's own way
        return ended.code


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"train"}))
def test_every_command_has_a_help_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([command, "--help"]) == 0
    assert f"alexnet_exp {command}" in capsys.readouterr().out
