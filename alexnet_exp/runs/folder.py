"""The folder of one run: the only interface between training and everything after it.

What lies in it, by name and by column, is a contract: other tools may read it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from alexnet_exp.atomic import link, replacing
from alexnet_exp.runs.contents import FORMAT, read_result
from alexnet_exp.runs.lock import locked
from alexnet_exp.runs.table import Table, Value

METRICS = (
    *("epoch", "step", "lr", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5"),
    *("seconds", "images_per_s"),
)
STEPS = ("step", "loss", "lr")
EARLIER = "earlier"  # the folder of what earlier attempts left
PRUNE = "prune"  # the file whose presence asks a run to end after its epoch; it says why


class RunFolder:
    """Writes a run's folder, which is created if need be. One process at a time: see `lock`."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._tables: dict[str, Table] = {}

    @property
    def result(self) -> Path:
        """What the run is and came to, as JSON."""
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        """The text log."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """The folder of last.ckpt, previous.ckpt and best.ckpt, created if need be."""
        return self._within("checkpoints")

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

        A run that goes on in its folder keeps the `start` it had.
        """
        now = _now()
        start = read_result(self.path).get("start", now) if self.result.exists() else now
        head = {"format": FORMAT, "status": "running", "start": start, "pid": os.getpid(), "host": socket.gethostname()}
        self._write(head | dict(facts) | {"config": flatten(config)})

    def update(self, **facts: Any) -> None:
        """Adds facts to result.json, or replaces them."""
        self._write(read_result(self.path) | facts)

    def finish(self, status: str, **facts: Any) -> None:
        """Closes result.json with `status` done, pruned, failed or interrupted, the time of the end, and more facts."""
        assert status in ("done", "pruned", "failed", "interrupted"), status
        self.update(**{"status": status, "end": _now()} | facts)

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
            if path.name == "checkpoints":
                shutil.rmtree(path)
            else:
                path.rename(place / path.name)
        self._tables.clear()
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
        self._table("steps.csv").append(STEPS, rows, flush=False)  # the training would wait for the disk

    def write_patch(self, patch: str) -> None:
        """Keeps the uncommitted part of the code as code.patch; no file if there is none."""
        if patch:
            with replacing(self.path / "code.patch") as file:
                file.write(patch.encode(errors="surrogateescape"))

    def link_latest(self, outputs: Path) -> None:
        """Makes `outputs`/latest lead to this run."""
        link(outputs / "latest", self.path)

    def _append_metrics(self, row: Mapping[str, Value], number: int) -> None:
        table = self._table("metrics.csv" if number == 1 else f"metrics-{number}.csv")
        usual = METRICS if number == 1 else ("epoch",)
        columns = table.columns or [*usual, *(key for key in row if key not in usual)]
        late = {key: value for key, value in row.items() if key not in columns}
        if late:
            # first, because the row of metrics.csv is what tells that an epoch has been recorded
            self._append_metrics({"epoch": row["epoch"], **late}, number + 1)
        table.append(columns, [[row.get(column) for column in columns]])

    def _within(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            self._tables[name] = Table(self.path / name)
        return self._tables[name]

    def _write(self, record: Mapping[str, Any]) -> None:
        with replacing(self.result) as file:
            file.write((json.dumps(_plain(record), indent=2, allow_nan=False) + "\n").encode())


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration under dotted keys: `{"optim": {"lr": 0.1}}` is `{"optim.lr": 0.1}`; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _plain(value: Any) -> Any:
    """What strict JSON can hold: a NaN or an infinity, which it cannot, becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
