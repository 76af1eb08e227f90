"""Finds what is wrong with each override of a command line that Hydra cannot compose.

Hydra stops at the first bad override, and its advice for an unknown key (`+key=value`) makes a typing error a setting.
So each override is composed by itself once composing them all has failed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from alexnet_exp.config.composer import Composer, parse_override, shell_text, to_plain
from alexnet_exp.config.overrides import text_settings
from alexnet_exp.config.schema import NODES, Config
from alexnet_exp.config.suggestions import suggest_option, suggest_setting
from alexnet_exp.config.user_class import TARGET_KEY
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import NO_VALUE, Problem, Refused, nearest_name, suggest_name
from alexnet_exp.paths import groups

MACHINE_GROUP = "local"  # the group with the settings of a machine, whose default file may be missing
GROUPS_OF_ANY_KEY = {"experiment", "debug"}  # groups whose files set keys of any other


def find_misleading(overrides: Sequence[str], config_dir: str | None) -> Iterator[Problem]:
    """Yields a problem for each override that Hydra accepts but that has another effect than it seems to."""
    options = groups(config_dir)
    for parsed in map(parse_override, overrides):
        group, _, rest = parsed.key_or_group.partition(".")
        if rest == "name" and len(NODES.get(group, ())) > 1:
            yield Problem(parsed.key_or_group, parsed.value(), f"the name is fixed; choose another with {group}=NAME")
        if group == MACHINE_GROUP and str(parsed.value()) not in options.get(
            MACHINE_GROUP, ()
        ):  # Hydra ignores a missing file of an optional group
            yield Problem(MACHINE_GROUP, parsed.value(), f"conf/{MACHINE_GROUP}/{parsed.value()}.yaml not found")


def diagnose(overrides: list[str], config_dir: str | None, error: Exception, composer: Composer) -> list[Problem]:
    """Returns the problems of the single overrides; if there are none, Hydra's error about all of them."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    options = groups(config_dir)
    problems: list[Problem] = []
    good: list[str] = []
    values: list[tuple[str, Any]] = []
    swept: list[Any] = []
    doubtful: set[str] = set()  # groups with an invalid option: settings below them cannot be checked
    for text in overrides:
        try:
            parsed = parse_override(text)
        except Refused as refused:
            problems += refused.problems
            continue
        key = parsed.key_or_group
        if parsed.is_sweep_override():
            swept.append(parsed)
        elif key in options and parsed.package is None and not parsed.is_delete():
            wrong = _wrong_option(key, parsed.value(), options[key])
            problems += wrong
            doubtful |= {key} if wrong else set()
            good += [] if wrong else [text]
        elif not parsed.is_delete() and _is_nowhere(key, options):
            advice = suggest_setting(
                key, parsed.value(), () if "." in key else {*Config.__dataclass_fields__, *options}
            )
            instead = f"unknown setting; {advice or 'python -m alexnet_exp --help lists the groups'}"
            problems.append(Problem(key, parsed.value(), instead))
        else:
            values.append((text, parsed))
    if swept:
        problems.append(_several_values(swept, overrides))
    if doubtful & GROUPS_OF_ANY_KEY:
        return problems
    try:
        composer(good)
    except (HydraException, OmegaConfBaseException, ValueError) as of_files:  # the error is in a YAML file
        return [*problems, Problem("configuration", NO_VALUE, describe_error(of_files))]
    for text, parsed in values:
        if parsed.key_or_group.partition(".")[0] in doubtful:
            continue
        try:
            to_plain(composer([*good, text]))
        except (HydraException, OmegaConfBaseException, ValueError) as single:
            problems.append(_wrong_value(parsed, good, composer, options, single))
        else:
            good.append(text)
    problems += _of_the_rest(good, composer)
    return problems or [Problem("configuration", NO_VALUE, describe_error(error))]


def _is_nowhere(key: str, options: Iterable[str]) -> bool:
    """Returns whether no setting of the root and no group has this first part."""
    first = key.partition(".")[0].partition("/")[0]
    return first not in {*Config.__dataclass_fields__, *options, "hydra"}


def _several_values(swept: Sequence[Any], overrides: Sequence[str]) -> Problem:
    """Returns the problem of a sweep in a command for one run, with the command to use."""
    intervals = not all(parsed.is_discrete_sweep() for parsed in swept)
    search = ["hydra/sweeper=optuna"] if intervals else []
    command = shlex.join(["python", "-m", "alexnet_exp", "-m", *search, *overrides])
    first = swept[0]
    key, _, value = (first.input_line or "").partition("=")
    quote = f"; for one text: {shell_text(key, value)}" if text_settings().get(key) is str else ""
    kind = "an interval is a search" if intervals else "several values are a sweep"
    return Problem(key, value, f"{kind}; add -m: {command}{quote}")


