"""The folder of one run: the only interface between training and everything after it.

What lies in it, by name and by column, is a contract: other tools may read it. A full disk does not stop a run, and a
folder that is gone does (`faults` tells them apart).
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
from alexnet_exp.runs.reader import FORMAT, read_result
from alexnet_exp.runs.table import Table, Value, cut_back

METRICS = (
    *("epoch", "step", "lr", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5"),
    *("seconds", "images_per_s"),
)
STEPS = ("step", "loss", "lr")
STEPS_FILE = "steps.csv"
EARLIER = "earlier"  # the folder of what earlier attempts left
PRUNE = "prune"  # the file whose presence asks a run to end after its epoch; it says why
RESULT = "result.json"
CHECKPOINTS = "checkpoints"

log = logging.getLogger(__name__)


def checkpoint_file(run: Path, name: str) -> Path:
    """Returns the file of the checkpoint `name` (last, previous, best) of a run, whether or not it exists."""
    return run / CHECKPOINTS / f"{name}.ckpt"


def has_checkpoint(run: Path) -> bool:
    """Returns whether a run has any checkpoint."""
    return any((run / CHECKPOINTS).glob("*.ckpt"))


class RunFolder:
    """Writes a run's folder, which is created if need be. One process at a time: see `lock`.

    What a full disk does not take is kept in memory, in its order, and written with whatever is written next; one line
    in the log says so, and one that it has been written. A folder that is gone or has become read-only raises
    `UnwritableError`, and is not made anew.
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._identity = _identity(path)
        self._tables: dict[str, Table] = {}
        self._facts: dict[str, Any] = {}  # those that result.json does not have yet
        self._waiting: dict[str, Callable[[], None]] = {}  # by the name of the file that is to be written
        self._failures: dict[str, OSError] = {}  # why they wait

    @property
    def result(self) -> Path:
        """What the run is and came to, as JSON."""
        return self.path / RESULT

    @property
    def log(self) -> Path:
        """The text log."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """The folder of last.ckpt, previous.ckpt and best.ckpt, created if need be."""
        return self._within(CHECKPOINTS)

    def predictions(self, split: str) -> Path:
        """The file of a split's labels and class probabilities; its folder is created if need be."""
        return self._within("predictions") / f"{split}.npz"

    def lock(self) -> AbstractContextManager[None]:
        """Holds the folder for this process; the system lets go of it when the process ends, however it ends.

        Raises UserError, naming the process, when another one is writing the folder.
        """
        return locked(self.path)

    def begin(self, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Writes result.json anew with status `running`; `config` is nested and is stored flat, under dotted keys.

        A run that goes on in its folder keeps the `start` it had. Raises UnwritableError where it cannot be written,
        also on a full disk: a run that has not begun can wait.
        """
        now = _now()
        start = read_result(self.path).get("start", now) if self.result.exists() else now
        for leftover in (*temporary_files(self.path), *temporary_files(self.path / CHECKPOINTS)):
            with suppress(OSError):
                leftover.unlink()  # of a process that was killed, as big as a checkpoint
        head = {"format": FORMAT, "status": "running", "start": start, "pid": os.getpid(), "host": socket.gethostname()}
        try:
            self._look()
            self._write(head | dict(facts) | {"config": flatten(config)})
        except OSError as error:
            raise UnwritableError(self.path, RESULT, error) from None

    def update(self, **facts: Any) -> None:
        """Adds facts to result.json, or replaces them."""
        self._facts |= facts
        self.save(RESULT, self._write_facts)

    def finish(self, status: str, **facts: Any) -> None:
        """Closes result.json with `status` done, pruned, failed or interrupted, the time of the end, and more facts.

        Raises UnwritableError where it cannot be written.
        """
        assert status in ("done", "pruned", "failed", "interrupted"), status
        self.update(**{"status": status, "end": _now()} | facts)
        if RESULT in self._failures:
            raise UnwritableError(self.path, RESULT, self._failures[RESULT])

    def save(self, name: str, write: Callable[[], None]) -> None:
        """Calls `write`, which writes the file `name` of this folder and raises OSError where it cannot.

        If the disk is full it is called again, with all else that waits, whenever something is written.
        """
        self._waiting[name] = write
        self.write_waiting()

    def write_waiting(self) -> str | None:
        """Tries to write what waits for room. What is still not written then, and why, in one line; None: nothing."""
        failures: dict[str, OSError] = {}
        for name, write in list(self._waiting.items()):
            try:
                self._look()
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
                log.warning("the disk takes what is written again: nothing is missing")
            return None
        first = next(iter(failures.values()))
        unwritten = f"{', '.join(failures)} cannot be written ({first.strerror or first})"
        if not before:
            log.error(f"{unwritten}: kept in memory until the disk takes it; training goes on")
        return unwritten

    def settle(self) -> str | None:
        """Waits until the disk has the tables: no crash of the machine may take rows that a checkpoint counts on.

        What is not written, and why, as `write_waiting` has it; None: nothing is missing.
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
        """Takes back the rows behind `step` and `epoch`, from where the run goes on: they will be written again.

        Where the run goes on from an older checkpoint, or not to the last bit, they would be of another training.
        """
        for file in [self.path / STEPS_FILE, *self.path.glob("metrics*.csv")]:
            try:
                cut_back(file, step if file.name == STEPS_FILE else epoch)
            except OSError as error:
                raise UnwritableError(self.path, file.name, error) from None
        self._tables.clear()

    def set_aside(self) -> Path | None:
        """Moves what an earlier attempt left to earlier/<n>, but not its checkpoints: a run then starts from nothing.

        The configuration stays. None where there was nothing. The caller sees to it that nobody writes the folder.
        """
        stay = {".hydra", ".lock", EARLIER}
        left = [path for path in sorted(self.path.iterdir()) if path.name not in stay]
        if not left:
            return None
        place = self.path / EARLIER
        place.mkdir(exist_ok=True)
        number = 1 + max((int(path.name) for path in place.iterdir() if path.name.isdigit()), default=0)
        place = place / str(number)
        place.mkdir()
        # result.json last: until it has gone, whoever is stopped in between does all this again
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
        """Adds an epoch's row to metrics.csv, unless that epoch is there already; a missing value is an empty field.

        The header is fixed by the first row: the usual columns, then whatever else that row has. metrics.csv is never
        rewritten, so a metric that first appears in a later epoch opens metrics-2.csv beside it, with a header of its
        own, and so on; `read_metrics` joins them.
        """
        self._append_metrics(row, 1)

    def append_steps(self, rows: Iterable[tuple[int, float, float]]) -> None:
        """Adds rows of step, loss and learning rate to steps.csv, leaving out steps that are there already."""
        table = self._table(STEPS_FILE)
        table.add(STEPS, rows)
        self.save(STEPS_FILE, lambda: table.write(flush=False))  # flushed, the training would wait for the disk

    def write_settings(self, files: Mapping[str, str]) -> None:
        """Writes the given files of `.hydra/`, by name.

        Raises UnwritableError as `begin` does.
        """
        for name, text in files.items():
            try:
                (self.path / ".hydra").mkdir(exist_ok=True)
                with atomic_write(self.path / ".hydra" / name) as file:
                    file.write(text.encode())
            except OSError as error:
                raise UnwritableError(self.path, f".hydra/{name}", error) from None

    def write_patch(self, patch: str) -> None:
        """Keeps the uncommitted part of the code as code.patch; no file if there is none.

        Raises UnwritableError as `begin` does.
        """
        try:
            if not patch:
                (self.path / "code.patch").unlink(missing_ok=True)  # of an attempt with other code
                return
            with atomic_write(self.path / "code.patch") as file:
                file.write(patch.encode(errors="surrogateescape"))
        except OSError as error:
            raise UnwritableError(self.path, "code.patch", error) from None

    def link_latest(self, outputs: Path) -> None:
        """Makes `outputs`/latest lead to this run; where it cannot, the log says so."""
        try:
            write_link(outputs / "latest", self.path)
        except OSError as error:
            log.warning(f"{outputs / 'latest'} does not lead to this run: {error.strerror or error}")

    def _append_metrics(self, row: Mapping[str, Value], number: int) -> None:
        name = "metrics.csv" if number == 1 else f"metrics-{number}.csv"
        table = self._table(name)
        usual = METRICS if number == 1 else ("epoch",)
        columns = table.columns or [*usual, *(key for key in row if key not in usual)]
        late = {key: value for key, value in row.items() if key not in columns}
        if late:
            # first, because the row of metrics.csv is what tells that an epoch has been recorded
            self._append_metrics({"epoch": row["epoch"], **late}, number + 1)
        table.add(columns, [[row.get(column) for column in columns]])
        self.save(name, table.write)

    def _within(self, name: str) -> Path:
        folder = self.path / name
        try:
            self._look()
            folder.mkdir(exist_ok=True)
        except OSError as error:
            if is_lost(error):
                raise UnwritableError(self.path, name, error) from None
            raise
        return folder

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            try:
                self._tables[name] = Table(self.path / name)
            except OSError as error:
                raise UnwritableError(self.path, name, error) from None
        return self._tables[name]

    def _look(self) -> None:
        """Raises FileNotFoundError where the folder is gone, also where another has its name by now."""
        if _identity(self.path) != self._identity:
            raise FileNotFoundError(errno.ENOENT, "another folder has its name")

    def _write_facts(self) -> None:
        self._write(read_result(self.path) | self._facts)
        self._facts = {}

    def _write(self, record: Mapping[str, Any]) -> None:
        with atomic_write(self.result) as file:
            file.write((json.dumps(plain(record), indent=2, allow_nan=False) + "\n").encode())


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration under dotted keys: `{"optim": {"lr": 0.1}}` is `{"optim.lr": 0.1}`; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def plain(value: Any) -> Any:
    """What strict JSON can hold: a NaN or an infinity, which it cannot, becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
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
