"""Provides the logging of a run to stderr and train.log. Results alone go to stdout."""

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


class _RunHandler(logging.Handler):
    """A handler that `configure` has installed and may remove; handlers of an application are left alone.

    Control characters are escaped, in the file too, because names of classes and files are logged and terminals show
    both.
    """

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record))


class _StderrHandler(logging.StreamHandler[Any], _RunHandler):
    """Writes to the current `sys.stderr`, which a rich progress bar replaces to keep its line at the bottom."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not isinstance(sys.exc_info()[1], OSError):  # stderr is a file on a full disk
            super().handleError(record)


class _FileHandler(_RunHandler):
    """Appends to train.log, which its first line creates. Lines that cannot be written are dropped and counted.

    buffered: lines stay in memory until `write_buffered`.
    """

    def __init__(self, path: Path, buffered: bool = False) -> None:
        super().__init__()
        self.path = path
        self._buffer: list[str] | None = [] if buffered else None
        self._descriptor: int | None = None
        self._dropped = 0

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
        if self._dropped:
            line = f"\n({self._dropped} lines are missing: they could not be written to the disk)\n{line}"
        try:
            if self._descriptor is None:
                self._descriptor = _append_to(self.path)
            _write_all(self._descriptor, line.encode("utf-8", "backslashreplace"))
            self._dropped = 0
        except OSError:
            self._dropped += 1

    def close(self) -> None:
        super().close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _LossyFile(io.RawIOBase):
    """A file that drops what cannot be written, so that neither a print nor the exit of the process fails."""

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
    """Logs to stderr and to `folder/train.log`; rank N above 0 logs to `train.rankN.log` only.

    buffered: keeps the lines of the file in memory until `write_buffered`, because until then the folder may belong to
    another run.

    Replaces the handlers of an earlier call. Debug messages go to the file only, unless ALEXNET_EXP_TRACEBACK is set.
    If stderr is that file (`redirect_output`), each line is written once.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _RunHandler)]:
        root.removeHandler(handler)
        handler.close()
    if rank == 0 and not (folder and _is_stderr(log_file(folder))):
        console = _StderrHandler()
        console.setFormatter(logging.Formatter("%(message)s"))
        console.setLevel(logging.DEBUG if os.environ.get(TRACEBACK_VARIABLE) else logging.INFO)
        root.addHandler(console)
    if folder is not None:
        file = _FileHandler(log_file(folder, rank), buffered)
        file.setFormatter(logging.Formatter(LINE_FORMAT))
        root.addHandler(file)
    root.setLevel(logging.WARNING)
    logging.getLogger(PACKAGE_LOGGER).setLevel(logging.DEBUG)
    # at INFO Lightning repeats the first lines of this log and advertises; the tables of its profilers are INFO too
    for name in LIGHTNING_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    _filter_warnings()


def write_buffered() -> None:
    """Writes the lines since `configure(..., buffered=True)` to the file; from now on every line is written at once."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _FileHandler):
            handler.write_buffered()


def log_file(folder: Path, rank: int = 0) -> Path:
    """Returns the log file of a rank of the run in `folder`."""
    return folder / ("train.log" if rank == 0 else f"train.rank{rank}.log")


def redirect_output(folder: Path, rank: int = 0) -> None:
    """Redirects stdout and stderr of this process, its C code and its children to `log_file`.

    Output that cannot be written is dropped. Raises UserError if the file cannot be opened.
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
    """Appends a line to a run's train.log from outside the run's logging; drops it if it cannot be written."""
    record = logging.LogRecord(PACKAGE_LOGGER, logging.getLevelNamesMapping()[level], "", 0, text, None, None)
    handler = _FileHandler(log_file(folder))
    handler.setFormatter(logging.Formatter(LINE_FORMAT))
    handler.emit(record)
    handler.close()


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _stream(descriptor: int) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(_LossyFile(descriptor))
    return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _is_stderr(file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), file.stat())
    except (OSError, ValueError, AttributeError):  # no log file yet, or stderr is not a file
        return False


def _filter_warnings() -> None:
    """Hides warnings of Lightning that do not apply here, each with the reason."""
    for text in (
        ".*isinstance.treespec, LeafSpec.*",  # from torch, about a call inside Lightning
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # means are over all ranks already
        ".*Total length of .* across ranks is zero.*",  # data.val=none
        ".*smaller than the logging interval.*",  # the loggers get one row per epoch
        ".*`srun` command is available on your system but is not used.*",  # `training.launch` starts the ranks
    ):
        warnings.filterwarnings("ignore", message=text)
