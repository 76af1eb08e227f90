"""Python's garbage collector does not look again and again through what is never garbage. No torch here."""

from __future__ import annotations

import gc
from functools import cache


@cache
def keep_what_is_there() -> None:
    """From now on, the collector leaves out what this process has imported and made so far.

    torch, Lightning and what they import are a million objects: a full collection goes through them for half a second,
    somewhere in the first epoch, and finds next to nothing. Once a process, not once a run: what an earlier run left
    behind must go.
    """
    gc.freeze()
