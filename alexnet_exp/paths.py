"""Provides the folders of the YAML files, the outputs and the user's cache.

It imports the standard library only, so that `--help` is fast.
"""

from __future__ import annotations

import os
from pathlib import Path

OUTPUTS = Path("outputs")  # contains all runs, relative to the working folder


def outputs_folder() -> Path:
    """Returns the folder to read runs from, also if the working folder is inside it."""
    here = Path.cwd()
    if not OUTPUTS.is_dir():
        for folder in (here, *here.parents):
            if folder.name == OUTPUTS.name and os.path.lexists(folder / "latest"):
                return Path(os.path.relpath(folder))
    return OUTPUTS


def conf_dir() -> Path:
    """Returns the folder of the YAML files: inside the package in an installed wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def groups(config_dir: str | None = None) -> dict[str, list[str]]:
    """Returns the options of each config group, by its files: `{"model": ["bn", "lrn", ...], ...}`; `a/b` if nested."""
    found: dict[str, set[str]] = {}
    for root in [conf_dir(), *([Path(config_dir)] if config_dir else [])]:
        for file in root.rglob("*.yaml"):
            relative = file.relative_to(root).with_suffix("")
            if len(relative.parts) > 1:
                found.setdefault(relative.parts[0], set()).add("/".join(relative.parts[1:]))
    return {group: sorted(names) for group, names in sorted(found.items())}


def group_names(config_dir: str | None = None) -> set[str]:
    """Returns the names that Hydra treats as config groups: every folder, also one without options."""
    roots = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    return {each.name for root in roots for each in root.iterdir() if each.is_dir()}


def cache_folder(setting: str | None = None) -> Path:
    """Returns `setting`, or $XDG_CACHE_HOME/alexnet_exp, or ~/.cache/alexnet_exp."""
    if setting is not None:
        return Path(setting).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_exp"
