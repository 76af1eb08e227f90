"""Decides which disk errors end a run and which only delay its writes."""

from __future__ import annotations

import errno
from pathlib import Path

from alexnet_exp.errors import UserError

# The folder was removed or moved, or has become read-only: no later write can succeed.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV})


class UnwritableError(UserError, OSError):
    """A file of the run folder cannot be written; `str(error)` is one line with the folder and the file."""

    def __init__(self, folder: Path, name: str, error: OSError):
        super().__init__(error.errno, error.strerror or str(error))
        self.folder, self.name = folder, name

    def __str__(self) -> str:
        what = "the run folder no longer exists" if self.errno in _GONE else "the run folder cannot be written"
        return f"{self.folder}: {what} ({self.name}: {self.strerror})"


def is_lost(error: OSError) -> bool:
    """Returns whether this error ends a run. Other errors, such as a full disk or quota, may go away."""
    return error.errno in _GONE | _CLOSED
