"""Writes and verifies the SHA-256 checksum of a file, kept next to it in the format of `sha256sum -c`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from alexnet_exp.atomic import atomic_write
from alexnet_exp.errors import UserError


def checksum_file(path: Path) -> Path:
    """Returns the path of the checksum file of `path`."""
    return path.with_name(f"{path.name}.sha256")


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path) -> str:
    """Computes the checksum of `path`, writes its checksum file, and returns it."""
    found = digest(path)
    write_known(path, found)
    return found


def write_known(path: Path, digest: str) -> None:
    """Writes the checksum file of `path` with a digest that is already known."""
    with atomic_write(checksum_file(path)) as file:
        file.write(f"{digest}  {path.name}\n".encode())


def read(path: Path) -> str | None:
    """Returns the digest in the checksum file of `path`, without verifying it; None if there is no such file."""
    return (
        checksum_file(path).read_text(encoding="utf-8", errors="replace").split(" ")[0]
        if checksum_file(path).exists()
        else None
    )


def verify(path: Path) -> bool:
    """Returns whether `path` has a checksum file. Raises UserError if the file does not match its checksum."""
    try:
        expected = read(path)
        found = None if expected is None else digest(path)
    except OSError as error:  # for example a folder with the name of the file
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror})") from None
    if expected is None:
        return False
    if found != expected:
        raise UserError(f"{path}: damaged or truncated: its SHA-256 differs from the one in {checksum_file(path).name}")
    return True
