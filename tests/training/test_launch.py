"""Ranks as processes: what they are told, how their endings come back, that none is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import alexnet_exp.training.train  # noqa: F401  the fork server preloads this module, and with it what later tests run in it
from alexnet_exp.processes.signals import ECHO_SECONDS
from alexnet_exp.runs.status import Ending
from alexnet_exp.training.child_task import rank_environment
from alexnet_exp.training.launch import run_ranks
from tests.sweep.jobs import are_gone, is_running, pids_in


def rank() -> int:
    return int(os.environ["RANK"])


def meet(container: Mapping[str, Any], folder: Path) -> Ending:
    """Every rank hears of all the others, and leaves a note."""
    everyone: list[Any] = [None] * dist.get_world_size()
    told = (rank(), os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"], os.environ["MARK"], container["seed"])
    dist.all_gather_object(everyone, told)
    (folder / f"{rank()}").write_text(repr(everyone))
    return Ending("done", 0)


def fail_beside_a_waiting_peer(container: Mapping[str, Any], folder: Path) -> Ending:
    (folder / f"pid{rank()}").write_text(str(os.getpid()))
    if rank() == container["who"]:
        return Ending("failed", 1, "ValueError: boom", "trace")
    dist.barrier()
    return Ending("done", 0)


def fail_alike(container: Mapping[str, Any], folder: Path) -> Ending:
    time.sleep(0.2 if rank() == 0 else 0)
    return Ending("failed", 1, f"nan, says {rank()}", recorded=rank() == 0)


def be_killed(container: Mapping[str, Any], folder: Path) -> Ending:
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
    return Ending("done", 0)


def raise_out(container: Mapping[str, Any], folder: Path) -> Ending:
    os._exit(7)


def no_child_is_left() -> bool:
    return not multiprocessing.active_children()


def test_every_rank_is_an_equal_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARK", "seen")
    assert run_ranks(meet, 2, "gloo", {"seed": 3}, tmp_path) == Ending("done", 0)
    expected = repr([(0, "0", "2", "seen", 3), (1, "1", "2", "seen", 3)])
    assert [(tmp_path / name).read_text() for name in "01"] == [expected] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"], "the rendezvous is gone"
    assert no_child_is_left()


@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_fails_ends_the_others(tmp_path: Path, who: int) -> None:
    started = time.monotonic()
    ending = run_ranks(fail_beside_a_waiting_peer, 2, "gloo", {"who": who}, tmp_path)
    assert time.monotonic() - started < 20
    prefix = "rank 1: " if who else ""
    assert ending == Ending("failed", 1, f"{prefix}ValueError: boom", "trace")
    assert no_child_is_left()
    for name in ("pid0", "pid1"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)


def test_an_error_of_all_ranks_is_reported_by_rank_0(tmp_path: Path) -> None:
    assert run_ranks(fail_alike, 2, "gloo", {}, tmp_path) == Ending("failed", 1, "nan, says 0", recorded=True)


@pytest.mark.parametrize(("work", "said"), [(be_killed, "signal SIGKILL"), (raise_out, "exit code 7")])
def test_a_killed_rank_is_reported(tmp_path: Path, work: Any, said: str) -> None:
    ending = run_ranks(work, 2, "gloo", {}, tmp_path)
    assert (ending.status, ending.code, ending.recorded) == ("failed", 1, False)
    assert f"exited without reporting a result ({said}" in ending.reason
    assert no_child_is_left()


PARENT = """
import os, subprocess, sys, time
from contextlib import nullcontext
from multiprocessing import forkserver
from pathlib import Path
from alexnet_exp.training import launch
from alexnet_exp.runs.status import Ending, ending_of
from alexnet_exp.processes.signals import stop_at_boundaries, stop_error, stop_signal

def step(container, folder):
    rank = os.environ["RANK"]
    child = subprocess.Popen(["sleep", "600"])
    (folder / f"pids{rank}").write_text(f"{os.getpid()} {child.pid}\\n")
    until = time.monotonic() + 600
    try:
        with stop_at_boundaries():
            while time.monotonic() < until:
                time.sleep(0.05)
                if stop_signal() and container["how"] != "deaf":
                    time.sleep(0.5 if rank == "0" else 0)  # rank 0 saves, which takes longer
                    (folder / f"saved{rank}").touch()
                    raise stop_error()
    except KeyboardInterrupt as stop:
        return ending_of(stop)

if __name__ == "__main__":
    launch.PRELOAD = ["alexnet_exp.processes.forkserver", "torch"]
    launch.warm()
    Path("server").write_text(f"{forkserver._forkserver._forkserver_pid}\\n")
    ending = launch.run_ranks(step, 2, "gloo", {"how": sys.argv[1]}, Path("."))
    print(f"{ending.status}: {ending.reason}")
    sys.exit(ending.code)
