"""Commands as processes that are to be killed: found again by a mark in their environment, whoever their parent is."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.startup import environment

CHECKOUT = Path(__file__).parents[1]
MARK = "BENCHMARKS_PROCESS"
PROC = Path("/proc")
LEAVING = 10.0  # seconds in which the processes of a command that was killed are to be gone
LOOK = 0.02


@dataclass(frozen=True)
class Command:
    """A running `python -m alexnet_exp ...`, and by its mark all the processes that come from it."""

    process: subprocess.Popen[bytes]
    mark: str
    started: float

    @classmethod
    def start(
        cls,
        arguments: Sequence[str],
        folder: Path,
        told: Path,
        variables: Mapping[str, str] | None = None,
        threads: int | None = 1,
    ) -> Command:
        """Starts it in `folder`, with this checkout's code; what it says goes into `told`.

        variables: of its environment, beside this process's. threads: of each process; None: as it chooses.
        """
        mark = secrets.token_hex(8)
        path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
        around = environment() | dict(variables or {}) | {MARK: mark, "PYTHONPATH": path}
        if threads:
            around["OMP_NUM_THREADS"] = str(threads)
        with told.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "alexnet_exp", *arguments],
                cwd=folder,
                env=around,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(process, mark, time.monotonic())

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started

    def running(self) -> bool:
        """Whether the command itself, the parent of all others, has not ended."""
        return self.process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Whether the command itself ends in time."""
        return wait_until(lambda: not self.running(), seconds)

    def processes(self) -> list[int]:
        """Of all that come from it, those that live."""
        return [pid for pid in _pids() if f"{MARK}={self.mark}".encode() in _environment(pid)]

    def server(self) -> int | None:
        """The fork server; None where there is none."""
        servers = [pid for pid in self.processes() if b"multiprocessing.forkserver" in _read(pid, "cmdline")]
        return next((pid for pid in servers if _parent(pid) == self.process.pid), None)

    def ranks(self) -> list[int]:
        """The processes that the fork server has started; none where there is no such server."""
        server = self.server()
        return [] if server is None else [pid for pid in self.processes() if _parent(pid) == server]

    def kill(self) -> None:
        """All of its processes at once, as a machine that goes down would."""
        for pid in [self.process.pid, *self.processes()]:
            kill(pid)
        self.process.wait()

    def left(self, seconds: float = LEAVING) -> list[int]:
        """The processes that are still there so long after now; returns as soon as there are none."""
        wait_until(lambda: not self.processes(), seconds)
        return self.processes()


def kill(pid: int) -> None:
    """SIGKILL, to that process alone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(LOOK)
    return True


def _pids() -> list[int]:
    return [int(each.name) for each in PROC.iterdir() if each.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def _parent(pid: int) -> int | None:
    # behind the name, which may have spaces and brackets in it
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else None


def _read(pid: int, name: str) -> bytes:
    """Empty where the process is gone."""
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""
