"""`--help`: what it names, and that nothing heavy is loaded for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from alexnet_exp.__main__ import COMMANDS, main
from alexnet_exp.paths import groups


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


def exit_code(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as ended:  # argparse's own way
        return ended.code


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"train"}))
def test_every_command_has_a_help_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([command, "--help"]) == 0
    assert f"alexnet_exp {command}" in capsys.readouterr().out
