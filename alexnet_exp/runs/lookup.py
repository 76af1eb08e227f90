"""Finds the run folder, checkpoint or weights file that a user names on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_exp.atomic import read_link
from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import checkpoint_file, has_checkpoint
from alexnet_exp.runs.links import refuse_links_out
from alexnet_exp.runs.reader import is_run

MAX_CANDIDATES = 4  # runs that an error message lists


def find(text: str, outputs: Path, *, trained: bool = False) -> Path:
    """Returns the folder of the run that `text` names: a folder, `last`, or a prefix of a run's path under `outputs`.

    A folder that contains one run names that run. The prefix may start at any part of the path: `bn/2026-11-24_10` and
    `2026-11-24_10` both match `outputs/bn/2026-11-24_10-00-00-000000`. Raises UserError with the candidates if it
    matches no run or several, and for a folder with symlinks that point outside.

    trained: if several runs match, runs without a checkpoint are not candidates.
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
        raise UserError(
            f"{text}: ambiguous: matches {len(found)} runs ({_newest(found, names)}); give more of the name"
        )
    kind = "the folder contains no runs" if Path(text).is_dir() else "no such run or folder"
    there = f"write last, or one of {_newest(runs, names)}" if runs else f"{outputs} contains no runs"
    raise UserError(f"{text}: {kind}; {there}")


def checkpoint_path(run: Path, which: str) -> Path:
    """Returns the checkpoint that `which` (best, last, or a file) names; last if the run has no best one."""
    if which not in ("best", "last"):
        return Path(which)
    names = ["best", "last"] if which == "best" else ["last"]
    for name in names:
        path = checkpoint_file(run, name)
        if path.exists():
            return path
    why = "it kept none (see checkpoint.keep), or has not saved one yet"
    raise UserError(f"{run}: has no checkpoint {' or '.join(names)}; {why}")


def weights_file(weights: str, outputs: Path) -> Path:
    """Returns the file that `model.weights` names: a file, or the best checkpoint of a run."""
    if Path(weights).is_file():
        return Path(weights)
    try:
        return checkpoint_path(find(weights, outputs, trained=True), "best")
    except UserError as error:
        raise UserError(f"model.weights={weights}: no such file; and {error}") from None


def outputs_of(run: Path) -> Path | None:
    """Returns the nearest parent folder named `outputs`, which has the link `latest`; None if there is none."""
    # the path as given first: the folder may be a link to a larger disk
    parents = (*run.absolute().parents, *run.resolve().parents)
    return next((parent for parent in parents if parent.name == "outputs"), None)


def runs_under(outputs: Path) -> list[Path]:
    """Returns every run below `outputs`, sorted by path. It follows no links and does not search inside runs."""
    runs = []
    for folder, inner, files in os.walk(outputs):
        if "result.json" in files:
            runs.append(Path(folder))
        if "result.json" in files or ".hydra" in inner:  # a pending job contains only its earlier attempts
            inner.clear()
    return sorted(runs)


def _last(text: str, outputs: Path) -> Path:
    run = read_link(outputs / "latest")
    if run is None or not is_run(run):
        raise UserError(f"{text}: {outputs / 'latest'} points to no run; train one first, or name a run folder")
    inside = outputs.resolve()
    return outputs / run.relative_to(inside) if run.is_relative_to(inside) else run


def _begins(name: str, wanted: str) -> bool:
    parts = name.split("/")
    return any("/".join(parts[start:]).startswith(wanted) for start in range(len(parts)))


def _newest(runs: Sequence[Path], names: Mapping[Path, str]) -> str:
    """Returns the names of the runs that were written last, newest first, and the number of the others."""

    def written(run: Path) -> float:
        try:
            return (run / "result.json").lstat().st_mtime
        except OSError:  # deleted in the meantime
            return 0

    newest = sorted(runs, key=written, reverse=True)
    shown = ", ".join(names[run] for run in newest[:MAX_CANDIDATES])
    return shown if len(runs) <= MAX_CANDIDATES else f"{shown} and {len(runs) - MAX_CANDIDATES} more"
