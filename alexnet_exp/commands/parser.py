"""What the commands that take overrides share: splitting the words after a command into its flags and the overrides."""

from __future__ import annotations

import argparse
from pathlib import Path

from alexnet_exp.settings import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as everywhere here."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"python -m alexnet_exp {command}", description=description)
        self.command = command

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{self.command}: {message}; python -m alexnet_exp {self.command} --help tells what it takes")


def output_folder(path: Path) -> Path:
    """`path`, made where it was not there. Raises `UserError` where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: this folder cannot be made ({error.strerror}); write another one as --out") from None
    return path


def with_overrides(command: str, description: str) -> Parser:
    """A parser of `[overrides] [--config-dir FOLDER]`, to which a command adds its flags."""
    parser = Parser(command, description)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for training, e.g. model=paper data=cifar10"
    )
    parser.add_argument("--config-dir", metavar="FOLDER", help="your own YAML files beside the shipped ones")
    return parser