def _of_the_rest(good: list[str], composer: Composer) -> list[Problem]:
    """Returns the validation problems of the overrides that can be composed."""
    try:
        validate(to_plain(composer(good)))
    except Refused as refused:
        return refused.problems
    except Exception:  # they cannot be composed together; the caller reports Hydra's error
        return []
    return []


def _wrong_option(group: str, value: Any, options: list[str]) -> list[Problem]:
    if value is None:
        none = {
            "experiment": "leave it out",
            "debug": "leave it out",
            "callbacks": "write callbacks=[]",
            "logger": "write logger=[]",
        }
        return [
            Problem(group, None, f"must not be null; {none[group]}" if group in none else suggest_name(None, options))
        ]
    if isinstance(value, list) and group in NODES:
        return [Problem(group, value, f"takes one option; for a run of each: -m {group}={','.join(map(str, value))}")]
    chosen = value if isinstance(value, list) else [value]
    return [Problem(group, name, suggest_option(group, name, options)) for name in chosen if str(name) not in options]


def _wrong_value(
    parsed: Any, good: list[str], composer: Composer, options: dict[str, list[str]], error: Exception
) -> Problem:
    """Returns the problem of `key=value`: an unknown key, or a value of another type."""
    from omegaconf.errors import GrammarParseError, InterpolationKeyError, InterpolationResolutionError

    key, value = parsed.key_or_group, parsed.value()
    first = key.partition(".")[0]
    interpolation = isinstance(
        error.__cause__ or error, GrammarParseError | InterpolationKeyError | InterpolationResolutionError
    )
    if interpolation or first.partition("/")[0] == "hydra" or parsed.package is not None:
        return Problem(key, value, describe_error(error))
    if parsed.is_delete() and key in options:
        return _wrong_option(key, None, options[key])[0]
    if first == "model" and key.startswith("model.stages."):
        stages, name = to_plain(composer(good))["model"].get("stages", {}), key.split(".")[2]
        if name not in stages:
            near = nearest_name(name, stages)
            return Problem(key, value, f"no such stage; {f'did you mean {near}? ' if near else ''}{', '.join(stages)}")
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    try:
        validate(_merged(to_plain(composer(good)), nested))
    except Refused as refused:
        return next((problem for problem in refused.problems if problem.key.startswith(key)), refused.problems[0])
    except Exception:  # the other overrides have problems, too; this one gets Hydra's message
        pass
    return Problem(key, value, describe_error(error))


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **over, **both}


def describe_error(error: Exception) -> str:
    """Returns Hydra's error as one line: the file, what is wrong, and what was probably meant."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    lines[0] = re.sub(r"^\w+ raised while resolving interpolation: ", "cannot be resolved: ", lines[0])
    file = re.match(r"In '([^']+)': \w+ raised while composing config:$", lines[0])
    if file is None or len(lines) == 1:
        return _in_our_words(lines[0], "")
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
    if key.endswith(f".{TARGET_KEY}"):
        group = key.partition(".")[0]
        return (
            f"{file[1]}.yaml sets {key}; a class of your own is an option: write {group}/NAME.yaml, choose {group}=NAME"
        )
    return f"{file[1]}.yaml: {_in_our_words(lines[1], key)}"


_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def _in_our_words(line: str, key: str) -> str:
    """Returns an error of Hydra or OmegaConf as one line. key: the setting, if known."""
    at = f"{key}: " if key else ""
    if re.match(r"Key '[^']*' (is not in struct|not in '\w+')", line):
        advice = suggest_setting(key, None) if key else None
        return f"{at}unknown setting" + (f"; {advice}" if advice else "")
    if found := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        return f"{f'{key}={found[1]}: ' if key else ''}must be {_TYPES.get(found[2], found[2])}"
    if found := re.match(r"(?:In '[^']*': )?Could not find '(hydra/\w+|\w+)/([^']+)'", line):
        return f"unknown option {found[1]}={found[2]}"
    if found := re.match(r"Could not (?:override|delete) '([^']+)'", line):
        return f"no option of {found[1]} is chosen that could be replaced"
    if found := re.match(r"Multiple values for (\S+?)\.", line):
        return f"{found[1]}: is chosen already; write {found[1]}=OPTION without +"
    return line
