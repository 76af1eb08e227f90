"""Provides the folders of the YAML files, the outputs and the user's cache. Standard library only: `--help` is fast."""

from __future__ import annotations

import os
from pathlib import Path

OUTPUTS = Path("outputs")  # of all runs, in the folder where the command is typed


def outputs_folder() -> Path:
    """The folder of all runs to read from: also for a command that is typed inside of it, or of a run's folder."""
    here = Path.cwd()
    if not OUTPUTS.is_dir():
        for folder in (here, *here.parents):
            if folder.name == OUTPUTS.name and os.path.lexists(folder / "latest"):
                return Path(os.path.relpath(folder))
    return OUTPUTS


def conf_dir() -> Path:
    """The folder of the YAML files: inside the package in an installed wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def groups(config_dir: str | None = None) -> dict[str, list[str]]:
    """The options of every group, as the files lie: `{"model": ["bn", "lrn", ...], ...}`; nested ones with a slash."""
    found: dict[str, set[str]] = {}
    for root in [conf_dir(), *([Path(config_dir)] if config_dir else [])]:
        for file in root.rglob("*.yaml"):
            relative = file.relative_to(root).with_suffix("")
            if len(relative.parts) > 1:
                found.setdefault(relative.parts[0], set()).add("/".join(relative.parts[1:]))
    return {group: sorted(names) for group, names in sorted(found.items())}


def group_names(config_dir: str | None = None) -> set[str]:
    """What Hydra takes for a group: every folder, also one without options."""
    roots = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    return {each.name for root in roots for each in root.iterdir() if each.is_dir()}


def cache_folder(setting: str | None = None) -> Path:
    """Returns `setting`, or $XDG_CACHE_HOME/alexnet_exp, or ~/.cache/alexnet_exp."""
    if setting is not None:
        return Path(setting).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_exp"
