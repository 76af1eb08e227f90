"""Completion at Tab behind `alexnet_exp`: commands, their words, runs and flags; Hydra's groups and settings."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable
from importlib import import_module

from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs.find import runs_under

LINE = "COMP_LINE"  # how the shell passes on what was typed so far
INTERNAL = ("schema/", "hydra")  # groups of the composition itself, which nobody chooses on the command line
# The commands that take overrides, which Hydra completes; the others take runs, and these words of their own.
WITH_OVERRIDES = ("train", "check", "summary", "bench")
WORDS = {"plot": ["schedule"], "runs": ["show", "diff"], "sweep": ["work", "confirm"]}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def run(arguments: list[str], commands: Iterable[str]) -> int:
    """Prints the words that can stand where the cursor is, as Hydra's completion function of the shell expects them."""
    program, _, typed = os.environ.get(LINE, "").partition(" ")
    first, space, rest = typed.partition(" ")
    command = first if first in commands and space else None
    if command is not None:
        last = rest.rpartition(" ")[2]
        if last.startswith("-"):
            print(" ".join(flag for flag in _flags(command) if flag.startswith(last)))
            return 0
        if command == "plot" and rest.startswith("schedule "):
            rest = rest.removeprefix("schedule ")
        elif command not in WITH_OVERRIDES:
            print(" ".join(word for word in [*WORDS.get(command, []), *_runs()] if word.startswith(last)))
            return 0
        os.environ[LINE] = f"{program} {rest}"  # Hydra knows no commands; what follows one is overrides
    offers = _hydras(arguments)
    if not space and not first.startswith(("+", "~")):
        offers = [name for name in commands if name.startswith(first)] + offers
    print(" ".join(offers))
    return 0


def _runs() -> list[str]:
    """`last` and the paths of all runs."""
    return ["last", *(run.as_posix() for run in runs_under(OUTPUTS))]


def _flags(command: str) -> list[str]:
    """The flags in the command's own help."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        import_module(f"alexnet_exp.commands.{command}").run(["--help"])
    return list(dict.fromkeys(FLAG.findall(printed.getvalue())))


def _hydras(arguments: list[str]) -> list[str]:
    from alexnet_exp.config import with_hydra

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        with_hydra(arguments, lambda config: None)
    return [word for word in printed.getvalue().split() if not word.startswith(INTERNAL)]
