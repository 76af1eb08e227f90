"""A run's folder may be somebody else's: what is written into it must stay in it."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_exp.errors import UserError

# What we write into; a logger's own folder is its own affair, and W&B's has links of its own that lead out.
OURS = (".hydra", "checkpoints", "predictions", "plots", "export", "claims")


def refuse_links_out(folder: Path) -> None:
    """Raises UserError where a link in `folder`, of a run or a sweep, leads out of it, or something in it is no file.

    A train.log that leads to ~/.profile would be appended to, a .lock truncated; a pipe would be waited for.
    """
    try:
        inside = os.path.realpath(folder)
        for place in (folder, *(folder / name for name in OURS)):
            if place.is_dir():
                _look(place, inside)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def _look(place: Path, inside: str) -> None:
    with os.scandir(place) as entries:
        for entry in entries:
            target = os.path.realpath(entry.path) if entry.is_symlink() else None
            if target is not None and os.path.commonpath([inside, target]) != inside:
                raise UserError(f"{entry.path}: is a link that leads out of the folder; put there what it leads to")
            # one that leads nowhere, within the folder, is no file either, and does no harm
            if target is None and not (entry.is_file() or entry.is_dir()):
                raise UserError(f"{entry.path}: is neither a file nor a folder; remove it")
