"""Provides the kernels of this folder as a loaded library, compiled once by this machine's own C compiler.

The sources use no headers of torch or Python: they receive addresses and sizes. Their threads are those of the OpenMP
that torch has loaded, so that the two do not compete for the cores.
"""

from __future__ import annotations

import ctypes
import grp
import hashlib
import logging
import os
import platform
import pwd
import shlex
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

log = logging.getLogger(__name__)

NATIVE_VARIABLE = "ALEXNET_EXP_NATIVE"
"""The environment variable that overrides the measured choice: 0 = torch's operators only, 1 = our kernels, auto."""

FLAGS_VARIABLE = "ALEXNET_EXP_KERNEL_FLAGS"
"""The environment variable with more flags for the compiler, such as `-fsanitize=address`; quoted as in a shell."""

SOURCE_FOLDER = Path(__file__).parent
OPTIONAL_FLAGS = ("-march=native", "-fopenmp")
"""Omitted for a compiler that lacks them. Without OpenMP every kernel runs in one thread."""
COMPILER_FLAGS = (
    *("-O3", "-std=c11", "-fPIC", "-pipe", *OPTIONAL_FLAGS),
    *("-fno-math-errno", "-fno-trapping-math"),  # nobody reads errno or the processor's exception flags
    "-ffp-contract=fast",  # a product and a sum in one instruction, rounded once; ISO C's mode would not
)
COMPILER_TIMEOUT_S = 120
LEFTOVER_AGE_S = 3600
"""Age from which the files of a killed compiler are removed."""


@dataclass(frozen=True)
class Native:
    """The loaded library, or None; `why` is the reason then. key: of its sources, compiler and processor."""

    library: ctypes.CDLL | None
    why: str
    key: str = ""


@cache
def native() -> Native:
    """Returns this machine's kernels, and compiles them on first use. Never raises: the kernels are optional."""
    if os.environ.get(NATIVE_VARIABLE) == "0":
        return Native(None, f"{NATIVE_VARIABLE}=0")
    if sys.platform != "linux":
        return Native(None, "native kernels are compiled on Linux only")
    try:
        compiler, flags = _words("CC") or ["cc"], _words(FLAGS_VARIABLE)
    except ValueError as error:
        return Native(None, str(error))
    if wrong := next((flag for flag in flags if not flag.startswith("-")), None):
        return Native(None, f"{FLAGS_VARIABLE}={shlex.join(flags)}: {wrong} is no flag; begin each with a dash")
    if shutil.which(compiler[0]) is None:
        return Native(None, f"no C compiler ({compiler[0]}) on this machine")
    try:
        library, key = _loaded(compiler, (*COMPILER_FLAGS, *flags))
        return Native(library, "native kernels", key)
    except subprocess.CalledProcessError as error:
        first = next(iter(error.stderr.decode(errors="replace").splitlines()), "no message")
        return Native(None, f"{shlex.join(compiler)} failed: {first}")
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:  # RuntimeError: no home folder
        return Native(None, str(error))


def _words(variable: str) -> list[str]:
    """Returns the words of an environment variable, split as a shell does; raises ValueError for an open quote."""
    value = os.environ.get(variable, "")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{variable}={value}: {error}; quote it as in a shell") from None


def _loaded(compiler: list[str], flags: tuple[str, ...]) -> tuple[ctypes.CDLL, str]:
    """Returns the library, compiled if it is missing, and its key."""
    folder, sources, headers = (
        cache_folder() / "kernels",
        sorted(SOURCE_FOLDER.glob("*.c")),
        sorted(SOURCE_FOLDER.glob("*.h")),
    )
    key = _key([*sources, *headers], compiler, flags)
    name = f"{key}.so"
    for made in (folder.parent, folder):
        made.mkdir(mode=0o755, parents=True, exist_ok=True)
    inside = _entered(folder.resolve())
    try:
        for attempt in range(2):
            if not _exists(name, inside):
                _compile(sources, compiler, flags, folder, name)
            try:
                return _opened(name, inside), key
            except OSError:  # not a library (full disk, crash), or a file that others could have written
                if attempt:
                    raise
                os.unlink(name, dir_fd=inside)
        raise AssertionError("unreachable")
    finally:
        os.close(inside)


def _entered(folder: Path) -> int:
    """Returns a descriptor of `folder`, a path without links, in which only this user and root can put or swap a file.

    Each folder on the way is opened in the one before it and checked then, so that a checked folder cannot be
    exchanged. Raises PermissionError.
    """
    at = os.open("/", os.O_PATH | os.O_DIRECTORY)
    here = Path("/")
    try:
        for part in (*folder.parts[1:], None):
            found = os.fstat(at)
            if here == folder and found.st_uid == os.getuid() and found.st_mode & 0o022:
                here.chmod(stat.S_IMODE(found.st_mode) & ~0o022)  # some umasks let a group write new folders
                found = os.fstat(at)
            # in a folder with the sticky bit, such as /tmp, others cannot swap files that they do not own
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
    """Whether only this user and root can write the file or folder; loading a library runs its code."""
    written = found.st_mode & (0o002 if found.st_gid == _private_group() else 0o022)
    return found.st_uid in (os.getuid(), 0, _root_outside()) and not written and not stat.S_ISLNK(found.st_mode)


