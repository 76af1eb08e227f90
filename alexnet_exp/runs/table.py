"""Provides a CSV file that only grows, so that a run killed at any moment leaves readable rows."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from alexnet_exp.atomic import atomic_write
from alexnet_exp.errors import UserError

Value = float | int | None

MAX_DIGITS = 18  # of a row's number: Python rejects integers of thousands of digits


class CsvTable:
    """Rows whose first column is an increasing integer: an epoch or a step.

    Existing rows are not added again, so that a run that resumes from a checkpoint can repeat them. The first write
    drops an incomplete last line, left by a killed process. Floats are written so that they are read back to the same
    bits.
    """

    def __init__(self, path: Path):
        self.path = path
        self.columns: list[str] = []
        self.last: int | None = None
        self._size = 0  # bytes of the file that are known to be complete lines
        self._waiting: list[bytes] = []
        if path.exists():
            self._open()

    def add(self, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> None:
        """Adds the rows after the last one for the next `write`. `columns` become the header of a new file."""
        fresh = [row for row in rows if self.last is None or _key(row) > self.last]
        if not fresh:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.columns:
            self.columns = list(columns)
            writer.writerow(self.columns)
        writer.writerows([[_text(value) for value in row] for row in fresh])
        self._waiting.append(text.getvalue().encode())
        self.last = _key(fresh[-1])

    def write(self, flush: bool = True) -> None:
        """Appends the added rows. After an `OSError` the file is unchanged, and the next call writes all of them.

        flush: waits until they are on disk. Without it they survive the end of this process, but not a power failure.
        """
        if not self._waiting:
            return
        content = b"".join(self._waiting)
        # a file that had rows is not created again: it would lack its first rows without showing it
        new = os.O_CREAT if self._size == 0 else 0
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | new, 0o666)
        try:
            if os.fstat(descriptor).st_size > self._size:
                os.ftruncate(descriptor, self._size)
            try:
                _write_all(descriptor, content)
                if flush:
                    os.fsync(descriptor)
            except OSError:
                with suppress(OSError):  # the next write truncates it
                    os.ftruncate(descriptor, self._size)
                raise
        finally:
            os.close(descriptor)
        self._size += len(content)
        self._waiting = []

    def sync(self) -> None:
        """Waits until the written rows are on disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def _open(self) -> None:
        content = self.path.read_bytes()
        self._size = end = content.rfind(b"\n") + 1
        # parse only two lines, because a long run has a million steps
        first, last = content[: content.find(b"\n")], content[content.rfind(b"\n", 0, max(0, end - 1)) + 1 : end]
        if end == 0:
            return
        try:
            self.columns = next(csv.reader([first.decode(errors="replace")]))
        except csv.Error as error:
            raise UserError(f"{self.path}: not a CSV file ({error})") from None
        if len(first) + 1 < end:
            try:
                self.last = int(last.partition(b",")[0])
            except ValueError:
                raise UserError(f"{self.path}: the last row does not begin with a whole number") from None


def cut_back(path: Path, last: int) -> None:
    """Removes the rows after number `last` from the table in `path`; removes the file if no row is left."""
    if not path.is_file():
        return
    head, *rows = path.read_bytes().splitlines(keepends=True) or [b""]
    kept = [row for row in rows if row.endswith(b"\n") and _is_up_to(row, last)]
    if not kept:
        path.unlink()
    elif len(kept) < len(rows):
        with atomic_write(path) as file:
            file.writelines([head, *kept])


def _is_up_to(row: bytes, last: int) -> bool:
    number = row.partition(b",")[0]
    if not number.isdigit():
        return True  # not written by CsvTable
    number = number.lstrip(b"0")
    return len(number) <= MAX_DIGITS and int(number or b"0") <= last


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of `path`, without a last line that is incomplete.

    Raises UserError if a row has another number of columns than the header.
    """
    text = path.read_bytes().decode(errors="replace")
    header, *rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))) or [[]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}: line {number} has {len(row)} values for {len(header)} columns")
    return header, rows


def _text(value: Value) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def _key(row: Sequence[Value]) -> int:
    assert isinstance(row[0], int), f"{row[0]!r} cannot order the rows of a table"
    return row[0]


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
