"""Replacing a file so that a reader finds either the old content or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
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


def leftovers(folder: Path) -> list[Path]:
    """The temporary files in `folder`: those that killed processes left, if the caller knows that none is at work."""
    return sorted(folder.glob(".*.tmp"))


def link(path: Path, target: Path) -> None:
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
        with replacing(path) as file:
            file.write(relative.encode())
    finally:
        temporary.unlink(missing_ok=True)


def follow(path: Path) -> Path | None:
    """Where a `link` leads, or None when there is none or it leads nowhere."""
    if path.is_file():
        path = path.parent / path.read_text()
    return path.resolve() if path.exists() else None
