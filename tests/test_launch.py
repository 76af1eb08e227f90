"""Ranks as processes: what they are told, how their endings come back, that none is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import alexnet_exp.train  # noqa: F401  the fork server preloads this module, and with it what later tests run in it
from alexnet_exp.endings import Ending
from alexnet_exp.launch import rank_environment, run_ranks


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


def test_what_meets_all_ranks_is_told_by_rank_0(tmp_path: Path) -> None:
    assert run_ranks(fail_alike, 2, "gloo", {}, tmp_path) == Ending("failed", 1, "nan, says 0", recorded=True)


@pytest.mark.parametrize(("work", "said"), [(be_killed, "by signal SIGKILL"), (raise_out, "with exit code 7")])
def test_a_rank_that_cannot_speak_is_spoken_for(tmp_path: Path, work: Any, said: str) -> None:
    ending = run_ranks(work, 2, "gloo", {}, tmp_path)
    assert (ending.status, ending.code, ending.recorded) == ("failed", 1, False)
    assert f"ended without a word, {said}" in ending.reason
    assert no_child_is_left()


KILLED_PARENT = """
import os, time
from pathlib import Path
from alexnet_exp.launch import rank_environment, run_ranks

def linger(container, folder):
    (folder / f"pid{os.environ['RANK']}").write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    run_ranks(linger, 2, "gloo", {}, Path("."))
"""


def test_no_rank_outlives_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(KILLED_PARENT)
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path)
    files = [tmp_path / f"pid{rank}" for rank in (0, 1)]
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert all(is_gone(int(file.read_text())) for file in files)


def is_gone(pid: int, seconds: float = 8) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_single_process_is_no_rank() -> None:
    outer = {"HOME": "/h", "RANK": "3", "MASTER_PORT": "1", "SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}
    assert rank_environment(outer, 0, 1) == {"HOME": "/h", "SLURM_JOB_ID": "7"}
    of_two = {"LOCAL_RANK": "1", "RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    assert rank_environment(outer, 1, 2) == {"HOME": "/h", "SLURM_JOB_ID": "7", **of_two}


def test_starting_the_server_needs_no_torch() -> None:
    script = "import sys; from alexnet_exp.sweep.local import LocalPool; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
