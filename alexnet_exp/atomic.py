"""Provides atomic writes of files and links, and file locks between processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yields a binary file that replaces `path` when the block ends without an error.

    Readers find the old content or the new one, never a part. The temporary file is in the folder of `path`, because a
    rename is atomic only within one file system, and it is synced to the disk before the rename.
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
    """Yields the file at `path`, open and locked; other processes wait until the block ends.

    Raises OSError if the file cannot be opened or the file system does not support locks.
    """
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # the previous holder of the lock may have renamed or removed the file
            try:
                is_same = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                is_same = False
            if is_same:
                yield file
                return


@contextmanager
def best_effort_lock(path: Path) -> Iterator[None]:
    """Holds a `file_lock` on a file that exists for the lock alone and is removed; without a lock if there can be none.

    For work that is safe but redundant if several processes do it at once, such as a download.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(path))
            stack.callback(path.unlink, missing_ok=True)
        yield


def temporary_files(folder: Path) -> list[Path]:
    """Returns the temporary files of `atomic_write` in `folder`: those of killed processes, if no writer is running."""
    return sorted(folder.glob(".*.tmp"))


def write_link(path: Path, target: Path) -> None:
    """Makes `path` a relative symbolic link to `target`, atomically replacing an existing one.

    If the system does not allow links, `path` becomes a text file with the same relative path.
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
    """Returns the target of a link made by `write_link`, or None if the link or its target does not exist."""
    try:
        if path.is_file():
            path = path.parent / path.read_text(encoding="utf-8").strip()
        return path.resolve() if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # not UTF-8, a null byte, a name that is too long; a loop of links
        return None
