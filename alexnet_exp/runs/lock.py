"""The lock of a run folder: held by the process that writes it, and let go by the system when that process ends.

On a file system without locks (some network ones) the name of the process in the lock's file stands for the lock: a
second process is refused while that one lives, and where it was on another machine until the file is deleted. Two that
start within the same moment are told apart less surely there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet_exp.errors import UserError
from alexnet_exp.runs.disk_errors import UnwritableError

NAME = ".lock"
SETTLED = 0.1  # seconds after which, without locks, whoever else began in the same moment has written its name too
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_held: set[int] = set()


def _let_go_in_child() -> None:
    # a forked child (a loader's worker) shares the lock and would keep it after its parent was killed
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`; raises UserError, naming the process, when another one holds it.

    Raises UnwritableError where the folder cannot have a lock.
    """
    try:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise UnwritableError(folder, NAME, error) from None
    _held.add(descriptor)
    held = by_name = False
    try:
        by_name = _take(descriptor, folder)
        held = True
        yield
    finally:
        # a forked child has closed it, and may have a file of its own under that number by now
        if descriptor in _held:
            _held.remove(descriptor)
            with suppress(OSError):  # a disk that is gone lets go of it by itself
                if held:  # a command that is refused leaves the folder as it was
                    os.ftruncate(descriptor, 0)
                if not by_name:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Whether a live process holds the lock of `folder`."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return _lives(_holder(descriptor))
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> bool:
    """Takes the lock, and writes this process's name into it; True where the name is all there is."""
    name = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        if not _acquire(descriptor):
            raise UserError(f"{folder} is in use by {_holder(descriptor) or 'another process'}")
        with suppress(OSError):  # on a full disk it holds without a name
            _sign(descriptor, name)
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UnwritableError(folder, NAME, error) from None
    holder = _holder(descriptor)
    if not _lives(holder):
        try:
            _sign(descriptor, name)
        except OSError as error:
            raise UnwritableError(folder, NAME, error) from None
        time.sleep(SETTLED)
        holder = _holder(descriptor)
        if holder == name:
            return True
    raise UserError(f"{folder} is in use by {holder}; if that is gone, delete {folder / NAME}")


def _sign(descriptor: int, name: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, name.encode(), 0)


def _lives(name: str) -> bool:
    """Whether the process of that name may live: one of another machine may."""
    found = re.fullmatch(r"process (\d+) on (.+)", name)
    if found is None or found[2] != socket.gethostname():
        return found is not None
    try:
        os.kill(int(found[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _acquire(descriptor: int) -> bool:
    # `in_use` takes the lock for a moment to look at it: a run that starts just then must not be refused
    for _ in range(10):
        if _try(descriptor, fcntl.LOCK_EX):
            return True
        time.sleep(0.02)
    return False


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace")
