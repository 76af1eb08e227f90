"""What a result came from: the commit, the uncommitted changes, the versions and the machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CODE = ("alexnet_exp", "conf")
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "numpy", "alexnet_exp")
# a patch is for reading and applying; beyond this it holds data
LARGEST_PATCH = 1_000_000


@dataclass(frozen=True)
class Code:
    """The state of the checkout: its commit, whether it has uncommitted changes, and these as a patch for `git apply`.

    All three are empty outside git. What would make the patch too large is left out, and the patch says so. Bytes that
    are not UTF-8 are kept as surrogate escapes. why_unknown: what git says of a checkout that it does not read.
    """

    commit: str | None = None
    dirty: bool | None = None
    patch: str = ""
    why_unknown: str = ""


def code(root: Path = ROOT) -> Code:
    """The state of the git checkout at `root`; empty when it is none, when git is missing or when git takes too long.

    The patch has the changes of every tracked file and the untracked files of the package and of conf/.
    """
    # a package installed below somebody's repository is not that repository's code
    if not _git(root, "ls-files", "--", CODE[0]):
        return Code(why_unknown=_why_unread(root))
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip() or None
    patches = [_diff(root, "--relative", "HEAD")] if commit else []
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE).decode(
        errors="surrogateescape"
    )
    patches += [_added(root, name) for name in untracked.split("\0") if name]
    return Code(commit, dirty=any(patches), patch=_joined(patches))


_remembered: Code | None = None


def remember() -> None:
    """Lets `running` answer with the code as it is now, in this process and in its copies."""
    global _remembered
    _remembered = code()


def running() -> Code:
    """The code that this process runs: as it was when its fork server imported it, else as it is now."""
    return code() if _remembered is None else _remembered


def environment() -> dict[str, Any]:
    """Versions of Python and of the packages that decide a result, the host, the process and the CPU's model."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cpu": cpu_model(),
    }


@cache
def cpu_model() -> str:
    """The name of the CPU as its maker prints it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _added(root: Path, name: str) -> str:
    """The patch that adds an untracked file."""
    file = root / name
    if file.is_file() and file.stat().st_size > LARGEST_PATCH:
        return f"# {name}: untracked, {file.stat().st_size} bytes, left out\n"
    return _diff(root, "--no-index", os.devnull, name)


def _diff(root: Path, *what: str) -> str:
    # a user's own settings of git must not change what the patch looks like
    options = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    return _git(root, "diff", *options, *what).decode(errors="surrogateescape")


def _joined(patches: list[str]) -> str:
    joined, left_out = "", 0
    for patch in patches:
        if len(joined) + len(patch) > LARGEST_PATCH:
            left_out += len(patch)
        else:
            joined += patch
    return joined + (f"# {left_out} characters of changes left out\n" if left_out else "")


def _why_unread(root: Path) -> str:
    """Why git reads nothing of a checkout that is there: it belongs to another user."""
    done = _run(root, "status") if (root / ".git").exists() else None
    if done is None or done.returncode == 0:
        return ""
    first = done.stderr.decode(errors="replace").split("\n")[0].removeprefix("fatal: ")
    return f"{first}; git config --global --add safe.directory {root}" if "ownership" in first else first


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    """How git ended; None where it cannot run."""
    # without optional locks a look at the changes leaves the index of the checkout alone
    env = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(["git", *arguments], cwd=root, env=env, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _git(root: Path, *arguments: str) -> bytes:
    """What git prints, or nothing if it cannot run or refuses."""
    done = _run(root, *arguments)
    if done is None:
        return b""
    # `diff --no-index` ends with 1 when there is a difference
    return done.stdout if done.returncode in (0, 1) else b""
