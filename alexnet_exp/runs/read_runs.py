"""Reads every run below some folders: from result.json, or in the formats of other projects."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from alexnet_exp.errors import UserError
from alexnet_exp.runs.reader import is_run, read_result, state
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

METRICS_FILE, STEPS_FILE = "metrics.csv", "steps.csv"  # Lightning's CSVLogger writes the first, this project both


class Runs(Sequence[Run]):
    """Runs in the order of their paths.

    skipped: one line for each file that could not be read. unstarted: the number of folders of pending jobs. notes: one
    line for each guess about runs of other projects.
    """

    def __init__(self, runs: Iterable[Run], skipped: Iterable[str] = (), unstarted: int = 0, notes: Iterable[str] = ()):
        self._runs = list(runs)
        self.skipped = list(skipped)
        self.unstarted = unstarted
        self.notes = list(notes)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def __repr__(self) -> str:
        return f"<{len(self)} runs, {len(self.skipped)} skipped>"


def read_runs(*paths: str | os.PathLike[str], seed_column: str | None = None, metrics: Sequence[str] = ()) -> Runs:
    """Returns every run under `paths`: folders at any depth, and CSV files with one row a run or one row an epoch.

    A folder with a result.json is a run of this project. A folder with `.hydra/` and a metrics.csv somewhere below it,
    or with a metrics.csv of Lightning, is one of another project (see `import_foreign`). A CSV file in such a folder is
    its run. Links below a path are not followed. A run that several paths reach is read once. Damaged runs are left out
    and listed in `skipped`. A path that does not exist raises UserError.

    seed_column: the column of a CSV file, or the setting of another project, with the seed. metrics: columns of a CSV
    file that are metrics, whatever their names.
    """
    reader = _Reader(seed_column, metrics, single=len(paths) == 1)
    collects = gc.isenabled()
    gc.disable()  # it would visit a million live objects of ten thousand runs again and again
    try:
        for path in paths:
            reader.read(Path(path))
    finally:
        if collects:
            gc.enable()
    return reader.found()


def as_run(path: Path, name: str, like: Run | None = None) -> Run:
    """Returns the run in `path`. Raises UserError with the file if result.json is damaged.

    like: another run, whose equal objects are shared to save memory: ten thousand runs differ in little.
    """
    result = read_result(path)
    config, metrics, choices = result.pop("config", {}), result.pop("metrics", {}), result.pop("choices", {})
    if not all(isinstance(part, dict) for part in (config, metrics, choices)):
        raise UserError(f"{path / 'result.json'}: config, metrics and choices must be mappings")
    status = sys.intern(str(result.pop("status")))
    del result["format"]
    return Run(
        path,
        name,
        state(path) if status == Status.RUNNING else status,
        _shared(config, like.config if like else {}),
        {sys.intern(key): value for key, value in metrics.items() if _is_number(value)},
        _shared(choices, like.choices if like else {}),
        _shared(result, like.facts if like else {}),
    )


def _shared(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Returns `new`, built from the equal keys and values of `old`."""
    if new.keys() != old.keys():
        return {sys.intern(key): value for key, value in new.items()}
    same = dict(old)
    for key, value in new.items():
        had = old[key]
        # True equals 1, but is another setting
        if had != value or type(had) is not type(value):
            same[key] = value
    return same


