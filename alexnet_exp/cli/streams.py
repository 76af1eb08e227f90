"""Makes stdin, stdout and stderr usable, however the process was started."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Any

from alexnet_exp.sanitize import escape_controls

STREAM_NAMES = ("stdin", "stdout", "stderr")
_format_warning = warnings.formatwarning


def open_streams() -> None:
    """Opens /dev/null for each closed standard stream, such as those of a daemon.

    Otherwise the stream is None in Python, and the next opened file gets the descriptor to which native code writes its
    messages. Characters that the encoding of stdout or stderr lacks are escaped instead of raising an error. So are
    control characters in warnings, for example matplotlib's about the name of a class.
    """
    for number, name in enumerate(STREAM_NAMES):  # in order, because a new file gets the lowest free descriptor
        try:
            os.fstat(number)
        except OSError:
            _open_null(number)
        if getattr(sys, name) is None:
            opened = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _escaped_warning


def _open_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def _escaped_warning(*arguments: Any, **options: Any) -> str:
    return escape_controls(_format_warning(*arguments, **options))
