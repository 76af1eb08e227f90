"""Where a run's words go: progress and log to stderr, the same to train.log; stdout is for results alone."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from alexnet_exp.errors import TRACEBACK_VARIABLE, UserError
from alexnet_exp.sanitize import escape_controls

PACKAGE_LOGGER = "alexnet_exp"
LINE_FORMAT = "%(asctime)s %(levelname)s %(message)s"
LIGHTNING_LOGGERS = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")


class _Ours(logging.Handler):
    """Marks the handlers that `configure` made, and may take away again: an application's own stay.

    What a terminal would obey is escaped, in the file too, which is read in one: names of classes and files are logged.
    """

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record))


class _Stderr(logging.StreamHandler[Any], _Ours):
    """Writes to what `sys.stderr` is at that moment: a rich progress bar puts itself there and keeps its line below."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not isinstance(sys.exc_info()[1], OSError):  # stderr is a file on a full disk: a traceback would not fit
            super().handleError(record)


class _File(_Ours):
    """train.log, made by its first line. What the disk does not take is missing there, and nothing else happens.

    buffered: lines stay in memory until `write_buffered`.
    """

    def __init__(self, path: Path, buffered: bool = False) -> None:
        super().__init__()
        self.path = path
        self._buffer: list[str] | None = [] if buffered else None
        self._descriptor: int | None = None
        self._missing = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record) + "\n")

    def write_buffered(self) -> None:
        lines, self._buffer = self._buffer or [], None
        for line in lines:
            self._write(line)

    def _write(self, line: str) -> None:
        if self._buffer is not None:
            self._buffer.append(line)
            return
        if self._missing:
            line = f"\n({self._missing} lines are missing here: the disk did not take them)\n{line}"
        try:
            if self._descriptor is None:
                self._descriptor = _append_to(self.path)
            _write_all(self._descriptor, line.encode("utf-8", "backslashreplace"))
            self._missing = 0
        except OSError:
            self._missing += 1

    def close(self) -> None:
        super().close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Tolerant(io.RawIOBase):
    """A file that lets go of what the disk does not take: neither a print nor the end of the process may fail by it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, content: Any) -> int:
        with suppress(OSError):
            _write_all(self._descriptor, bytes(content))
        return len(content)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor


def configure(folder: Path | None, rank: int = 0, buffered: bool = False) -> None:
    """Logs to stderr and to `folder/train.log`; a rank above 0 to its own `train.rank1.log` and nowhere else.

    buffered: the file gets its lines when `write_buffered` is called: until then the folder may be another run's.

    Replaces what an earlier call set up. What is said for debugging goes to the file alone, unless
    ALEXNET_EXP_TRACEBACK is set. Where stderr is that very file (`redirect_output`), each line is written once.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Ours)]:
        root.removeHandler(handler)
        handler.close()
    if rank == 0 and not (folder and _is_stderr(log_file(folder))):
        console = _Stderr()
        console.setFormatter(logging.Formatter("%(message)s"))
        console.setLevel(logging.DEBUG if os.environ.get(TRACEBACK_VARIABLE) else logging.INFO)
        root.addHandler(console)
    if folder is not None:
        file = _File(log_file(folder, rank), buffered)
        file.setFormatter(logging.Formatter(LINE_FORMAT))
        root.addHandler(file)
    root.setLevel(logging.WARNING)
    logging.getLogger(PACKAGE_LOGGER).setLevel(logging.DEBUG)
    # at INFO Lightning says at every start what our first lines say, and advertises; its profilers' tables are INFO too
    for name in LIGHTNING_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    _quieten_warnings()


def write_buffered() -> None:
    """Writes what was logged since `configure(..., buffered=True)` to the file, and from now on every line at once."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _File):
            handler.write_buffered()


def log_file(folder: Path, rank: int = 0) -> Path:
    """Where the words of a rank of the run in `folder` go."""
    return folder / ("train.log" if rank == 0 else f"train.rank{rank}.log")


def redirect_output(folder: Path, rank: int = 0) -> None:
    """From now on stdout and stderr of this process, also what C code and its own children write, go to `log_file`.

    What the disk does not take is missing there. Raises UserError where the file cannot be opened.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    path = log_file(folder, rank)
    try:
        descriptor = _append_to(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout, sys.stderr = _stream(1), _stream(2)


def append_line(folder: Path, level: str, text: str) -> None:
    """Adds a line to a run's train.log from outside of the run's own logging; where it cannot, there is none."""
    record = logging.LogRecord(PACKAGE_LOGGER, logging.getLevelNamesMapping()[level], "", 0, text, None, None)
    handler = _File(log_file(folder))
    handler.setFormatter(logging.Formatter(LINE_FORMAT))
    handler.emit(record)
    handler.close()


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _stream(descriptor: int) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(_Tolerant(descriptor))
    return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)


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
