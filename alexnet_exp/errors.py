"""How a setting is refused: with its key, the value it had, and what to write instead.

Everything a user can get wrong ends as a `UserError`, whose text is one line for a terminal. `Refused` gathers the
problems of many settings, so that all are told at once. No torch here: settings are checked before it is imported.
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

# The environment variable that shows the traceback of any error.
TRACEBACK = "ALEXNET_EXP_TRACEBACK"


class ExitCode(IntEnum):
    """The exit codes of the command line."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    TERMINATED = 75  # stopped by a signal other than Ctrl-C, and resumable: EX_TEMPFAIL of sysexits.h
    INTERRUPTED = 130  # Ctrl-C


class UserError(Exception):
    """What the user can mend; `str(error)` is what to print, without a traceback. The process then exits with 2."""


LONGEST_VALUE = 300  # characters of a value that a problem tells
NO_VALUE = object()  # of a problem with words that are no setting at all


@dataclass(frozen=True)
class Problem:
    """One refused setting: its dotted key, its value, and what to write instead."""

    key: str
    value: Any
    instead: str

    def __str__(self) -> str:
        if self.value is NO_VALUE:
            return one_line(f"{self.key}: {self.instead}")
        value = shown(self.value)
        value = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}..."
        return one_line(f"{self.key}={value}: {self.instead}")

    def under(self, prefix: str) -> Problem:
        """The same problem seen from the configuration's root: `lr` of the node `optim` is `optim.lr`."""
        return Problem(f"{prefix}.{self.key}" if self.key else prefix, self.value, self.instead)


class Refused(UserError, ValueError):  # noqa: N818 (`raise Refused` says what happens)
    """One or more settings that cannot be used; `problems` has each of them.

    A `ValueError` too, so that OmegaConf and dataclasses treat it as a bad value.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Checks:
    """Gathers what is wrong with the settings of one node; `done()` raises them together.

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
        """Records that the value of `key` cannot be used, and what to write instead."""
        self.problems.append(Problem(key, getattr(self.node, key, None), instead))

    def that(self, key: str, holds: bool, instead: str) -> None:
        """Refuses `key` unless `holds`."""
        if not holds:
            self.refuse(key, instead)

    def above(self, key: str, low: float) -> None:
        """`key` must be a finite number greater than `low` (null is left alone)."""
        value = getattr(self.node, key)
        self.that(key, value is None or low < value < math.inf, f"must be greater than {low}{_finite(value)}")

    def at_least(self, key: str, low: float) -> None:
        """`key` must be a finite number of at least `low` (null is left alone)."""
        value = getattr(self.node, key)
        self.that(key, value is None or low <= value < math.inf, f"must be at least {low}{_finite(value)}")

    def between(self, key: str, low: float, high: float) -> None:
        """`key` must lie in [low, high] (null is left alone)."""
        value = getattr(self.node, key)
        self.that(key, value is None or low <= value <= high, f"must be from {low} to {high}")

    def below(self, key: str, low: float, high: float) -> None:
        """`key` must lie in [low, high): `high` itself is refused (null is left alone)."""
        value = getattr(self.node, key)
        self.that(key, value is None or low <= value < high, f"must be at least {low} and below {high}")

    def one_of(self, key: str, choices: Iterable[str]) -> None:
        """`key` must be one of `choices` (null is left alone); the nearest one is suggested."""
        value, names = getattr(self.node, key), list(choices)
        if value is not None and value not in names:
            self.refuse(key, one_of(value, names))

    def done(self) -> None:
        """Raises `Refused` with all that was gathered, if anything was."""
        if self.problems:
            raise Refused(self.problems)


def _finite(value: Any) -> str:
    return " and finite" if value == math.inf else ""


def one_line(text: str | PathLike[str]) -> str:
    """`text`, such as a path, for a message of one line, whatever is in it: what cannot be printed is escaped."""
    letters = os.fspath(text)
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in letters)


def refusal(error: UserError) -> str:
    """An error's text for a terminal: its lines, whatever is in them."""
    return "\n".join(map(one_line, str(error).split("\n")))


def nfc(text: str) -> str:
    """The text in Unicode's form NFC, in which a letter and its accent are one: macOS writes file names in another."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def shown(value: Any) -> str:
    """A value as one writes it in YAML or behind `key=`: null, true, [a, b]."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def nearest(word: Any, names: Iterable[str]) -> str | None:
    """The name that `word` was probably meant to be, or None: the same but for case, hyphens and underscores first.

    Letters that only changed places come next (modle is model). Of a short word nearly all letters must be right.
    """
    names, word = list(names), plain_word(str(word))
    plain = {plain_word(name): name for name in reversed(names)}
    swapped = [name for other, name in plain.items() if sorted(other) == sorted(word)]
    if word in plain:
        return plain[word]
    found = difflib.get_close_matches(word, plain, n=1, cutoff=0.8 if len(word) <= 4 else 0.7)
    found = found or [other for other in plain if len(word) > 2 and len(other) == len(word) and other[:-1] == word[:-1]]
    return swapped[-1] if swapped else plain[found[0]] if found else None


def plain_word(text: str) -> str:
    """A name without what people write differently: capitals, hyphens, underscores."""
    return text.lower().replace("-", "").replace("_", "")


def one_of(word: Any, names: Iterable[str]) -> str:
    """What to write instead of an unknown `word`: the nearest of the choices first, then all of them."""
    names = list(names)
    near = nearest(word, names)
    return (f"did you mean {near}? " if near else "") + f"one of {', '.join(names)}"


def not_installed(package: str, extra: str | None = None) -> str:
    """The message for a missing package, with the line that installs the extra (default: the one of that name)."""
    return f"the package {package} is not installed; pip install -e '.[{extra or package}]'"
