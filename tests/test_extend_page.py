"""docs/guides/extend.md as a reader types it: writes its files, runs its commands in the folder of the examples."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from alexnet_exp.__main__ import main
from tests.pages import ROOT, console, files

PAGE = ROOT / "docs" / "guides" / "extend.md"
PROGRAM = "python -m alexnet_exp "
# each command with what the page says that it prints
COMMANDS = [
    (block.command.removeprefix(PROGRAM), block.shown) for block in console(PAGE) if block.command.startswith(PROGRAM)
]
OF_A_SWEEP = {command for command, _ in COMMANDS if " -m " in command or command.startswith("compare ")}
WITHOUT_A_SWEEP = [(command, printed) for command, printed in COMMANDS if command not in OF_A_SWEEP]


@pytest.fixture(autouse=True)
def in_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("outputs", "__pycache__"))
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.syspath_prepend(str(tmp_path / "examples"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "examples"), prepend=":")  # of a sweep's jobs
    for name, content in files(PAGE).items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)


def typed(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs a command as a process of its own would: nothing of an earlier one is allowed or imported."""
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_alexnet", "tinylab")]:
        del sys.modules[name]
    return main(shlex.split(command))


def test_the_page_has_its_files_and_commands() -> None:
    assert [name for name in files(PAGE) if name.endswith(".py")] == ["tinylab/data.py", "tinylab/model.py"]
    assert len(COMMANDS) == 11
    assert len(OF_A_SWEEP) == 2


def test_its_commands_end_as_it_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/test/ship").mkdir(parents=True)
    Path("photos/test/ship/0014.jpg").write_bytes(b"")
    for command, printed in WITHOUT_A_SWEEP:
        code = typed(command, monkeypatch)
        said = capsys.readouterr()
        if "(exit code 2)" in printed:
            assert (code, said.err) == (2, printed.partition("(exit code")[0]), command
        else:
            assert code == 0, (command, said.err)
            first = printed.splitlines()[0]
            if "images of" in first:  # what was found, whatever the machine
                assert first in said.err.splitlines(), command


@pytest.mark.slow
def test_check_run_sweep_and_compare_an_own_network_with_own_floats(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [command for command, _ in COMMANDS if "tiny" in command]
    assert len(commands) == 4
    for command in commands:
        assert typed(command, monkeypatch) == 0, (command, capsys.readouterr().err)
    assert capsys.readouterr().out.splitlines()[-1]
    assert len(list(Path("outputs/tiny").glob("*/*/result.json"))) == 6
