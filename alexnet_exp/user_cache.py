"""Where the user's programs keep what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(setting: str | None = None) -> Path:
    """`setting`, or $XDG_CACHE_HOME/alexnet_exp, or ~/.cache/alexnet_exp."""
    if setting is not None:
        return Path(setting).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_exp"
