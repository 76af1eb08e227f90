"""Records the provenance of a result: commit, uncommitted changes, package versions and machine."""

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
CODE_FOLDERS = ("alexnet_exp", "conf")
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "numpy", "alexnet_exp")
# a larger patch contains data, and nobody reads or applies it
MAX_PATCH_BYTES = 1_000_000


@dataclass(frozen=True)
class Code:
    """The state of the checkout: its commit, whether it has uncommitted changes, and these as a patch for `git apply`.

    All three are empty outside git. Changes that would make the patch too large are left out, and a line in the patch
    says so. Bytes that are not UTF-8 are kept as surrogate escapes. why_unknown: git's message if it cannot read the
    checkout.
    """

    commit: str | None = None
    dirty: bool | None = None
    patch: str = ""
    why_unknown: str = ""


def code(root: Path = ROOT) -> Code:
    """Returns the state of the git checkout at `root`; empty if it is none, if git is missing or takes too long.

    The patch has the changes of all tracked files, and the untracked files of the package and of conf/.
    """
    # a package that is installed inside another repository is not part of it
    if not _git(root, "ls-files", "--", CODE_FOLDERS[0]):
        return Code(why_unknown=_why_unread(root))
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip() or None
    patches = [_diff(root, "--relative", "HEAD")] if commit else []
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE_FOLDERS).decode(
        errors="surrogateescape"
    )
    patches += [_added(root, name) for name in untracked.split("\0") if name]
    return Code(commit, dirty=any(patches), patch=_joined(patches))


_remembered: Code | None = None


def remember() -> None:
    """Makes `running` return the current state of the code, in this process and in those forked from it."""
    global _remembered
    _remembered = code()


def running() -> Code:
    """Returns the code that this process runs: as imported by its fork server, otherwise the current state."""
    return code() if _remembered is None else _remembered


def environment() -> dict[str, Any]:
    """Returns the versions of Python and of the packages that affect a result, host, process id and CPU model."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cpu": cpu_model(),
    }


@cache
def cpu_model() -> str:
    """Returns the model name of the CPU, or its architecture."""
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
    """Returns a patch that adds an untracked file."""
    file = root / name
    if file.is_file() and file.stat().st_size > MAX_PATCH_BYTES:
        return f"# {name}: untracked, {file.stat().st_size} bytes, left out\n"
    return _diff(root, "--no-index", os.devnull, name)


def _diff(root: Path, *what: str) -> str:
    # the user's git settings must not change the format of the patch
    options = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    return _git(root, "diff", *options, *what).decode(errors="surrogateescape")


def _joined(patches: list[str]) -> str:
    joined, left_out = "", 0
    for patch in patches:
        if len(joined) + len(patch) > MAX_PATCH_BYTES:
            left_out += len(patch)
        else:
            joined += patch
    return joined + (f"# {left_out} characters of changes left out\n" if left_out else "")


def _why_unread(root: Path) -> str:
    """Returns why git cannot read an existing checkout: it belongs to another user."""
    done = _run(root, "status") if (root / ".git").exists() else None
    if done is None or done.returncode == 0:
        return ""
    first = done.stderr.decode(errors="replace").split("\n")[0].removeprefix("fatal: ")
    return f"{first}; git config --global --add safe.directory {root}" if "ownership" in first else first


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    """Runs git and returns its result; None if it cannot run."""
    # without optional locks, reading the changes does not write to the index of the checkout
    env = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(["git", *arguments], cwd=root, env=env, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _git(root: Path, *arguments: str) -> bytes:
    """Returns the output of git; empty if it cannot run or fails."""
    done = _run(root, *arguments)
    if done is None:
        return b""
    # `diff --no-index` exits with 1 if there is a difference
    return done.stdout if done.returncode in (0, 1) else b""
