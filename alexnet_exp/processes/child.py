"""Provides the entry point of a child process.

It imports nothing of this package, so that it can check what the fork server has preloaded.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection


def begin(preload: Sequence[str], job: bytes, pipe: Connection) -> None:
    """Runs `job`, a pickled `training.child_task.ChildTask`, which sends its outcome over `pipe`.

    A fork server ignores modules that it cannot import, so the job is given the names in `preload` that are missing.
    """
    missing = [name for name in preload if name not in sys.modules]
    pickle.loads(job).run(pipe, missing)
