"""The command that runs more seeds of two arms, from what was typed for the runs that are there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from alexnet_exp.compare.arms import seed_of
from alexnet_exp.compare.select import NOT_SETTINGS
from alexnet_exp.errors import yaml_text
from alexnet_exp.paths import groups
from alexnet_exp.runs.run import Run

PROGRAM = "python -m alexnet_exp"
_LISTED = 12  # seeds; more are written as a range


def command(arm: Sequence[Run], baseline: Sequence[Run], more: int, seed_key: str = "seed") -> str | None:
    """One command where the arms differ in one override, else one for each arm, joined by `&&`.

    Seeds are those after the last one used. `arm` and `baseline`: all runs of each, the failed ones too. None where it
    is not known what was typed (another project's runs).
    """
    if more < 1 or not arm or not baseline:
        return None
    first, second = typed(arm[0], seed_key), typed(baseline[0], seed_key)
    if first is None or second is None:
        return None
    # a name, note or tag of one run is not that of the new ones
    own = [key for key in dict.fromkeys([*first, *second]) if key in NOT_SETTINGS]
    for key in own:
        if len({(typed(run, seed_key) or {}).get(key) for run in [*arm, *baseline]}) > 1:
            first.pop(key, None)
            second.pop(key, None)
    seeds = new_seeds([*arm, *baseline], more, seed_key)
    differing = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    sides = ((first, arm[0]), (second, baseline[0]))
    # a value with a comma of its own, or an override without a value, cannot stand in a list of Hydra's
    if len(differing) <= 1 and all(_listable(_set_to(side, run, key)) for key in differing for side, run in sides):
        both = {**first, **{key: text for key, text in second.items() if key not in first}}
        for key in differing:
            one, other = (_set_to(side, run, key) for side, run in sides)
            both[key] = f"{one},{other.partition('=')[2]}"
        return _line([*both.values(), f"{seed_key}={seeds}"])
    return " && ".join(_line([*side.values(), f"{seed_key}={seeds}"]) for side in (first, second))


def own_options(command: str) -> str | None:
    """What a `command` needs besides, where it chooses options that are no shipped ones; None where it needs nothing.

    It is said, not written into the command: which packages may run is not taken from a run's folder.
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


def typed(run: Run, seed_key: str = "seed") -> dict[str, str] | None:
    """A run's overrides by their key, as they were typed, without the seed; None where nobody recorded them."""
    overrides = run.facts.get("overrides")
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        return None
    if any(text.lstrip("+~").startswith(("-", "hydra")) for text in overrides):
        return None  # no setting of the experiment: a command to be copied must not have it from a run's folder
    by_key = {text.partition("=")[0].lstrip("+~"): text for text in overrides}
    return {key: text for key, text in by_key.items() if key != seed_key}


def new_seeds(runs: Sequence[Run], more: int, seed_key: str = "seed") -> str:
    """`4,5,6`, or a range of Hydra's where they are many."""
    start = max((seed for run in runs if (seed := seed_of(run, seed_key)) is not None), default=0) + 1
    if more > _LISTED:
        return f"range({start},{start + more})"
    return ",".join(str(start + place) for place in range(more))


def _set_to(side: Mapping[str, str], run: Run, key: str) -> str:
    """The override of `key`, or where it was not typed, the one that says what the run had."""
    if key in side:
        return side[key]
    return f"{key}={yaml_text(run.choices.get(key, run.config.get(key)))}"


def _listable(override: str) -> bool:
    had = override.partition("=")[2]
    return "=" in override and not override.startswith("~") and bool(had) and not set(had) & set(",[]{}()'\" ")


def _line(overrides: Sequence[str]) -> str:
    return " ".join([f"{PROGRAM} -m", *(shlex.quote(text) for text in overrides)])
