"""Where a run's words go: progress and log to stderr, the same to train.log; stdout is for results alone."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from alexnet_exp.settings import TRACEBACK

PACKAGE = "alexnet_exp"
LIGHTNING = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")


class _Ours(logging.Handler):
    """Marks the handlers that `configure` made, and may take away again: an application's own stay."""


class _Stderr(logging.StreamHandler[Any], _Ours):
    """Writes to what `sys.stderr` is at that moment: a rich progress bar puts itself there and keeps its line below."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


class _File(logging.FileHandler, _Ours):
    """train.log."""


def configure(folder: Path | None, rank: int = 0) -> None:
    """Logs to stderr and to `folder/train.log`; a rank above 0 to its own `train.rank1.log` and nowhere else.

    Replaces what an earlier call set up. What is said for debugging goes to the file alone, unless
    ALEXNET_EXP_TRACEBACK is set.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Ours)]:
        root.removeHandler(handler)
        handler.close()
    if rank == 0:
        console = _Stderr()
        console.setFormatter(logging.Formatter("%(message)s"))
        console.setLevel(logging.DEBUG if os.environ.get(TRACEBACK) else logging.INFO)
        root.addHandler(console)
    if folder is not None:
        file = _File(folder / ("train.log" if rank == 0 else f"train.rank{rank}.log"), encoding="utf-8", delay=True)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)
    root.setLevel(logging.WARNING)
    logging.getLogger(PACKAGE).setLevel(logging.DEBUG)
    # at INFO Lightning says at every start what our first lines say, and advertises; its profilers' tables are INFO too
    for name in LIGHTNING:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    _quieten_warnings()


def _quieten_warnings() -> None:
    """Warnings of Lightning's that do not hold for us, each with the reason."""
    for text in (
        ".*isinstance.treespec, LeafSpec.*",  # torch's, of a call inside Lightning
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # our means are over all ranks already
        ".*Total length of .* across ranks is zero.*",  # data.val=none
        ".*smaller than the logging interval.*",  # the loggers get a row an epoch
    ):
        warnings.filterwarnings("ignore", message=text)
