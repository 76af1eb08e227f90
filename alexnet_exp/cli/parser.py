"""What the commands that take overrides share: splitting the words after a command into its flags and the overrides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_exp.cli.arguments import PROGRAM, refuse_settings_as_flags, refuse_strays
from alexnet_exp.errors import UserError


class _Parser(argparse.ArgumentParser):
    def __init__(self, command: str, description: str, usage: str | None = None):
        super().__init__(prog=f"{PROGRAM} {command}", description=description, usage=usage)
        self.command = command
        # for the help: it is taken before any command sees it
        self.add_argument(
            "--allow", metavar="PACKAGE", help="lets a configuration name classes of PACKAGE (docs/guides/extend.md)"
        )

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{self.command}: {message}; {PROGRAM} {self.command} --help tells what it takes")


class Parser(_Parser):
    """An argument parser whose errors are one line, as everywhere here.

    `--config-dir`, which every command takes, is ignored: a run's folder has all that is needed.
    """

    def __init__(self, command: str, description: str, usage: str | None = None):
        super().__init__(command, description, usage)
        self.add_argument("--config-dir", help=argparse.SUPPRESS)


class _WithOverrides(_Parser):
    """Takes overrides before, between and behind the flags."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        refuse_settings_as_flags(args or (), self._option_string_actions)
        given = self.parse_intermixed_args(args, namespace)
        refuse_strays(given.overrides, given.config_dir)
        from alexnet_exp.config.compose import typed  # not for a command's --help

        given.overrides = typed(given.overrides, given.config_dir)
        return given


def output_folder(path: Path) -> Path:
    """`path`, made where it was not there. Raises `UserError` where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: this folder cannot be made ({error.strerror}); write another one as --out") from None
    return path


def with_overrides(command: str, description: str) -> argparse.ArgumentParser:
    """A parser of `[overrides] [--config-dir FOLDER]`, to which a command adds its flags."""
    parser = _WithOverrides(command, description)
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="as for training, e.g. model=paper data=cifar10"
    )
    parser.add_argument("--config-dir", metavar="FOLDER", help="your own YAML files beside the shipped ones")
    return parser
