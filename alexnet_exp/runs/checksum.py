"""A SHA-256 beside a file, in the format of `sha256sum -c`, to tell a damaged checkpoint from a good one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from alexnet_exp.atomic import atomic_write
from alexnet_exp.errors import UserError


def beside(path: Path) -> Path:
    """Where the checksum of `path` lies."""
    return path.with_name(f"{path.name}.sha256")


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path) -> str:
    """Writes the checksum of `path` beside it, and returns it."""
    found = digest(path)
    note(path, found)
    return found


def note(path: Path, digest: str) -> None:
    """Writes a checksum that is known already beside `path`."""
    with atomic_write(beside(path)) as file:
        file.write(f"{digest}  {path.name}\n".encode())


def noted(path: Path) -> str | None:
    """The checksum that lies beside `path`, unverified; None when there is none."""
    return beside(path).read_text(encoding="utf-8", errors="replace").split(" ")[0] if beside(path).exists() else None


def verify(path: Path) -> bool:
    """Whether `path` was checked: False when no checksum lies beside it. Raises UserError when the checksum differs."""
    try:
        expected = noted(path)
        found = None if expected is None else digest(path)
    except OSError as error:  # a folder in its place
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror})") from None
    if expected is None:
        return False
    if found != expected:
        raise UserError(f"{path}: damaged or cut short: its SHA-256 is not the one in {beside(path).name}")
    return True