"""


class Parent:
    """A process whose two ranks, each with a process of its own, are in the middle of something."""

    def __init__(self, folder: Path, how: str = "", **options: Any):
        self.folder = folder
        (folder / "parent.py").write_text(PARENT)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "process_group": 0}
        self.process = subprocess.Popen(
            [sys.executable, "parent.py", how], cwd=folder, env=environment, **(pipes | options)
        )
        self.ranks: list[int] = []
        self.children: list[int] = []

    def begin(self) -> None:
        first, its, second, others = pids_in(*(self.folder / f"pids{rank}" for rank in (0, 1)))
        self.ranks, self.children = [first, second], [its, others]

    @property
    def server(self) -> int:
        return int((self.folder / "server").read_text())

    @property
    def saved(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("saved*"))

    def ended(self) -> tuple[int, str]:
        """The exit code and the ending, once it has ended; none of its ranks and none of their processes is left."""
        out, _ = self.process.communicate(timeout=60)
        assert are_gone([*self.ranks, *self.children])
        return self.process.returncode, out.strip()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Callable[..., Parent]]:
    started: list[Parent] = []

    def start(*arguments: Any, **options: Any) -> Parent:
        started.append(Parent(tmp_path, *arguments, **options))
        started[-1].begin()
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


Start = Callable[..., Parent]
ENDINGS = {
    signal.SIGINT: (130, "interrupted: by Ctrl-C (SIGINT)"),
    signal.SIGTERM: (75, "interrupted: by SIGTERM"),
    signal.SIGUSR1: (75, "interrupted: by SIGUSR1"),
    signal.SIGHUP: (75, "interrupted: by SIGHUP"),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", list(ENDINGS))
@pytest.mark.parametrize("to", ["the parent", "its group", "every process"])
def test_a_signal_reaches_every_rank_as_one(parent: Start, number: signal.Signals, to: str) -> None:
    """By `kill`, by a terminal, and as a scheduler does, which signals all that is in a job."""
    running = parent()
    if to == "every process":
        for pid in (*running.ranks, running.server):
            os.kill(pid, number)
    (os.kill if to == "the parent" else os.killpg)(running.process.pid, number)
    running.process.wait(timeout=60)
    assert running.saved == ["saved0", "saved1"]
    for pid in running.children:  # the ranks' own, who ended in peace
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert running.ended() == ENDINGS[number]


@pytest.mark.slow
def test_a_second_signal_ends_all_at_once(parent: Start) -> None:
    running = parent("deaf")
    running.process.send_signal(signal.SIGTERM)
    time.sleep(2 * ECHO_SECONDS)
    assert all(map(is_running, running.ranks)), "they are given time"
    running.process.send_signal(signal.SIGTERM)
    assert running.ended() == ENDINGS[signal.SIGTERM]


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all(parent: Start) -> None:
    running = parent()
    os.kill(running.ranks[1], signal.SIGTERM)
    running.process.wait(timeout=60)
    assert running.saved == ["saved0", "saved1"]
    for pid in running.children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert running.ended() == ENDINGS[signal.SIGTERM]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["parent", "fork server", "rank 0", "rank 1"])
def test_nobody_outlives_a_process_that_is_killed(parent: Start, who: str) -> None:
    running = parent()
    number = {"parent": running.process.pid, "fork server": running.server, "rank 0": running.ranks[0]}
    os.kill(number.get(who, running.ranks[1]), signal.SIGKILL)
    code, said = running.ended()
    if who == "parent":
        assert code == -signal.SIGKILL
    elif who == "fork server":
        assert (code, said.partition(" (")[0]) == (1, "failed: rank 0 exited without reporting a result")
    else:
        expected = (
            f"failed: {who} exited without reporting a result (signal SIGKILL; the system may have been out of memory)"
        )
        assert (code, said) == (1, expected)
    assert are_gone([running.server])


def test_a_single_process_is_no_rank() -> None:
    outer = {"HOME": "/h", "RANK": "3", "MASTER_PORT": "1", "SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}
    assert rank_environment(outer, 0, 1) == {"HOME": "/h", "SLURM_JOB_ID": "7"}
    of_two = {"LOCAL_RANK": "1", "RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    assert rank_environment(outer, 1, 2) == {"HOME": "/h", "SLURM_JOB_ID": "7", **of_two}


def test_starting_the_server_needs_no_torch() -> None:
    script = "import sys; from alexnet_exp.sweep.execute.local import LocalPool; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


SOCKETS = """
import os, sys, tempfile
from pathlib import Path
from alexnet_exp.processes.children import shorten_socket_paths
from multiprocessing import connection, util
shorten_socket_paths()
address = connection.arbitrary_address("AF_UNIX")
with connection.Listener(address):
    print(address)
print(tempfile.gettempdir())
"""


@pytest.mark.parametrize("letters", [10, 66, 75, 200])
def test_sockets_of_a_long_temporary_folder(letters: int, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    while len(str(folder)) < letters:
        folder /= "d" * min(50, letters)
    folder.mkdir(parents=True)
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", SOCKETS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    address, temporary = map(Path, done.stdout.split())
    assert temporary == folder, "all else stays there"
    assert not address.parent.exists(), "removed at the end"
    assert (folder in address.parents) == (len(str(folder)) <= 71)
