"""Completes commands, runs and flags in the shell; Hydra completes groups and settings."""

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

LINE_VARIABLE = "COMP_LINE"  # the variable in which the shell passes the command line
INTERNAL = ("schema/", "hydra")  # groups that users do not choose
# Commands that take overrides, which Hydra completes. The others take runs and their own subcommands.
WITH_OVERRIDES = ("train", "check", "summary", "bench")
SUBCOMMANDS = {"plot": ["schedule"], "runs": ["show", "diff"], "sweep": ["work", "confirm"]}
TRAIN_FLAGS = ["--allow", "--cfg", "--config-dir", "--help", "--hydra-help", "--multirun", "--version"]
TAKE_A_VALUE = ("--allow", *CONFIG_DIR)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def run(arguments: list[str], commands: Iterable[str]) -> int:
    """Prints the completions at the cursor in the format of Hydra's shell function."""
    program, _, typed = os.environ.get(LINE_VARIABLE, "").partition(" ")
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
            print(" ".join(word for word in [*SUBCOMMANDS.get(command, []), *_runs()] if word.startswith(last)))
            return 0
    os.environ[LINE_VARIABLE] = " ".join([program, *before, last])  # Hydra completes overrides only
    offers = _hydras([*arguments, *(["--config-dir", folder] if folder and Path(folder).is_dir() else [])])
    if not before and command is None and not last.startswith(("+", "~")):
        offers = [name for name in commands if name.startswith(last)] + offers
    print(" ".join(offers))
    return 0


def _without_values(words: Iterable[str]) -> list[str]:
    """Returns the arguments without `--allow PACKAGE` and `--config-dir FOLDER`."""
    rest = []
    left = iter(words)
    for word in left:
        if word in TAKE_A_VALUE:
            next(left, None)
        elif word and word.partition("=")[0] not in TAKE_A_VALUE:
            rest.append(word)
    return rest


def _runs() -> list[str]:
    """Returns `last` and the paths of all runs."""
    return ["last", *(run.as_posix() for run in runs_under(OUTPUTS))]


def _flags(command: str | None) -> list[str]:
    """Returns the flags in the help of a command; without a command, those of training."""
    if command in (None, "train"):
        return TRAIN_FLAGS
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        import_module(f"alexnet_exp.cli.{command}").run(["--help"])
    return list(dict.fromkeys(FLAG.findall(printed.getvalue())))


def _hydras(arguments: list[str]) -> list[str]:
    from alexnet_exp.config.hydra_session import print_with_hydra

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_with_hydra(arguments)
    return [word for word in printed.getvalue().split() if not word.startswith(INTERNAL)]
