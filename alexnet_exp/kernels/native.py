"""The kernels of this folder, compiled for this machine by its own C compiler, once, and loaded.

They need no header of torch or Python: they get addresses and sizes. Their threads are those of the OpenMP that torch
has loaded already, so that the two never compete for the cores.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alexnet_exp.user_cache import cache_folder

SWITCH = "ALEXNET_EXP_NATIVE"
"""Environment variable; 0 = torch's operators only."""

HERE = Path(__file__).parent
FLAGS = (
    *("-O3", "-march=native", "-std=c11", "-fPIC", "-shared", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math"),  # nobody reads errno or the processor's exception flags
    "-ffp-contract=fast",  # a product and a sum in one instruction, rounded once; ISO C's mode would not
)
PATIENCE = 120
"""Seconds that the compiler gets."""


@dataclass(frozen=True)
class Native:
    """The loaded library, or None; and in a few words why there is one, or why not."""

    library: ctypes.CDLL | None
    why: str


@cache
def native() -> Native:
    """This machine's kernels, compiled if they were not yet. Never raises: without them all works, more slowly."""
    if os.environ.get(SWITCH) == "0":
        return Native(None, f"{SWITCH}=0")
    if sys.platform != "linux":
        return Native(None, "native kernels are made on Linux only")
    name = os.environ.get("CC") or "cc"
    compiler = shutil.which(name)
    if compiler is None:
        return Native(None, f"no C compiler ({name}) on this machine")
    try:
        return Native(_loaded(Path(compiler)), "native kernels")
    except subprocess.CalledProcessError as error:
        first = next(iter(error.stderr.decode(errors="replace").splitlines()), "no message")
        return Native(None, f"{compiler} failed: {first}")
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:  # RuntimeError: nobody has this home
        return Native(None, str(error))


def _loaded(compiler: Path) -> ctypes.CDLL:
    path = _compiled(compiler)
    try:
        return _opened(path)
    except OSError:  # a disk that was full, a crash: what lies there is no library; or others could have written it
        path.unlink(missing_ok=True)
        return _opened(_compiled(compiler))


def _opened(path: Path) -> ctypes.CDLL:
    if not _only_ours(path.lstat()):
        raise PermissionError(f"{path}: others may write it, so it is not loaded")
    return ctypes.CDLL(str(path))


def _only_ours(found: os.stat_result) -> bool:
    """Whether nobody but this user, or root, can have written a file or put one into a folder: loading it runs it."""
    return found.st_uid in (os.getuid(), 0) and not found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode)


def _compiled(compiler: Path) -> Path:
    """The shared library of these sources, for this compiler and this CPU."""
    sources = sorted(HERE.glob("*.c"))
    folder = cache_folder() / "kernels"
    path = folder / f"{_key(sources, compiler)}.so"
    folder.mkdir(parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid == os.getuid() and found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode):
        folder.chmod(0o755)  # some umasks let a group write what is made
    if not _only_ours(folder.lstat()):
        raise PermissionError(f"{folder}: others may write it, so nothing is loaded from there")
    if path.exists():
        return path
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        command = [str(compiler), *FLAGS, *map(str, sources), "-o", str(part), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        part.chmod(0o755)
        part.replace(path)  # whole or not at all, also where several processes compile at once
    finally:
        part.unlink(missing_ok=True)
    return path


def _key(sources: list[Path], compiler: Path) -> str:
    """A name that changes with the sources, the flags, the compiler and the processor: a home may be shared."""
    resolved = compiler.resolve()
    hashed = hashlib.blake2b(digest_size=12)
    for text in (*FLAGS, str(resolved), str(resolved.stat().st_mtime_ns), platform.machine(), _processor()):
        hashed.update(text.encode() + b"\0")
    for source in sources:
        hashed.update(source.read_bytes() + b"\0")
    return hashed.hexdigest()


def _processor() -> str:
    """What the CPU can do, as Linux lists it: code for another one may be an illegal instruction."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
