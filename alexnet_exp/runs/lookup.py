"""From what a user types for RUN to the run's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_exp.atomic import read_link
from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import checkpoint_file, has_checkpoint
from alexnet_exp.runs.links import refuse_links_out
from alexnet_exp.runs.reader import is_run

SHOWN = 4


def find(text: str, outputs: Path, *, trained: bool = False) -> Path:
    """The folder of the run that `text` means: a folder, `last`, or how the path of one run under `outputs` begins.

    A folder that holds one run means that run. The path may be begun at any of its parts: `bn/2026-11-24_10` and
    `2026-11-24_10` both find `outputs/bn/2026-11-24_10-00-00-000000`. Raises UserError, naming candidates, when it
    means no run or several, and for a folder with links that lead out of it.

    trained: where several runs match, those without a checkpoint are not candidates.
    """
    run = _meant(text, outputs, trained)
    refuse_links_out(run)
    return run


def _meant(text: str, outputs: Path, trained: bool) -> Path:
    if text in ("last", "latest") or Path(text) == outputs / "latest":
        return _last(text, outputs)
    if is_run(Path(text)):
        return Path(text)
    runs = runs_under(outputs)
    names = {run: run.relative_to(outputs).as_posix() for run in runs}
    wanted = Path(text).as_posix().removeprefix(f"{outputs.as_posix()}/")
    found = [run for run in runs if _begins(names[run], wanted)]
    if not found and Path(text).is_dir():
        found = runs_under(Path(text))
        names |= {run: run.as_posix() for run in found}
    if trained and len(found) > 1:
        found = [run for run in found if has_checkpoint(run)] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{text}: matches {len(found)} runs, {_newest(found, names)}; write more of one path")
    kind = "a folder without runs" if Path(text).is_dir() else "no such run or folder"
    there = f"write last, or one of {_newest(runs, names)}" if runs else f"there are no runs in {outputs}"
    raise UserError(f"{text}: {kind}; {there}")


def checkpoint_path(run: Path, which: str) -> Path:
    """The file that `which` (best, last, or a file) means for a run; best falls back to last."""
    if which not in ("best", "last"):
        return Path(which)
    names = ["best", "last"] if which == "best" else ["last"]
    for name in names:
        path = checkpoint_file(run, name)
        if path.exists():
            return path
    why = "the run kept none (checkpoint.keep), or has not saved one yet"
    raise UserError(f"{run}: has no checkpoint {' or '.join(names)}; {why}")


def weights_file(weights: str, outputs: Path) -> Path:
    """The file that `model.weights` means: a file, or the best checkpoint of a run."""
    if Path(weights).is_file():
        return Path(weights)
    try:
        return checkpoint_path(find(weights, outputs, trained=True), "best")
    except UserError as error:
        raise UserError(f"model.weights={weights}: no such file; and {error}") from None


def outputs_of(run: Path) -> Path | None:
    """The folder of all runs, where `latest` lies: the nearest `outputs` above the run; None for one put elsewhere."""
    # as it is named first: the folder may be a link to a larger disk
    parents = (*run.absolute().parents, *run.resolve().parents)
    return next((parent for parent in parents if parent.name == "outputs"), None)


def runs_under(outputs: Path) -> list[Path]:
    """Every run below `outputs`, sorted by path. Links are not followed, and a run is not searched for more runs."""
    runs = []
    for folder, inner, files in os.walk(outputs):
        if "result.json" in files:
            runs.append(Path(folder))
        if "result.json" in files or ".hydra" in inner:  # a sweep's job that waits has only its earlier attempts below
            inner.clear()
    return sorted(runs)


def _last(text: str, outputs: Path) -> Path:
    run = read_link(outputs / "latest")
    if run is None or not is_run(run):
        raise UserError(f"{text}: {outputs / 'latest'} leads to no run; train one first, or name a run's folder")
    inside = outputs.resolve()
    return outputs / run.relative_to(inside) if run.is_relative_to(inside) else run


def _begins(name: str, wanted: str) -> bool:
    parts = name.split("/")
    return any("/".join(parts[start:]).startswith(wanted) for start in range(len(parts)))


def _newest(runs: Sequence[Path], names: Mapping[Path, str]) -> str:
    """The names of the runs that were written to last, the latest first, and how many more there are."""

    def written(run: Path) -> float:
        try:
            return (run / "result.json").lstat().st_mtime
        except OSError:  # deleted meanwhile
            return 0

    newest = sorted(runs, key=written, reverse=True)
    shown = ", ".join(names[run] for run in newest[:SHOWN])
    return shown if len(runs) <= SHOWN else f"{shown} and {len(runs) - SHOWN} more"
