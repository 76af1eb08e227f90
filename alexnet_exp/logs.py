"""Where a run's words go: progress and log to stderr, the same to train.log; stdout is for results alone."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

PACKAGE = "alexnet_exp"


class _Tips(logging.Filter):
    """Drops Lightning's advertisements (its tips name an index of packages); the rest passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(word in message for word in ("Tip:", "litlogger", "LitServe", "litmodels", "💡"))


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is at that moment: a rich progress bar puts itself there and keeps its line below."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def configure(folder: Path | None, rank: int = 0) -> None:
    """Logs to stderr and to `folder/train.log`; a rank above 0 to its own `train.rank1.log` and nowhere else.

    Replaces what an earlier call set up.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    plain = logging.Formatter("%(message)s")
    handlers: list[logging.Handler] = []
    if rank == 0:
        console = _Stderr()
        console.setFormatter(plain)
        handlers.append(console)
    if folder is not None:
        name = "train.log" if rank == 0 else f"train.rank{rank}.log"
        file = logging.FileHandler(folder / name, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    for handler in handlers:
        handler.addFilter(_Tips())
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)
    # Lightning says on its own handler, at every start, what our first lines say
    for lightning in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logger = logging.getLogger(lightning)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    _quieten_warnings()


def _quieten_warnings() -> None:
    """Warnings of Lightning's that do not hold for us, each with the reason."""
    for text in (
        ".*does not have many workers.*",  # resident data needs none, streamed data has them
        ".*smaller than the logging interval.*",  # we log by epoch
        ".*is not a multiple of.*",
        ".*`training_step` returned `None`.*",
        ".*Checkpoint directory .* exists.*",
        ".*LeafSpec.*",  # torch's own, from inside Lightning
        ".*Trying to infer the `batch_size`.*",  # our means are over images already
        ".*No `.*_dataloader.*",
    ):
        warnings.filterwarnings("ignore", message=text)
