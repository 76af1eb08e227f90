"""What an error of the disk means for a run that writes its folder: to wait for room, or to end."""

from __future__ import annotations

import errno
from pathlib import Path

from alexnet_exp.errors import UserError

# The folder has been removed or moved; or it has turned read-only: nothing that is written later arrives.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV})


class UnwritableError(UserError, OSError):
    """A run folder does not take what must be in it; `str(error)` is one line that names the folder and the file."""

    def __init__(self, folder: Path, name: str, error: OSError):
        super().__init__(error.errno, error.strerror or str(error))
        self.folder, self.name = folder, name

    def __str__(self) -> str:
        what = "the run's folder is gone" if self.errno in _GONE else "the run's folder cannot be written"
        return f"{self.folder}: {what} ({self.name}: {self.strerror})"


def is_lost(error: OSError) -> bool:
    """Whether a run ends by this error. All others can pass: a full disk or quota, an answer that a server owes."""
    return error.errno in _GONE | _CLOSED
