"""stdin, stdout and stderr that can be used, however this process was started."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Any

from alexnet_exp.sanitize import escape_controls

NAMES = ("stdin", "stdout", "stderr")
_format_warning = warnings.formatwarning


def open_streams() -> None:
    """Opens /dev/null in place of each standard stream that is closed, as a daemon's are.

    Otherwise Python's stream is None, and the next file that is opened gets the number to which native code writes its
    messages. A character that stdout's or stderr's encoding lacks is written as an escape, and raises nothing; so is
    a control character in a warning, as matplotlib's of a class's name.
    """
    for number, name in enumerate(NAMES):  # in order: a new file gets the lowest free number
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
