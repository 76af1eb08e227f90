"""The kernels of this folder, compiled for this machine by its own C compiler, once, and loaded.

They need no header of torch or Python: they get addresses and sizes. Their threads are those of the OpenMP that torch
has loaded already, so that the two never compete for the cores.
"""

from __future__ import annotations

import ctypes
import grp
import hashlib
import os
import platform
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alexnet_exp.paths import cache_folder

SWITCH = "ALEXNET_EXP_NATIVE"
"""Environment variable; 0 = torch's operators only."""

HERE = Path(__file__).parent
FLAGS = (
    *("-O3", "-march=native", "-std=c11", "-fPIC", "-shared", "-fopenmp", "-pipe"),
    *("-fno-math-errno", "-fno-trapping-math"),  # nobody reads errno or the processor's exception flags
    "-ffp-contract=fast",  # a product and a sum in one instruction, rounded once; ISO C's mode would not
)
PATIENCE = 120
"""Seconds that the compiler gets."""
LEFT_AFTER = 3600
"""Seconds after which what a killed compiler left is removed."""


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
    folder, sources = cache_folder() / "kernels", sorted(HERE.glob("*.c"))
    name = f"{_key(sources, compiler)}.so"
    for made in (folder.parent, folder):
        made.mkdir(mode=0o755, parents=True, exist_ok=True)
    inside = _entered(folder.resolve())
    try:
        for attempt in range(2):
            if not _exists(name, inside):
                _compile(sources, compiler, folder, name)
            try:
                return _opened(name, inside)
            except (
                OSError
            ):  # a disk that was full, a crash: what is there is no library; or others could have written it
                if attempt:
                    raise
                os.unlink(name, dir_fd=inside)
        raise AssertionError("unreachable")
    finally:
        os.close(inside)


def _entered(folder: Path) -> int:
    """A descriptor of `folder`, a path without links, in which nobody but this user or root can put or swap a file.

    Each folder on the way is opened in the one before it and looked at then: what was looked at cannot be exchanged.
    """
    at = os.open("/", os.O_PATH | os.O_DIRECTORY)
    here = Path("/")
    try:
        for part in (*folder.parts[1:], None):
            found = os.fstat(at)
            if here == folder and found.st_uid == os.getuid() and found.st_mode & 0o022:
                here.chmod(stat.S_IMODE(found.st_mode) & ~0o022)  # some umasks let a group write what is made
                found = os.fstat(at)
            # in a folder with the sticky bit, as /tmp, others cannot swap what they do not own
            if not _only_ours(found) and (part is None or not _is_sticky(found)):
                advice = "chmod go-w it, or set XDG_CACHE_HOME to a folder of your own"
                below = "there" if here == folder else f"{folder}; {advice}"
                raise PermissionError(f"{here}: others may write it, so nothing is loaded from {below}")
            if part is None:
                break
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at, here = inner, here / part
    except BaseException:
        os.close(at)
        raise
    return at


def _only_ours(found: os.stat_result) -> bool:
    """Whether nobody but this user, or root, can have written a file or put one into a folder: loading it runs it."""
    written = found.st_mode & (0o002 if found.st_gid == _private_group() else 0o022)
    return found.st_uid in (os.getuid(), 0, _root_outside()) and not written and not stat.S_ISLNK(found.st_mode)


def _is_sticky(found: os.stat_result) -> bool:
    return found.st_uid in (os.getuid(), 0, _root_outside()) and bool(found.st_mode & stat.S_ISVTX)


@cache
def _private_group() -> int | None:
    """The group that has this user's name and nobody else in it, as many systems make one for each user."""
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    except KeyError:
        return None
    alone = user.pw_name == group.gr_name and user.pw_gid == group.gr_gid and set(group.gr_mem) <= {user.pw_name}
    return group.gr_gid if alone else None


@cache
def _root_outside() -> int | None:
    """The user that root's files belong to in a container which does not know root; None where root is known."""
    try:
        maps = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
        known = any(int(outside) == 0 for _, outside, _ in maps)
        return None if known else int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return None


def _exists(name: str, inside: int) -> bool:
    try:
        os.stat(name, dir_fd=inside, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _opened(name: str, inside: int) -> ctypes.CDLL:
    """The library of that name in a folder; what is loaded is the very file that was looked at."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
    try:
        if not _only_ours(os.fstat(file)):
            raise PermissionError(f"{name}: others may write it, so it is not loaded")
        library = ctypes.CDLL(f"/proc/self/fd/{file}")
    except BaseException:
        os.close(file)
        raise
    # it stays open: the loader knows a library by its path, which must not become another file's
    return library


def _compile(sources: list[Path], compiler: Path, folder: Path, name: str) -> None:
    """Makes the library `name` in `folder`: whole or not at all, also where several processes compile at once."""
    for left in folder.glob("*.part"):  # of a process that was killed
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > LEFT_AFTER:
                left.unlink() if not left.is_dir() else shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{os.getpid()}.", suffix=".part") as scratch:
        part = Path(scratch) / name
        _run([str(compiler), *FLAGS, *map(str, sources), "-o", str(part), "-lm"], scratch)
        part.chmod(0o755)
        part.replace(folder / name)


def _run(command: list[str], scratch: str) -> None:
    """Runs the compiler with its own temporary files in `scratch`; however that ends, none of its processes is left."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": scratch},
    )
    try:
        said = process.communicate(timeout=PATIENCE)[1]
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)


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
