"""On which machine, with which code, and was it alone: what a measurement is worth without that is nothing."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from alexnet_exp.processes.cpus import cores
from alexnet_exp.runs import provenance

# Cores that others may keep busy before a measurement counts as disturbed: a desktop's own daemons take less.
QUIET = 0.1
LOOK = 0.5  # seconds to look at an idle machine
FAREWELL = 5.0  # seconds that orphaned processes of a group get to end
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "pillow", "alexnet_exp")
CHILD_SUBREAPER = 36  # of Linux's prctl


@dataclass(frozen=True)
class Load:
    """Who else computed. Cores kept busy by others in the moment before a measurement and, on average, during it.

    What the hypervisor took away counts as others. None: this system does not tell. start, end: load averages of a
    minute, which count the measured processes too.
    """

    before: float | None
    during: float | None
    start: float | None
    end: float | None

    @property
    def busy(self) -> str:
        """In words where somebody was in the way; empty otherwise, also where it is not known."""
        most = max(self.before or 0.0, self.during or 0.0)
        return f"others kept {most:.1f} cores busy" if most > QUIET else ""

    def to_json(self) -> dict[str, float | None]:
        return {key: None if value is None else round(value, 3) for key, value in asdict(self).items()}


class Watch:
    """From its making to `load()`: who else computed beside this process and its descendants, which have ended by then.

    The descendants count as far as this process has waited for them: `adopt_orphans` before they are started, and
    `bury` before `load`, catch those that outlive their parent, such as a fork server.
    """

    def __init__(self) -> None:
        self._start = _load_average()
        self._before = _others_now()
        self._busy, self._ours, self._time = _busy(), _ours(), time.perf_counter()

    def load(self) -> Load:
        """What was seen until now."""
        busy, seconds = _busy(), time.perf_counter() - self._time
        during = None
        if busy is not None and self._busy is not None:
            during = max(0.0, busy - self._busy - (_ours() - self._ours)) / seconds
        return Load(self._before, during, self._start, _load_average())


def machine() -> dict[str, Any]:
    """The machine, the versions and the code, as JSON; threads: torch's where it is imported."""
    code = provenance.code()
    torch = sys.modules.get("torch")
    return {
        "cpu": provenance.cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads() if torch else None,
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
        "commit": code.commit,
        "dirty": code.dirty,
    }


def adopt_orphans() -> None:
    """From now on this process is the parent of each descendant that loses its own. On Linux; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)


def bury() -> None:
    """Waits for the children that are left, for a few seconds at most."""
    deadline = time.monotonic() + FAREWELL
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
        except ChildProcessError:
            return


def _ours() -> float:
    """Seconds of the CPU that this process and all that it has waited for used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _busy() -> float | None:
    """Seconds for which the machine's cores were not idle, all together since it was started; stolen ones included."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, interrupt, softirq, steal = map(int, fields[:8])
    return (user + nice + system + interrupt + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _others_now() -> float | None:
    before = _busy()
    if before is None:
        return None
    time.sleep(LOOK)
    after = _busy()
    return None if after is None else (after - before) / LOOK


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