def _is_sticky(found: os.stat_result) -> bool:
    return found.st_uid in (os.getuid(), 0, _root_outside()) and bool(found.st_mode & stat.S_ISVTX)


@cache
def _private_group() -> int | None:
    """Returns the user's private group: of the user's name and without other members. None where there is none."""
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    except KeyError:
        return None
    alone = user.pw_name == group.gr_name and user.pw_gid == group.gr_gid and set(group.gr_mem) <= {user.pw_name}
    return group.gr_gid if alone else None


@cache
def _root_outside() -> int | None:
    """Returns the owner of root's files in a container that does not map root; None where root is mapped."""
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
    """Returns the library `name` of a folder; the file that is loaded is the one that was checked."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
    try:
        if not _only_ours(os.fstat(file)):
            raise PermissionError(f"{name}: others may write it, so it is not loaded")
        library = ctypes.CDLL(f"/proc/self/fd/{file}")
    except BaseException:
        os.close(file)
        raise
    # The file stays open: the loader identifies a library by this path, which no other file may get.
    return library


def _compile(sources: list[Path], compiler: list[str], flags: tuple[str, ...], folder: Path, name: str) -> None:
    """Compiles the library `name` into `folder`, atomically: several processes may compile at once."""
    for left in folder.glob("*.part"):  # from a killed process
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > LEFTOVER_AGE_S:
                left.unlink() if not left.is_dir() else shutil.rmtree(left)
    log.info(f"compiling the native kernels ({compiler[0]}): once on this machine, a few seconds")
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{os.getpid()}.", suffix=".part") as scratch:
        part = Path(scratch) / name
        try:
            _build(sources, [*compiler, *flags], part)
        except subprocess.CalledProcessError:
            lacking = [flag for flag in OPTIONAL_FLAGS if not _accepts(compiler, flag, scratch)]
            if not lacking:
                raise
            log.warning(f"{compiler[0]} lacks {' and '.join(lacking)}, so the native kernels are slower; install gcc")
            _build(sources, [*compiler, *(flag for flag in flags if flag not in lacking)], part)
        part.chmod(0o755)
        part.replace(folder / name)


def _build(sources: list[Path], command: list[str], library: Path) -> None:
    """Compiles the sources, all at the same time, and links them to `library`."""
    objects = [str(library.with_name(f"{source.stem}.o")) for source in sources]
    compiled = [[*command, "-c", str(source), "-o", made] for source, made in zip(sources, objects, strict=True)]
    _run(compiled, str(library.parent))
    _run([[*command, "-shared", *objects, "-o", str(library), "-lm"]], str(library.parent))


def _accepts(compiler: list[str], flag: str, scratch: str) -> bool:
    """Whether the compiler takes the flag and finds what it links to."""
    empty = Path(scratch) / "empty.c"
    empty.write_text("int nothing;\n")
    try:
        _run([[*compiler, flag, "-shared", "-fPIC", str(empty), "-o", str(empty.with_suffix(".so"))]], scratch)
    except subprocess.CalledProcessError:
        return False
    return True


def _run(commands: list[list[str]], scratch: str) -> None:
    """Runs compilers at the same time, temporary files in `scratch`, and ends all their processes on any outcome."""
    deadline = time.monotonic() + COMPILER_TIMEOUT_S
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, "TMPDIR": scratch},
            )
            started.append(process)
        for process in started:
            output = process.communicate(timeout=max(0, deadline - time.monotonic()))[1]
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, stderr=output)
    finally:
        for process in started:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def _key(sources: list[Path], compiler: list[str], flags: tuple[str, ...]) -> str:
    """Returns a hash of sources, headers, flags, compiler and processor: machines may share a home folder."""
    hashed = hashlib.blake2b(digest_size=12)
    for text in (*flags, *map(_identity, compiler), platform.machine(), processor()):
        hashed.update(text.encode() + b"\0")
    for source in sources:
        hashed.update(source.read_bytes() + b"\0")
    return hashed.hexdigest()


def _identity(word: str) -> str:
    """Returns a word of the compiler's command; of a program (`ccache gcc` has two) also which one it is today."""
    found = shutil.which(word)
    if found is None:
        return word
    resolved = Path(found).resolve()
    return f"{word} {resolved} {resolved.stat().st_mtime_ns}"


def processor() -> str:
    """Returns the CPU's features as Linux lists them: code for another CPU may be an illegal instruction."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
