"""Where a run's words go: progress and log to stderr, the same to train.log; stdout is for results alone."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from alexnet_exp.settings import TRACEBACK

PACKAGE = "alexnet_exp"
FORMAT = "%(asctime)s %(levelname)s %(message)s"
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
    ALEXNET_EXP_TRACEBACK is set. Where stderr is that very file (`take_over_output`), each line is written once.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Ours)]:
        root.removeHandler(handler)
        handler.close()
    if rank == 0 and not (folder and _is_stderr(log_file(folder))):
        console = _Stderr()
        console.setFormatter(logging.Formatter("%(message)s"))
        console.setLevel(logging.DEBUG if os.environ.get(TRACEBACK) else logging.INFO)
        root.addHandler(console)
    if folder is not None:
        file = _File(log_file(folder, rank), encoding="utf-8", delay=True)
        file.setFormatter(logging.Formatter(FORMAT))
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


def log_file(folder: Path, rank: int = 0) -> Path:
    """Where the words of a rank of the run in `folder` go."""
    return folder / ("train.log" if rank == 0 else f"train.rank{rank}.log")


def take_over_output(folder: Path, rank: int = 0) -> None:
    """From now on stdout and stderr of this process, also what C code and its own children write, go to `log_file`."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log_file(folder, rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # it was opened for a terminal, perhaps, or for no language at all
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def note(folder: Path, level: str, text: str) -> None:
    """Adds a line to a run's train.log from outside of the run's own logging."""
    record = logging.LogRecord(PACKAGE, logging.getLevelNamesMapping()[level], "", 0, text, None, None)
    with log_file(folder).open("a", encoding="utf-8") as file:
        file.write(logging.Formatter(FORMAT).format(record) + "\n")


def _is_stderr(file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), file.stat())
    except (OSError, ValueError, AttributeError):  # no file yet, or stderr is none
        return False


def _quieten_warnings() -> None:
    """Warnings of Lightning's that do not hold for us, each with the reason."""
    for text in (
        ".*isinstance.treespec, LeafSpec.*",  # torch's, of a call inside Lightning
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # our means are over all ranks already
        ".*Total length of .* across ranks is zero.*",  # data.val=none
        ".*smaller than the logging interval.*",  # the loggers get a row an epoch
        ".*`srun` command is available on your system but is not used.*",  # ranks are started by `launch.py`
    ):
        warnings.filterwarnings("ignore", message=text)
