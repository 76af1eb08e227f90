"""The text of `--help`: the commands, and the groups with their options as the YAML files lie; nothing is imported."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from alexnet_exp.errors import UserError
from alexnet_exp.paths import groups

HEAD = """\
alexnet_exp: AlexNet, run, varied, swept and compared.

    python -m alexnet_exp                                    the digits, with AlexNet and batch norm
    python -m alexnet_exp model=lrn data=cifar10 seed=2      another network, data and seed
    python -m alexnet_exp -m model=lrn,bn seed=1,2,3         a sweep over a grid
"""
TAIL = """\
Any setting can be overridden: trainer.max_epochs=20 optim.lr=0.01 model.width=0.5 model.stages.conv4=null
    --cfg job                  the composed configuration, every setting with its value
    --config-dir FOLDER        your own YAML files beside the shipped ones
    --allow PACKAGE            lets a configuration name classes of PACKAGE (docs/guides/extend.md)
    --hydra-help               what Hydra itself takes; -sc install=bash: completion for the script alexnet_exp

RUN is a run's folder, the word last, or the unique beginning of its path below outputs/."""


def text(commands: Mapping[str, str], config_dir: str | None = None) -> str:
    """The whole help. config_dir: a folder of the user's own options. Raises UserError where there is none."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    lines = [HEAD, "Commands (python -m alexnet_exp COMMAND ...):"]
    lines += [f"    {name:<10} {what}" for name, what in commands.items()]
    lines += ["", "Groups (GROUP=OPTION):"]
    for group, options in groups(config_dir).items():
        lines += textwrap.wrap(", ".join(options), 100, initial_indent=f"    {group:<10} ", subsequent_indent=" " * 15)
    return "\n".join([*lines, "", TAIL])
