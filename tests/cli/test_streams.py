"""Commands whose standard streams are closed, or cannot show a character; Ctrl-C before anything listens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import alexnet_exp
from alexnet_exp.__main__ import main
from tests.conftest import TINY, Run

PYTHON = [sys.executable, "-m", "alexnet_exp"]
CLOSED = "import os, sys\nfor number in {}: os.close(number)\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(alexnet_exp.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def closed(numbers: list[int], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that is started with these streams closed."""
    starter = [sys.executable, "-c", CLOSED.format(numbers), "-m", "alexnet_exp", *arguments]
    return subprocess.run(starter, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize("numbers", [[2], [1], [0, 1, 2]])
def test_a_command_without_streams_works(numbers: list[int], tmp_path: Path, environment: None) -> None:
    done = closed(numbers, "model=paper", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert closed(numbers, "runs", "nowhere", cwd=tmp_path).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[2], [1], [0, 1, 2]])
@pytest.mark.parametrize("words", [["seed=1"], ["-m", "seed=1,2"]])
def test_a_run_without_streams_is_done(numbers: list[int], words: list[str], tmp_path: Path, environment: None) -> None:
    done = closed(numbers, *words, *TINY, "trainer.max_epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = [json.loads(file.read_text()) for file in tmp_path.rglob("result.json")]
    assert {result["status"] for result in results} == {"done"}


def test_a_warning_has_no_escape(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert warnings.formatwarning("\x1b[2J", UserWarning, "file", 1, "") == "file:1: UserWarning: \\x1b[2J\n"


def test_later_files_do_not_reuse_the_descriptor_of_a_stream() -> None:
    code = "from alexnet_exp.cli.streams import open_streams; import os; os.close(0); os.close(1); open_streams(); "
    code += "opened = os.open('/dev/null', os.O_RDONLY); print('x'); assert opened > 2, opened"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "command", [["--help"], ["runs"], ["runs", "show", "last"], ["compare"], ["model=paper", "--cfg", "job"]]
)
def test_characters_that_the_terminal_lacks_are_escaped(
    command: list[str],
    tmp_path: Path,
    environment: None,
    finished: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "outputs" / "run"
    run.mkdir(parents=True)
    result = json.loads((finished.path / "result.json").read_text()) | {"note": "ünï — ±"}
    (run / "result.json").write_text(json.dumps(result))
    (tmp_path / "outputs" / "latest").symlink_to("run")
    for name, value in {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([*PYTHON, *command], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_sweep_where_no_character_but_ascii_can_be_written(
    tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    command = [*PYTHON, "-m", *TINY, "trainer.max_epochs=1", "seed=1,2"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_a_setting_with_invalid_text_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    """As Python reads one that is not UTF-8, or any that is not ASCII where the locale is."""
    assert main([*TINY, "note=" + os.fsdecode(b"caf\xe9")]) == 2
    assert capsys.readouterr().err == "note=caf\\udce9: not UTF-8 text; in an ASCII locale set LC_ALL=C.UTF-8\n"


EARLY = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["EARLY"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("module", ["alexnet_exp.runs.status", "alexnet_exp.errors", "alexnet_exp.processes.signals"])
def test_ctrl_c_during_imports_prints_no_traceback(
    module: str, tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    monkeypatch.setenv("EARLY", module)
    done = subprocess.run([*PYTHON, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_the_package_imports_nothing() -> None:
    """Whatever it imported would be interrupted with a traceback; and `dir` shows what there is to use."""
    code = "import sys; before = set(sys.modules); import alexnet_exp; print(set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'alexnet_exp'}\n"
    assert dir(alexnet_exp) == sorted(alexnet_exp.__all__)
    assert all(hasattr(alexnet_exp, name) for name in alexnet_exp.__all__)
