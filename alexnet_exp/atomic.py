"""A file replaced so that a reader finds the old content or the new one, never a part; one process at a time at it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write what `path` shall hold; it takes that name when the block ends without an error.

    It lies beside `path`, since a rename is atomic only within one file system, and is on the disk before the rename.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def file_lock(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`, open and locked: of several processes one is inside, and the others wait for it.

    Raises OSError where it cannot be opened, or the file system has no locks.
    """
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # whoever had the lock may have renamed or removed the file meanwhile
            try:
                there = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                there = False
            if there:
                yield file
                return


@contextmanager
def best_effort_lock(path: Path) -> Iterator[None]:
    """As `held`, of a file that is there for the lock alone, and is removed. Where there can be no lock, none is held.

    For what several processes may do at once, but to no use: what one has fetched is there for the next.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(path))
            stack.callback(path.unlink, missing_ok=True)
        yield


def temporary_files(folder: Path) -> list[Path]:
    """The temporary files in `folder`: those that killed processes left, if the caller knows that none is at work."""
    return sorted(folder.glob(".*.tmp"))


def write_link(path: Path, target: Path) -> None:
    """Makes `path` a relative link to `target`, replacing the link that was there.

    Where the system refuses links, `path` is a text file that holds the same relative path.
    """
    relative = os.path.relpath(target, path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(relative, target_is_directory=True)
        temporary.replace(path)
    except (OSError, NotImplementedError):
        with atomic_write(path) as file:
            file.write(relative.encode())
    finally:
        temporary.unlink(missing_ok=True)


def read_link(path: Path) -> Path | None:
    """Where a `link` leads, or None when there is none or it leads nowhere, as one in a loop or a file of bytes."""
    try:
        if path.is_file():
            path = path.parent / path.read_text(encoding="utf-8").strip()
        return path.resolve() if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # not UTF-8, with a null byte, too long a name; a loop of links
        return None
