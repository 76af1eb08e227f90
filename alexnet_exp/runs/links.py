"""Rejects run folders with symlinks that point outside, so that a write cannot change other files."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_exp.errors import UserError

# The folders that commands write to. The folders of loggers are ignored: W&B's has links that point outside.
CHECKED_FOLDERS = (".hydra", "checkpoints", "predictions", "plots", "export", "claims")


def refuse_links_out(folder: Path) -> None:
    """Raises UserError if the folder of a run or sweep has a symlink that points outside, or a special file.

    A train.log that points to ~/.profile would be appended to, and a .lock truncated; a read of a pipe would block.
    """
    try:
        inside = os.path.realpath(folder)
        for place in (folder, *(folder / name for name in CHECKED_FOLDERS)):
            if place.is_dir():
                _look(place, inside)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def _look(place: Path, inside: str) -> None:
    with os.scandir(place) as entries:
        for entry in entries:
            target = os.path.realpath(entry.path) if entry.is_symlink() else None
            if target is not None and os.path.commonpath([inside, target]) != inside:
                raise UserError(f"{entry.path}: symlink pointing outside the run folder; copy the target in instead")
            # a dangling symlink within the folder is harmless
            if target is None and not (entry.is_file() or entry.is_dir()):
                raise UserError(f"{entry.path}: neither a file nor a folder; remove it")
