"""Provides the errors that a user can correct, the checks of settings that raise them, and the exit codes.

Every mistake of a user is raised as a `UserError`, whose text is one line for a terminal. `Refused` reports the
problems of many settings at once. This module does not import torch, because settings are checked before torch is.
"""

from __future__ import annotations

import difflib
import math
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from os import PathLike
from typing import Any

# Environment variable that enables the traceback of every error.
TRACEBACK_VARIABLE = "ALEXNET_EXP_TRACEBACK"


class ExitCode(IntEnum):
    """The exit codes of the command line."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    TERMINATED = 75  # stopped by a signal other than Ctrl-C, and resumable: EX_TEMPFAIL of sysexits.h
    INTERRUPTED = 130  # Ctrl-C


class UserError(Exception):
    """An error that the user can correct. `str(error)` is printed without a traceback; the exit code is 2."""


MOST_VALUE_CHARACTERS = 300  # longer values are truncated in messages
NO_VALUE = object()  # the value of a problem that is not about a setting with a value


@dataclass(frozen=True)
class Problem:
    """One rejected setting: its dotted key, its value, and what to write instead."""

    key: str
    value: Any
    instead: str

    def __str__(self) -> str:
        if self.value is NO_VALUE:
            return one_line(f"{self.key}: {self.instead}")
        value = yaml_text(self.value)
        value = value if len(value) <= MOST_VALUE_CHARACTERS else f"{value[:MOST_VALUE_CHARACTERS]}..."
        return one_line(f"{self.key}={value}: {self.instead}")

    def under(self, prefix: str) -> Problem:
        """Returns the same problem with `prefix` before its key: `lr` under `optim` is `optim.lr`."""
        return Problem(f"{prefix}.{self.key}" if self.key else prefix, self.value, self.instead)


class Refused(UserError, ValueError):  # noqa: N818 (`raise Refused` says what happens)
    """One or more rejected settings; `problems` lists them.

    It is also a `ValueError`, so that OmegaConf and dataclasses treat it as a bad value.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Checks:
    """Collects the problems of one node's settings; `done()` raises them together.

    Used in `__post_init__` of a settings dataclass:

        checks = Checks(self)
        checks.above("lr", 0)
        checks.between("momentum", 0, 1)
        checks.done()
    """

    def __init__(self, node: Any):
        self.node = node
        self.problems: list[Problem] = []

    def refuse(self, key: str, instead: str) -> None:
        """Records that the value of `key` is rejected, and what to write instead."""
        self.problems.append(Problem(key, getattr(self.node, key, None), instead))

    def that(self, key: str, holds: bool, instead: str) -> None:
        """Rejects `key` unless `holds`."""
        if not holds:
            self.refuse(key, instead)

    def above(self, key: str, low: float) -> None:
        """Rejects `key` unless it is null or a finite number greater than `low`."""
        value = getattr(self.node, key)
        self.that(key, value is None or low < value < math.inf, f"must be greater than {low}{_finite_suffix(value)}")

    def at_least(self, key: str, low: float) -> None:
        """Rejects `key` unless it is null or a finite number of at least `low`."""
        value = getattr(self.node, key)
        self.that(key, value is None or low <= value < math.inf, f"must be at least {low}{_finite_suffix(value)}")

    def between(self, key: str, low: float, high: float) -> None:
        """Rejects `key` unless it is null or in [low, high]."""
        value = getattr(self.node, key)
        self.that(key, value is None or low <= value <= high, f"must be from {low} to {high}")

    def below(self, key: str, low: float, high: float) -> None:
        """Rejects `key` unless it is null or in [low, high)."""
        value = getattr(self.node, key)
        self.that(key, value is None or low <= value < high, f"must be at least {low} and below {high}")

    def one_of(self, key: str, choices: Iterable[str]) -> None:
        """Rejects `key` unless it is null or one of `choices`; the message suggests the nearest one."""
        value, names = getattr(self.node, key), list(choices)
        if value is not None and value not in names:
            self.refuse(key, suggest_name(value, names))

    def done(self) -> None:
        """Raises `Refused` with all recorded problems, if there are any."""
        if self.problems:
            raise Refused(self.problems)


def _finite_suffix(value: Any) -> str:
    return " and finite" if value == math.inf else ""


def one_line(text: str | PathLike[str]) -> str:
    """Returns `text`, such as a path, on one line: characters that cannot be printed are escaped."""
    letters = os.fspath(text)
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in letters)


def error_text(error: UserError) -> str:
    """Returns an error's lines with unprintable characters escaped."""
    return "\n".join(map(one_line, str(error).split("\n")))


def nfc(text: str) -> str:
    """Returns the text in Unicode form NFC (letter and accent as one character); macOS writes file names in NFD."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def yaml_text(value: Any) -> str:
    """Returns a value as it is written in YAML or after `key=`: null, true, [a, b]."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {yaml_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    return str(value)


def nearest_name(word: Any, names: Iterable[str]) -> str | None:
    """Returns the one of `names` that `word` probably stands for, or None.

    A name that differs in case, hyphens or underscores only comes first, then one with transposed letters (modle for
    model), then one of a similar spelling. Nearly all letters of a short word must match.
    """
    names, word = list(names), normalize_name(str(word))
    plain = {normalize_name(name): name for name in reversed(names)}
    swapped = [name for other, name in plain.items() if sorted(other) == sorted(word)]
    if word in plain:
        return plain[word]
    found = difflib.get_close_matches(word, plain, n=1, cutoff=0.8 if len(word) <= 4 else 0.7)
    found = found or [other for other in plain if len(word) > 2 and len(other) == len(word) and other[:-1] == word[:-1]]
    return swapped[-1] if swapped else plain[found[0]] if found else None


def normalize_name(text: str) -> str:
    """Returns a name in lower case without hyphens and underscores."""
    return text.lower().replace("-", "").replace("_", "")


def suggest_name(word: Any, names: Iterable[str]) -> str:
    """Returns the advice for an unknown `word`: the nearest of `names`, if there is one, then all of them."""
    names = list(names)
    near = nearest_name(word, names)
    return (f"did you mean {near}? " if near else "") + f"one of {', '.join(names)}"


def missing_package(package: str, extra: str | None = None) -> str:
    """Returns the message for a missing package, with the command that installs `extra` (default: `package`)."""
    return f"the package {package} is not installed; pip install -e '.[{extra or package}]'"
