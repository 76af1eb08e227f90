"""What the shell offers at Tab behind `alexnet_exp`: the commands, and Hydra's offers of groups and settings."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable

from alexnet_exp.config import with_hydra

LINE = "COMP_LINE"  # how the shell hands over what was typed so far
INTERNAL = ("schema/", "hydra")  # groups of the composition itself, which nobody chooses on the command line


def run(arguments: list[str], commands: Iterable[str]) -> int:
    """Prints the words that can stand where the cursor is, as Hydra's completion function of the shell wants them."""
    program, _, typed = os.environ.get(LINE, "").partition(" ")
    first, space, rest = typed.partition(" ")
    if first in commands and space:  # Hydra knows no commands; what follows one is overrides
        os.environ[LINE] = f"{program} {rest}"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        with_hydra(arguments, lambda config: None)
    offers = [word for word in printed.getvalue().split() if not word.startswith(INTERNAL)]
    if not space and not first.startswith(("+", "~")):
        offers = [command for command in commands if command.startswith(first)] + offers
    print(" ".join(offers))
    return 0
