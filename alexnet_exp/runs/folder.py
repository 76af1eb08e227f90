"""Writes a run folder, the only interface between training and everything after it.

The names and columns of its files are a public format. A full disk does not stop a run; a folder that no longer exists
does (`disk_errors` decides).
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from alexnet_exp.atomic import atomic_write, temporary_files, write_link
from alexnet_exp.runs.disk_errors import UnwritableError, is_lost
from alexnet_exp.runs.lock import locked
from alexnet_exp.runs.reader import RESULT_FORMAT, read_result
from alexnet_exp.runs.table import CsvTable, Value, cut_back

METRICS_COLUMNS = (
    *("epoch", "step", "lr", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5"),
    *("seconds", "images_per_s"),
)
STEPS_COLUMNS = ("step", "loss", "lr")
STEPS_FILE = "steps.csv"
EARLIER_FOLDER = "earlier"  # files of earlier attempts
PRUNE_FILE = "prune"  # if it exists, the run ends after its current epoch; its text is the reason
RESULT_FILE = "result.json"
CHECKPOINTS = "checkpoints"

log = logging.getLogger(__name__)


def checkpoint_file(run: Path, name: str) -> Path:
    """Returns the file of the checkpoint `name` (last, previous, best) of a run, whether or not it exists."""
    return run / CHECKPOINTS / f"{name}.ckpt"


def has_checkpoint(run: Path) -> bool:
    """Returns whether a run has any checkpoint."""
    return any((run / CHECKPOINTS).glob("*.ckpt"))


class RunFolder:
    """Writes a run folder, and creates it if necessary. One process at a time may write: see `lock`.

    What cannot be written to a full disk is kept in memory, in order, and written with the next write; the log reports
    both. A folder that no longer exists or has become read-only raises `UnwritableError`, and is not created again.
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._identity = _identity(path)
        self._tables: dict[str, CsvTable] = {}
        self._facts: dict[str, Any] = {}  # facts that are not in result.json yet
        self._waiting: dict[str, Callable[[], None]] = {}  # pending writes by file name
        self._failures: dict[str, OSError] = {}  # the error of each pending write

    @property
    def result(self) -> Path:
        """The file with the status, metrics and facts of the run."""
        return self.path / RESULT_FILE

    @property
    def log(self) -> Path:
        """The log file."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """The folder of last.ckpt, previous.ckpt and best.ckpt; it is created if necessary."""
        return self._within(CHECKPOINTS)

    def predictions(self, split: str) -> Path:
        """Returns the file of a split's labels and class probabilities; creates its folder if necessary."""
        return self._within("predictions") / f"{split}.npz"

    def lock(self) -> AbstractContextManager[None]:
        """Returns a context that holds the lock of the folder. The system releases it when the process ends in any way.

        Raises UserError with the process that is writing the folder, if there is one.
        """
        return locked(self.path)

    def begin(self, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Writes a new result.json with status `running`. `config` is nested; it is stored flat, with dotted keys.

        A resumed run keeps its `start`. Raises UnwritableError if it cannot be written, also on a full disk, because a
        run that has not started can wait.
        """
        now = _now()
        start = read_result(self.path).get("start", now) if self.result.exists() else now
        for leftover in (*temporary_files(self.path), *temporary_files(self.path / CHECKPOINTS)):
            with suppress(OSError):
                leftover.unlink()  # left by a killed process, as large as a checkpoint
        head = {
            "format": RESULT_FORMAT,
            "status": "running",
            "start": start,
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        try:
            self._check_identity()
            self._write(head | dict(facts) | {"config": flatten(config)})
        except OSError as error:
            raise UnwritableError(self.path, RESULT_FILE, error) from None

    def update(self, **facts: Any) -> None:
        """Adds or replaces facts in result.json."""
        self._facts |= facts
        self.save(RESULT_FILE, self._write_facts)

    def finish(self, status: str, **facts: Any) -> None:
        """Writes the final status (done, pruned, failed or interrupted), the end time and more facts to result.json.

        Raises UnwritableError if it cannot be written.
        """
        assert status in ("done", "pruned", "failed", "interrupted"), status
        self.update(**{"status": status, "end": _now()} | facts)
        if RESULT_FILE in self._failures:
            raise UnwritableError(self.path, RESULT_FILE, self._failures[RESULT_FILE])

    def save(self, name: str, write: Callable[[], None]) -> None:
        """Calls `write`, which writes the file `name` of this folder and raises OSError if it fails.

        If the disk is full, later writes call it again together with the other pending writes.
        """
        self._waiting[name] = write
        self.write_waiting()

    def write_waiting(self) -> str | None:
        """Retries the pending writes. Returns one line with the files that still fail and the reason; None if none."""
        failures: dict[str, OSError] = {}
        for name, write in list(self._waiting.items()):
            try:
                self._check_identity()
                write()
            except OSError as error:
                if is_lost(error):
                    raise UnwritableError(self.path, name, error) from None
                failures[name] = error
            else:
                del self._waiting[name]
        before, self._failures = self._failures, failures
        if not failures:
            if before:
                log.warning("writes succeed again; backlog flushed")
            return None
        first = next(iter(failures.values()))
        unwritten = f"{', '.join(failures)} cannot be written ({first.strerror or first})"
        if not before:
            log.error(f"{unwritten}; kept in memory until writes succeed; training continues")
        return unwritten

    def settle(self) -> str | None:
        """Waits until the tables are on disk, so that no power failure can remove rows that a checkpoint relies on.

        Returns the failed writes as `write_waiting` does; None if there are none.
        """
        unwritten = self.write_waiting()
        if unwritten is None:
            for name, table in self._tables.items():
                try:
                    table.sync()
                except OSError as error:
                    if is_lost(error):
                        raise UnwritableError(self.path, name, error) from None
                    return f"{name} cannot be written ({error.strerror or error})"
        return unwritten

    def cut_back(self, step: int, epoch: int) -> None:
        """Removes the rows after `step` and `epoch`, where the run resumes: training will write them again.

        If the run resumes from an older checkpoint, or not bit for bit, those rows would belong to another training.
        """
        for file in [self.path / STEPS_FILE, *self.path.glob("metrics*.csv")]:
            try:
                cut_back(file, step if file.name == STEPS_FILE else epoch)
            except OSError as error:
                raise UnwritableError(self.path, file.name, error) from None
        self._tables.clear()

    def set_aside(self) -> Path | None:
        """Moves the files of an earlier attempt to earlier/<n> and deletes its checkpoints, for a run from the start.

        The configuration stays. Returns the new folder, or None if there was nothing. The caller must hold the lock.
        """
        stay = {".hydra", ".lock", EARLIER_FOLDER}
        left = [path for path in sorted(self.path.iterdir()) if path.name not in stay]
        if not left:
            return None
        place = self.path / EARLIER_FOLDER
        place.mkdir(exist_ok=True)
        number = 1 + max((int(path.name) for path in place.iterdir() if path.name.isdigit()), default=0)
        place = place / str(number)
        place.mkdir()
        # result.json last: if the process stops in between, the next attempt repeats this
        for path in sorted(left, key=lambda path: path == self.result):
            if path.name == CHECKPOINTS:
                shutil.rmtree(path)
            else:
                path.rename(place / path.name)
        self._tables.clear()
        self._waiting.clear()
        self._failures.clear()
        self._facts.clear()
        return place

    def append_metrics(self, row: Mapping[str, Value]) -> None:
        """Adds the row of an epoch to metrics.csv, unless it exists. A missing value is an empty field.

        The first row sets the header: the standard columns, then the others of that row. metrics.csv is never
        rewritten, so a metric that first appears in a later epoch is written to metrics-2.csv, with its own header, and
        so on; `read_metrics` joins the files.
        """
        self._append_metrics(row, 1)

    def append_steps(self, rows: Iterable[tuple[int, float, float]]) -> None:
        """Adds rows of step, loss and learning rate to steps.csv, except for existing steps."""
        table = self._table(STEPS_FILE)
        table.add(STEPS_COLUMNS, rows)
        self.save(STEPS_FILE, lambda: table.write(flush=False))  # flushing would make training wait for the disk

    def write_settings(self, files: Mapping[str, str]) -> None:
        """Writes the given files of `.hydra/` by name. Raises UnwritableError if that fails, also on a full disk."""
        for name, text in files.items():
            try:
                (self.path / ".hydra").mkdir(exist_ok=True)
                with atomic_write(self.path / ".hydra" / name) as file:
                    file.write(text.encode())
            except OSError as error:
                raise UnwritableError(self.path, f".hydra/{name}", error) from None

    def write_patch(self, patch: str) -> None:
        """Writes the uncommitted changes of the code to code.patch; removes the file if there are none.

        Raises UnwritableError if that fails, also on a full disk.
        """
        try:
            if not patch:
                (self.path / "code.patch").unlink(missing_ok=True)  # from an earlier attempt
                return
            with atomic_write(self.path / "code.patch") as file:
                file.write(patch.encode(errors="surrogateescape"))
        except OSError as error:
            raise UnwritableError(self.path, "code.patch", error) from None

    def link_latest(self, outputs: Path) -> None:
        """Makes `outputs`/latest a link to this run, or logs that it failed."""
        try:
            write_link(outputs / "latest", self.path)
        except OSError as error:
            log.warning(f"{outputs / 'latest'} was not updated: {error.strerror or error}")

    def _append_metrics(self, row: Mapping[str, Value], number: int) -> None:
        name = "metrics.csv" if number == 1 else f"metrics-{number}.csv"
        table = self._table(name)
        usual = METRICS_COLUMNS if number == 1 else ("epoch",)
        columns = table.columns or [*usual, *(key for key in row if key not in usual)]
        late = {key: value for key, value in row.items() if key not in columns}
        if late:
            # first, because the row in metrics.csv marks the epoch as recorded
            self._append_metrics({"epoch": row["epoch"], **late}, number + 1)
        table.add(columns, [[row.get(column) for column in columns]])
        self.save(name, table.write)

    def _within(self, name: str) -> Path:
        folder = self.path / name
        try:
            self._check_identity()
            folder.mkdir(exist_ok=True)
        except OSError as error:
            if is_lost(error):
                raise UnwritableError(self.path, name, error) from None
            raise
        return folder

    def _table(self, name: str) -> CsvTable:
        if name not in self._tables:
            try:
                self._tables[name] = CsvTable(self.path / name)
            except OSError as error:
                raise UnwritableError(self.path, name, error) from None
        return self._tables[name]

    def _check_identity(self) -> None:
        """Raises FileNotFoundError if the folder no longer exists, also if another folder has its name."""
        if _identity(self.path) != self._identity:
            raise FileNotFoundError(errno.ENOENT, "another folder has its name")

    def _write_facts(self) -> None:
        self._write(read_result(self.path) | self._facts)
        self._facts = {}

    def _write(self, record: Mapping[str, Any]) -> None:
        with atomic_write(self.result) as file:
            file.write((json.dumps(to_json_value(record), indent=2, allow_nan=False) + "\n").encode())


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested configuration with dotted keys: `{"optim": {"lr": 0.1}}` becomes `{"optim.lr": 0.1}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def to_json_value(value: Any) -> Any:
    """Returns `value` as strict JSON allows: NaN and infinities become null, paths and enums strings."""
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Enum):
        return str(value) if isinstance(value, str) else value.name  # of a setting, the name that is typed
    return str(value) if isinstance(value, Path) else value


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
