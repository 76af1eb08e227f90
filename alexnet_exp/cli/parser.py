"""Provides the argument parsers of the commands."""

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
        # only for the help text: `__main__` removes it from the arguments
        self.add_argument(
            "--allow", metavar="PACKAGE", help="allows classes of PACKAGE in a configuration (docs/guides/extend.md)"
        )

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{self.command}: {message}; {PROGRAM} {self.command} --help lists its arguments")


class Parser(_Parser):
    """An argument parser that raises UserError with one line.

    It accepts and ignores `--config-dir`, because a run folder contains the whole configuration.
    """

    def __init__(self, command: str, description: str, usage: str | None = None):
        super().__init__(command, description, usage)
        self.add_argument("--config-dir", help=argparse.SUPPRESS)


class _WithOverrides(_Parser):
    """Accepts overrides before, between and after the flags."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        refuse_settings_as_flags(args or (), self._option_string_actions)
        given = self.parse_intermixed_args(args, namespace)
        refuse_strays(given.overrides, given.config_dir)
        from alexnet_exp.config.compose import prepare_overrides  # --help does not need it

        given.overrides = prepare_overrides(given.overrides, given.config_dir)
        return given


def output_folder(path: Path) -> Path:
    """Returns `path` after creating the folder. Raises UserError if it cannot be created."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: the folder cannot be created ({error.strerror}); choose another one with --out"
        ) from None
    return path


def with_overrides(command: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser of `[overrides] [--config-dir FOLDER]`, to which a command adds its flags."""
    parser = _WithOverrides(command, description)
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="as for training, e.g. model=paper data=cifar10"
    )
    parser.add_argument("--config-dir", metavar="FOLDER", help="adds your own YAML files to the shipped ones")
    return parser
