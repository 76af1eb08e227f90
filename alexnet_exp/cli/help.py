"""Provides the text of `--help`: commands, and groups with their options, from the names of the YAML files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from alexnet_exp.errors import UserError
from alexnet_exp.paths import groups

HELP_HEAD = """\
alexnet_exp: trains, sweeps and compares AlexNet and its variants.

    python -m alexnet_exp                                    AlexNet with batch norm on the digits
    python -m alexnet_exp model=lrn data=cifar10 seed=2      another network, data and seed
    python -m alexnet_exp -m model=lrn,bn seed=1,2,3         a sweep over a grid
"""
HELP_TAIL = """\
Any setting can be overridden: trainer.max_epochs=20 optim.lr=0.01 model.width=0.5 model.stages.conv4=null
    --cfg job                  prints the composed configuration
    --config-dir FOLDER        adds your own YAML files to the shipped ones
    --allow PACKAGE            allows classes of PACKAGE in a configuration (docs/guides/extend.md)
    --hydra-help               prints Hydra's flags; -sc install=bash: shell completion for the script alexnet_exp

RUN is a run folder, last, or a unique prefix of its path below outputs/."""


def text(commands: Mapping[str, str], config_dir: str | None = None) -> str:
    """Returns the help text. config_dir: a folder with more options. Raises UserError if it does not exist."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder")
    lines = [HELP_HEAD, "Commands (python -m alexnet_exp COMMAND ...):"]
    lines += [f"    {name:<10} {what}" for name, what in commands.items()]
    lines += ["", "Groups (GROUP=OPTION):"]
    for group, options in groups(config_dir).items():
        lines += textwrap.wrap(", ".join(options), 100, initial_indent=f"    {group:<10} ", subsequent_indent=" " * 15)
    return "\n".join([*lines, "", HELP_TAIL])
