"""A CSV file that only grows, so that a run killed at any moment leaves rows that can be read."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from alexnet_exp.settings import UserError

Value = float | int | None


class Table:
    """Rows whose first column is a whole number that rises: an epoch, a step.

    Rows that are there already are not added again, so that a run which goes on from a checkpoint can repeat them. A
    last line that was cut off when its writer was killed is dropped on opening. Floats are written to be read back to
    the same bits.
    """

    def __init__(self, path: Path):
        self.path = path
        self.columns: list[str] = []
        self.last: int | None = None
        if path.exists():
            self._open()

    def append(self, columns: Sequence[str], rows: Iterable[Sequence[Value]], flush: bool = True) -> None:
        """Adds the rows that come after the last one; `columns` become the header of a new file.

        flush: waits until the disk has them. Without it they outlive this process all the same, but not the machine.
        """
        fresh = [row for row in rows if self.last is None or _key(row) > self.last]
        if not fresh:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.columns:
            self.columns = list(columns)
            writer.writerow(self.columns)
        writer.writerows([[_text(value) for value in row] for row in fresh])
        with self.path.open("ab") as file:
            file.write(text.getvalue().encode())
            if flush:
                file.flush()
                os.fsync(file.fileno())
        self.last = _key(fresh[-1])

    def _open(self) -> None:
        with self.path.open("r+b") as file:
            content = file.read()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                file.truncate(end)
        # only two lines are parsed: a long run has a million steps
        first, last = content[: content.find(b"\n")], content[content.rfind(b"\n", 0, max(0, end - 1)) + 1 : end]
        if end == 0:
            return
        self.columns = next(csv.reader([first.decode()]))
        if len(first) + 1 < end:
            try:
                self.last = int(last.partition(b",")[0])
            except ValueError:
                raise UserError(f"{self.path}: the last row does not begin with a whole number") from None


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of `path`, leaving out a last line that is still being written.

    Raises UserError when a row does not have the header's columns.
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
