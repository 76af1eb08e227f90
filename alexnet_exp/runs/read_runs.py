"""Every run under some folders, as `Run`s: ours from result.json alone, other projects' through `foreign`."""

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

METRICS, STEPS = "metrics.csv", "steps.csv"  # Lightning's CSVLogger has the first, a run of ours both


class Runs(Sequence[Run]):
    """Runs in the order of their paths. skipped: what could not be read, one line each, naming the file.

    unstarted: folders that a sweep has made for jobs that have not begun. notes: what was guessed of other projects'
    runs, one line each.
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
    """Every run under `paths`: folders, at any depth, and CSV files with a row a run, or a row an epoch.

    A folder is a run of ours where it has a result.json, and another project's where it has `.hydra/` and somewhere
    below a metrics.csv, or a metrics.csv of Lightning alone (see `foreign`). A CSV file in such a folder is its run.
    Links below a path are not followed; a run that two paths reach is read once. What is damaged is left out and told
    in `skipped`; a path that does not exist raises UserError.

    seed_column: the column of a CSV file, or the setting of another project, that holds the seed. metrics: columns of a
    CSV file that are metrics whatever their name.
    """
    reader = _Reader(seed_column, metrics, single=len(paths) == 1)
    collects = gc.isenabled()
    gc.disable()  # ten thousand runs are a million objects, none of them garbage; it would look at them over and over
    try:
        for path in paths:
            reader.read(Path(path))
    finally:
        if collects:
            gc.enable()
    return reader.found()


def as_run(path: Path, name: str, like: Run | None = None) -> Run:
    """The run of ours in `path`; raises UserError, naming the file, where result.json is damaged.

    like: another run, whose objects are taken where they are equal: ten thousand runs differ in little.
    """
    result = read_result(path)
    config, metrics, choices = result.pop("config", {}), result.pop("metrics", {}), result.pop("choices", {})
    if not all(isinstance(part, dict) for part in (config, metrics, choices)):
        raise UserError(f"{path / 'result.json'}: config, metrics and choices must each be a mapping")
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
    """`new`, made of the keys and values of `old` where these are the same."""
    if new.keys() != old.keys():
        return {sys.intern(key): value for key, value in new.items()}
    same = dict(old)
    for key, value in new.items():
        had = old[key]
        # true equals 1, and is another setting
        if had != value or type(had) is not type(value):
            same[key] = value
    return same


class _Reader:
    """Walks and gathers."""

    def __init__(self, seed_column: str | None, metrics: Sequence[str], *, single: bool):
        self.runs: list[Run] = []
        self.skipped: list[str] = []
        self.unstarted = 0
        self._files: dict[str, list[str]] = defaultdict(list)  # of which each note is
        self._foreign_runs = False
        self._seed_column, self._metrics, self._single = seed_column, metrics, single
        self._seen: set[str] = set()

    def found(self) -> Runs:
        """All of them; what belongs to a project and not to a run, such as units, is decided here."""
        runs, notes = self.runs, list[str]()
        if self._foreign_runs:
            from alexnet_exp.runs.import_foreign import UNRECORDED, in_shares, without_bookkeeping

            runs, units = in_shares(without_bookkeeping(runs))
            for note, (first, *others) in self._files.items():
                notes.append(f"{first}{f' and {len(others)} more' if others else ''}: {note}")
            notes += units
            unrecorded = sum(bool(run.facts.get(UNRECORDED)) for run in runs)
            if unrecorded:
                notes.append(
                    f"{unrecorded} of {len(runs)} runs do not record whether they ended; they are taken to be done"
                )
        return Runs(runs, self.skipped, self.unstarted, notes)

    def read(self, path: Path) -> None:
        if path.is_dir():
            self._folder(path, os.path.realpath(path), "" if self._single else str(path))
        elif path.is_file():
            self._table(path)
        else:
            raise UserError(f"{path}: no such folder or file; name folders of runs, or a CSV file with a row a run")

    def _folder(self, folder: Path, real: str, name: str) -> None:
        """`real` is the folder without links, `name` what its run is called."""
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
            # a job that has not begun, or begins again: what it did before is no run of its own
            inner = [entry for entry in inner if entry != "earlier"]
        elif (folder / METRICS).is_file():
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
        """Reads another project's run; False where the folder holds none."""
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
        """Reads a folder of Lightning's CSVLogger that no Hydra configuration is of."""
        from alexnet_exp.runs.import_foreign import read_version

        try:
            self.runs.append(read_version(path, name, self._seed_column))
            self._foreign_runs = True
        except UserError as error:
            self.skipped.append(str(error))

    def _table(self, path: Path) -> None:
        from alexnet_exp.runs.import_csv import read_runs
        from alexnet_exp.runs.import_foreign import DEPTH, is_lightning

        real = os.path.realpath(path)
        if real in self._seen:
            return
        if path.name in (METRICS, STEPS):
            above = path.absolute().parents[: DEPTH + 1]
            run = next((folder for folder in above if is_run(folder) or (folder / ".hydra").is_dir()), None)
            if run is not None:
                self._folder(run, os.path.realpath(run), run.name if self._single else str(path.parent))
                return
        self._seen.add(real)
        self._foreign_runs = True
        if path.name == METRICS and is_lightning(path):
            self._version(path.parent, path.absolute().parent.name if self._single else str(path.parent))
            return
        runs, notes = read_runs(path, self._seed_column, self._metrics, "" if self._single else f"{path}: ")
        self.runs += runs
        for note in notes:
            self._files[note.removeprefix(f"{path}: ")].append(str(path))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
