"""Whole runs that are told to stop or killed: what is saved, what they say, and that no process of them is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_exp.processes.signals import ECHO_SECONDS
from alexnet_exp.runs.reader import read_metrics, read_result
from tests.sweep.jobs import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found by their environment"),
]
MARK = "ALEXNET_EXP_TEST_MARK"
RUN = Path("outputs", "run")
ENDINGS = [
    (signal.SIGINT, 130, "by Ctrl-C (SIGINT)"),
    (signal.SIGTERM, 75, "by SIGTERM"),
    (signal.SIGUSR1, 75, "by SIGUSR1"),
    (signal.SIGHUP, 75, "by SIGHUP"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a few images of two classes."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (70, 70, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


class Running:
    """A run that trains without end, two loader workers beside each of its ranks."""

    def __init__(self, command: Callable[..., subprocess.Popen[str]], folder: Path, images: Path, *more: str):
        self.run, self.mark = folder / RUN, uuid.uuid4().hex
        data = ("data=folder", f"data.root={images}", "data.subset=null", "data.batch_size=4")
        workers = ("data.workers=2", "data.decode=always", "trainer.max_epochs=100000", f"hydra.run.dir={RUN}")
        environment = os.environ | {MARK: self.mark}
        self.process = command(*data, *workers, *more, env=environment, process_group=0)

    def has_begun(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        return (self.run / "metrics.csv").exists() and len(read_metrics(self.run)) > 0

    def processes(self) -> list[int]:
        """All that have been started for this run and live, whoever is their parent by now."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def ended(self) -> int:
        """The exit code, once it has ended and nothing of it is left."""
        self.process.communicate(timeout=180)
        wait_until(lambda: not self.processes(), 20)
        return self.process.returncode

    def close(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(command: Any, tmp_path: Path, images: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(*more: str) -> Running:
        started.append(Running(command, tmp_path, images, *more))
        wait_until(started[-1].has_begun, 180)
        return started[-1]

    yield begin
    for each in started:
        each.close()


Start = Callable[..., Running]


@pytest.mark.parametrize(
    ("more", "number", "code", "reason"), [*(([], *ending) for ending in ENDINGS), (["trainer=ddp_cpu"], *ENDINGS[0])]
)
def test_a_signal_to_all_processes_saves_and_ends(
    start: Start, more: list[str], number: signal.Signals, code: int, reason: str
) -> None:
    """To the workers too, and the fork servers: as a terminal, systemd or a scheduler sends it."""
    running = start(*more)
    for pid in running.processes():
        os.kill(pid, number)
    assert running.ended() == code
    result = read_result(running.run)
    assert (result["status"], result["error"]) == ("interrupted", reason)
    assert (running.run / "checkpoints" / "last.ckpt").exists()
    log = (running.run / "train.log").read_text()
    assert "Traceback" not in log
    assert log.count(f"interrupted: {reason}") == 1


@pytest.mark.parametrize("more", [[], ["trainer=ddp_cpu"]], ids=["one process", "two ranks"])
def test_a_killed_run_leaves_no_process(start: Start, more: list[str]) -> None:
    running = start(*more)
    running.process.kill()
    assert running.ended() == -signal.SIGKILL


def test_a_second_signal_leaves_no_process(start: Start) -> None:
    running = start("trainer=ddp_cpu")
    running.process.send_signal(signal.SIGTERM)
    time.sleep(2 * ECHO_SECONDS)
    running.process.send_signal(signal.SIGTERM)
    # where all is saved by then, the second meets an interpreter at its end, which knows of no handlers
    assert running.ended() in (75, -signal.SIGTERM)
    assert json.loads((running.run / "result.json").read_text())["status"] == "interrupted"
