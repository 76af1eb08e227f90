"""The lock of a run folder: held by the process that writes it, and let go by the system when that process ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_exp.settings import UserError

NAME = ".lock"
_held: set[int] = set()


def _let_go_in_child() -> None:
    # a forked child (a loader's worker) shares the lock and would keep it after its parent was killed
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`; raises UserError, naming the process, when another one holds it."""
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        if not _acquire(descriptor):
            raise UserError(f"{folder} is in use by {_holder(descriptor)}")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        # a forked child has closed it, and may have a file of its own under that number by now
        if descriptor in _held:
            _held.remove(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Whether a live process holds the lock of `folder`."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


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
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
