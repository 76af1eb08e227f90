"""Provides the lock of a run folder. The process that writes the folder holds it; the system releases it at its end.

On a file system without locks (some network file systems) the name of the process in the lock file replaces the lock. A
second process is rejected while the first one is alive; if the first one ran on another machine, until the lock file is
deleted. There, two processes that start at the same moment are not always detected.
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

LOCK_FILE = ".lock"
SETTLE_SECONDS = 0.1  # seconds after which another process that started at the same moment has written its name too
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_held: set[int] = set()


def _let_go_in_child() -> None:
    # a forked child, such as a worker of a loader, shares the lock and would keep it after its parent was killed
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder` inside the block. Raises UserError with the process that holds it already.

    Raises UnwritableError if no lock file can be created in the folder.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise UnwritableError(folder, LOCK_FILE, error) from None
    _held.add(descriptor)
    held = by_name = False
    try:
        by_name = _take(descriptor, folder)
        held = True
        yield
    finally:
        # a forked child has closed the descriptor, and may use the same number for a file of its own
        if descriptor in _held:
            _held.remove(descriptor)
            with suppress(OSError):  # a disk that was removed has released the lock
                if held:  # a rejected command leaves the folder unchanged
                    os.ftruncate(descriptor, 0)
                if not by_name:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Returns whether a live process holds the lock of `folder`."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would block
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
    """Takes the lock and writes this process's name into it. Returns True if only the name protects the folder."""
    name = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        if not _acquire(descriptor):
            raise UserError(f"{folder} is in use by {_holder(descriptor) or 'another process'}")
        with suppress(OSError):  # on a full disk the lock holds without the name
            _sign(descriptor, name)
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UnwritableError(folder, LOCK_FILE, error) from None
    holder = _holder(descriptor)
    if not _lives(holder):
        try:
            _sign(descriptor, name)
        except OSError as error:
            raise UnwritableError(folder, LOCK_FILE, error) from None
        time.sleep(SETTLE_SECONDS)
        holder = _holder(descriptor)
        if holder == name:
            return True
    raise UserError(f"{folder} is in use by {holder}; if that process no longer exists, delete {folder / LOCK_FILE}")


def _sign(descriptor: int, name: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, name.encode(), 0)


def _lives(name: str) -> bool:
    """Returns whether the process of that name may be alive; a process of another machine may."""
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
    # `in_use` takes the lock for a moment to check it: a run that starts at that moment must not be rejected
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
