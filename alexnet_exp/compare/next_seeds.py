"""Provides the command that runs more seeds of two arms, from the overrides of their runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from alexnet_exp.compare.select import NOT_SETTINGS, seed_of
from alexnet_exp.errors import yaml_text
from alexnet_exp.paths import groups
from alexnet_exp.runs.run import Run

PROGRAM = "python -m alexnet_exp"
_MOST_LISTED_SEEDS = 12  # more are written as a range


def seeds_command(arm: Sequence[Run], baseline: Sequence[Run], more: int, seed_key: str = "seed") -> str | None:
    """Returns one command if the arms differ in one override, else one per arm, joined by `&&`.

    The seeds follow the last one used. arm, baseline: all runs of each, including failed ones. None if the overrides
    were not recorded (runs of another project).
    """
    if more < 1 or not arm or not baseline:
        return None
    first, second = read_overrides(arm[0], seed_key), read_overrides(baseline[0], seed_key)
    if first is None or second is None:
        return None
    # The name, note or tag of a single run does not belong to new runs.
    own = [key for key in dict.fromkeys([*first, *second]) if key in NOT_SETTINGS]
    for key in own:
        if len({(read_overrides(run, seed_key) or {}).get(key) for run in [*arm, *baseline]}) > 1:
            first.pop(key, None)
            second.pop(key, None)
    seeds = next_seed_values([*arm, *baseline], more, seed_key)
    differing = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    sides = ((first, arm[0]), (second, baseline[0]))
    # Hydra's list of values cannot contain a value with a comma or an override without a value.
    if len(differing) <= 1 and all(_listable(_set_to(side, run, key)) for key in differing for side, run in sides):
        both = {**first, **{key: text for key, text in second.items() if key not in first}}
        for key in differing:
            one, other = (_set_to(side, run, key) for side, run in sides)
            both[key] = f"{one},{other.partition('=')[2]}"
        return _line([*both.values(), f"{seed_key}={seeds}"])
    return " && ".join(_line([*side.values(), f"{seed_key}={seeds}"]) for side in (first, second))


def options_note(command: str) -> str | None:
    """Returns what else a command needs if it has options that are not shipped; None if nothing.

    This is printed and not part of the command: a run folder must not decide which packages may be imported.
    """
    shipped = groups()
    own = [
        override
        for override in shlex.split(command)
        for key, _, value in [override.lstrip("+").partition("=")]
        if key in shipped and not {*value.strip("[]").split(","), "null", ""} <= {*shipped[key], "null", ""}
    ]
    if not own:
        return None
    return f"{', '.join(own)}: not shipped; add the --config-dir and --allow that these runs were given"


def read_overrides(run: Run, seed_key: str = "seed") -> dict[str, str] | None:
    """Returns the overrides of a run by key, without the seed; None if they were not recorded."""
    overrides = run.facts.get("overrides")
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        return None
    if any(text.lstrip("+~").startswith(("-", "hydra")) for text in overrides):
        return None  # a command to copy must not get an option of Hydra from a run folder
    by_key = {text.partition("=")[0].lstrip("+~"): text for text in overrides}
    return {key: text for key, text in by_key.items() if key != seed_key}


def next_seed_values(runs: Sequence[Run], more: int, seed_key: str = "seed") -> str:
    """Returns the next `more` seeds as `4,5,6`, or as a range of Hydra if there are many."""
    start = max((seed for run in runs if (seed := seed_of(run, seed_key)) is not None), default=0) + 1
    if more > _MOST_LISTED_SEEDS:
        return f"range({start},{start + more})"
    return ",".join(str(start + place) for place in range(more))


def _set_to(side: Mapping[str, str], run: Run, key: str) -> str:
    """Returns the override of `key`, made from the run's value if there was none."""
    if key in side:
        return side[key]
    return f"{key}={yaml_text(run.choices.get(key, run.config.get(key)))}"


def _listable(override: str) -> bool:
    had = override.partition("=")[2]
    return "=" in override and not override.startswith("~") and bool(had) and not set(had) & set(",[]{}()'\" ")


def _line(overrides: Sequence[str]) -> str:
    return " ".join([f"{PROGRAM} -m", *(shlex.quote(text) for text in overrides)])
