"""Completion at Tab behind `alexnet_exp`: commands, their words, runs and flags; Hydra's groups and settings."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from alexnet_exp.cli.arguments import CONFIG_DIR, config_dir_of
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs.lookup import runs_under

LINE = "COMP_LINE"  # how the shell passes on what was typed so far
INTERNAL = ("schema/", "hydra")  # groups of the composition itself, which nobody chooses on the command line
# The commands that take overrides, which Hydra completes; the others take runs, and these words of their own.
WITH_OVERRIDES = ("train", "check", "summary", "bench")
WORDS = {"plot": ["schedule"], "runs": ["show", "diff"], "sweep": ["work", "confirm"]}
TRAINS = ["--allow", "--cfg", "--config-dir", "--help", "--hydra-help", "--multirun", "--version"]
TAKE_A_VALUE = ("--allow", *CONFIG_DIR)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def run(arguments: list[str], commands: Iterable[str]) -> int:
    """Prints the words that can stand where the cursor is, as Hydra's completion function of the shell expects them."""
    program, _, typed = os.environ.get(LINE, "").partition(" ")
    *before, last = typed.split(" ")
    if before[-1:] in ([flag] for flag in TAKE_A_VALUE):
        return 0  # the shell offers files
    folder = config_dir_of(before)
    before = _without_values(before)
    command = before[0] if before and before[0] in commands else None
    if last.startswith("-"):
        print(" ".join(flag for flag in _flags(command) if flag.startswith(last)))
        return 0
    if command is not None:
        before = before[1:]
        if command == "plot" and before[:1] == ["schedule"]:
            before = before[1:]
        elif command not in WITH_OVERRIDES:
            print(" ".join(word for word in [*WORDS.get(command, []), *_runs()] if word.startswith(last)))
            return 0
    os.environ[LINE] = " ".join([program, *before, last])  # Hydra knows no commands; what follows one is overrides
    offers = _hydras([*arguments, *(["--config-dir", folder] if folder and Path(folder).is_dir() else [])])
    if not before and command is None and not last.startswith(("+", "~")):
        offers = [name for name in commands if name.startswith(last)] + offers
    print(" ".join(offers))
    return 0


def _without_values(words: Iterable[str]) -> list[str]:
    """The words without `--allow PACKAGE` and `--config-dir FOLDER`, which may stand before a command too."""
    rest = []
    left = iter(words)
    for word in left:
        if word in TAKE_A_VALUE:
            next(left, None)
        elif word and word.partition("=")[0] not in TAKE_A_VALUE:
            rest.append(word)
    return rest


def _runs() -> list[str]:
    """`last` and the paths of all runs."""
    return ["last", *(run.as_posix() for run in runs_under(OUTPUTS))]


def _flags(command: str | None) -> list[str]:
    """The flags in the command's own help; without a command, those of a run."""
    if command in (None, "train"):
        return TRAINS
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        import_module(f"alexnet_exp.cli.{command}").run(["--help"])
    return list(dict.fromkeys(FLAG.findall(printed.getvalue())))


def _hydras(arguments: list[str]) -> list[str]:
    from alexnet_exp.config.compose import with_hydra

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        with_hydra(arguments, lambda config: None)
    return [word for word in printed.getvalue().split() if not word.startswith(INTERNAL)]
