"""Whole runs that take a second: digits, a network of a twentieth of the width, a few batches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

TINY = (
    *("data.subset=96", "data.batch_size=32", "model.width=0.05", "trainer=cpu", "trainer.max_epochs=2"),
    "trainer.precision=32-true",  # equal sums also on a machine that computes in bf16
)

# Our kernels wherever they apply: what is fastest would be measured for seconds, on a machine that runs other tests.
os.environ.setdefault("ALEXNET_EXP_NATIVE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    rewrites = "tests/test_docs_console.py rewrites the pages with what is printed"
    parser.addoption("--update-pages", action="store_true", help=rewrites)


@pytest.fixture(autouse=True)
def _own_choice_of_kernels() -> Iterator[None]:
    """A test's choice ends with it."""
    yield
    if (module := sys.modules.get("alexnet_exp.kernels.choice")) is not None:
        module._active.clear()


@dataclass(frozen=True)
class Run:
    """A run's folder after the run, and the exit code."""

    path: Path
    code: int

    @property
    def result(self) -> dict[str, Any]:
        from alexnet_exp.runs.reader import read_result

        return read_result(self.path)

    @property
    def metrics(self) -> list[dict[str, float | None]]:
        from alexnet_exp.runs.reader import read_metrics

        return read_metrics(self.path)

    @property
    def losses(self) -> list[float]:
        return [loss for _, loss, _ in self.steps]

    @property
    def steps(self) -> list[tuple[int, float, float]]:
        from alexnet_exp.runs.reader import read_steps

        return read_steps(self.path)

    @property
    def log(self) -> str:
        return (self.path / "train.log").read_text()

    def checkpoint(self, name: str) -> dict[str, Any]:
        content = torch.load(self.path / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)
        assert isinstance(content, dict)
        return content


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` and what is in it; of a lock, which is the system's, only that it is there."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): b"" if file.name == ".lock" else file.read_bytes() for file in files}


def train_into(path: Path, *overrides: str) -> Run:
    """One experiment in this process, as `python -m alexnet_exp` would run it, but for Hydra's choice of the folder."""
    from alexnet_exp.config.compose import compose
    from alexnet_exp.training.train import train

    container = compose([*TINY, *overrides])
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(container), path / ".hydra" / "config.yaml")
    return Run(path, train(container, path))


@pytest.fixture(scope="session", autouse=True)
def signals_of_a_terminal() -> None:
    """Under nohup, or in the background of a script, a process starts with these ignored; so do its children."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Equal sums on every machine, and no fight over cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def train_run(tmp_path: Path) -> Callable[..., Run]:
    """`train_run("name", *overrides)`: a run of its own in tmp_path/outputs/train/name."""

    def run(name: str, *overrides: str) -> Run:
        return train_into(tmp_path / "outputs" / "train" / name, *overrides)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that nobody changes."""
    run = train_into(tmp_path_factory.mktemp("shared") / "outputs" / "train" / "finished")
    assert run.code == 0
    return run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.Popen[str]]:
    """`command("--allow", "faulty", "trainer=ddp_cpu", stdin=...)`: in tmp_path, as a process."""

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
        return subprocess.Popen([sys.executable, "-m", "alexnet_exp", *TINY, *arguments], **(pipes | options))

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return start


def opened_data(run: Run) -> Any:
    """The data module of a run, with its images."""
    from alexnet_exp.config.validate import validate
    from alexnet_exp.runs.reader import read_config
    from alexnet_exp.training.build import build

    data = build(validate(read_config(run.path))).data
    data.setup("fit")
    return data


@pytest.fixture(params=["native", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to cut and scale images: by the native kernel, where this machine has it, and by torch."""
    from alexnet_exp.kernels import images

    if request.param == "torch":
        monkeypatch.setattr(images, "library", lambda: None)
    elif images.library() is None:
        pytest.skip("no native kernels here")
    return str(request.param)
