"""The first thing a started process does. Imports nothing of ours, to see what its fork server has imported for it."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection


def begin(preload: Sequence[str], life: bytes, pipe: Connection) -> None:
    """Lives `life`, a pickled `launch.Life`, and tells over `pipe` how it ended.

    A fork server passes over in silence what it cannot import, so whatever of `preload` is not here is told.
    """
    missing = [name for name in preload if name not in sys.modules]
    pickle.loads(life).live(pipe, missing)