class _Reader:
    """Visits folders and files and collects their runs."""

    def __init__(self, seed_column: str | None, metrics: Sequence[str], *, single: bool):
        self.runs: list[Run] = []
        self.skipped: list[str] = []
        self.unstarted = 0
        self._files: dict[str, list[str]] = defaultdict(list)  # note -> the files it is about
        self._foreign_runs = False
        self._seed_column, self._metrics, self._single = seed_column, metrics, single
        self._seen: set[str] = set()

    def found(self) -> Runs:
        """Returns all runs. Decides here what all runs of a project share, such as units."""
        runs, notes = self.runs, list[str]()
        if self._foreign_runs:
            from alexnet_exp.runs.import_foreign import UNRECORDED_KEY, move_bookkeeping, percent_to_share

            runs, units = percent_to_share(move_bookkeeping(runs))
            for note, (first, *others) in self._files.items():
                notes.append(f"{first}{f' and {len(others)} more' if others else ''}: {note}")
            notes += units
            unrecorded = sum(bool(run.facts.get(UNRECORDED_KEY)) for run in runs)
            if unrecorded:
                notes.append(f"{unrecorded} of {len(runs)} runs do not record a status; they are assumed to be done")
        return Runs(runs, self.skipped, self.unstarted, notes)

    def read(self, path: Path) -> None:
        if path.is_dir():
            self._folder(path, os.path.realpath(path), "" if self._single else str(path))
        elif path.is_file():
            self._table(path)
        else:
            raise UserError(f"{path}: no such file or folder; give folders of runs, or a CSV file with one row a run")

    def _folder(self, folder: Path, real: str, name: str) -> None:
        """Reads a folder. real: its path with links resolved. name: the name of its run."""
        if real in self._seen:
            return
        if is_run(folder):
            self._seen.add(real)
            self._own(folder, name or Path(real).name)
            return
        try:
            inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            self.skipped.append(f"{folder}: cannot be read ({error.strerror})")
            return
        if ".hydra" in inner:
            if self._foreign(folder, name or Path(real).name):
                self._seen.add(real)
                return
            # a pending job: its earlier attempts are not runs of their own
            inner = [entry for entry in inner if entry != "earlier"]
        elif (folder / METRICS_FILE).is_file():
            self._seen.add(real)
            self._version(folder, name or Path(real).name)
            return
        found = len(self.runs)
        for entry in inner:
            if not entry.startswith("."):
                self._folder(folder / entry, f"{real}/{entry}", f"{name}/{entry}" if name else entry)
        self.unstarted += ".hydra" in inner and len(self.runs) == found

    def _own(self, path: Path, name: str) -> None:
        try:
            self.runs.append(as_run(path, name, self.runs[-1] if self.runs else None))
        except UserError as error:
            self.skipped.append(str(error))

    def _foreign(self, path: Path, name: str) -> bool:
        """Reads a run of another project. Returns False if the folder has none."""
        from alexnet_exp.runs.import_foreign import find_table, read_folder

        table = find_table(path)
        if table is None:
            return False
        try:
            self.runs.append(read_folder(path, table, name, self._seed_column))
            self._foreign_runs = True
        except UserError as error:
            self.skipped.append(str(error))
        return True

    def _version(self, path: Path, name: str) -> None:
        """Reads a folder of Lightning's CSVLogger without a Hydra configuration."""
        from alexnet_exp.runs.import_foreign import read_version

        try:
            self.runs.append(read_version(path, name, self._seed_column))
            self._foreign_runs = True
        except UserError as error:
            self.skipped.append(str(error))

    def _table(self, path: Path) -> None:
        from alexnet_exp.runs.import_csv import read_table_runs
        from alexnet_exp.runs.import_foreign import MAX_DEPTH, is_lightning

        real = os.path.realpath(path)
        if real in self._seen:
            return
        if path.name in (METRICS_FILE, STEPS_FILE):
            above = path.absolute().parents[: MAX_DEPTH + 1]
            run = next((folder for folder in above if is_run(folder) or (folder / ".hydra").is_dir()), None)
            if run is not None:
                self._folder(run, os.path.realpath(run), run.name if self._single else str(path.parent))
                return
        self._seen.add(real)
        self._foreign_runs = True
        if path.name == METRICS_FILE and is_lightning(path):
            self._version(path.parent, path.absolute().parent.name if self._single else str(path.parent))
            return
        runs, notes = read_table_runs(path, self._seed_column, self._metrics, "" if self._single else f"{path}: ")
        self.runs += runs
        for note in notes:
            self._files[note.removeprefix(f"{path}: ")].append(str(path))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
