"""Finds the command among the arguments and rejects typical mistakes with the text to write instead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

from alexnet_exp.errors import UserError

PROGRAM = "python -m alexnet_exp"
HELP = ("-h", "--help")
CONFIG_DIR = ("--config-dir", "-cd")
# Flags whose value is the next argument, unless it follows an equals sign.
WITH_VALUE = (*CONFIG_DIR, "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c")


def command_of(words: Sequence[str], commands: Collection[str]) -> tuple[str, list[str]]:
    """Returns the command and its arguments. Flags may precede it. The default is `train`."""
    values = {index + 1 for index, word in enumerate(words) if word in WITH_VALUE}
    at = next((index for index, word in enumerate(words) if word in commands and index not in values), None)
    if at is None:
        return "train", list(words)
    before = words[:at]
    if any("=" in word and not word.startswith("-") for index, word in enumerate(before) if index not in values):
        typed = shlex.join([PROGRAM.split()[0], *PROGRAM.split()[1:], *words[at:]])
        raise UserError(f"{words[at]}: the command must come first: {typed}")
    return words[at], [*words[at + 1 :], *before]


def config_dir_of(words: Sequence[str]) -> str | None:
    """Returns the folder of `--config-dir`, or None."""
    for word, following in pairwise([*words, ""]):
        if word in CONFIG_DIR:
            return following
        if word.startswith("--config-dir="):
            return word.partition("=")[2]
    return None


def refuse_spaces(words: Sequence[str]) -> None:
    """Raises UserError for `model = lrn`, `model= lrn` and `model=lrn, bn`, with what to write instead."""
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        is_value = bool(after) and not after.startswith("-") and "=" not in after
        if word == "=" and before and after:
            raise UserError(f"{before} = {after}: no spaces around the equals sign; write {before}={after}")
        if re.fullmatch(r"[^-=][^=]*=", word) and is_value:
            raise UserError(f"{word} {after}: no space after the equals sign; write {word}{after}")
        if re.fullmatch(r"=[^=].*", word) and before and "=" not in before and not before.startswith("-"):
            raise UserError(f"{before} {word}: no space before the equals sign; write {before}{word}")
        if "=" in word and word.endswith(",") and is_value:
            raise UserError(f"{word} {after}: no space after a comma; write {word}{after}")


def refuse_strays(words: Iterable[str], config_dir: str | None) -> None:
    """Raises UserError for each argument that is not an override, such as `last` or `paper`."""
    strays = [word for word in words if "=" not in word and not word.startswith("~")]
    if not strays:
        return
    from alexnet_exp.config.suggestions import suggest_argument
    from alexnet_exp.paths import groups

    options = groups(config_dir)
    raise UserError("\n".join(f"{word}: {suggest_argument(word, (), options)}" for word in strays))


def refuse_settings_as_flags(words: Sequence[str], flags: Collection[str]) -> None:
    """Raises UserError for `--model=lrn` and `--epochs 5`, with the settings to write. flags: the existing flags."""
    lines = []
    for word, after in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if not re.fullmatch(r"--?[A-Za-z][\w./@-]*", flag) or flag in flags:
            continue
        if sum(each.startswith(flag) for each in flags) == 1 and flag.startswith("--"):
            continue  # argparse accepts the unique prefix of a flag
        typed = word
        given = value if equals else None
        if not equals and after and not after.startswith("-") and "=" not in after:
            typed, given = f"{word} {after}", after
        if flag == "--config":
            lines.append(f"{typed}: write an experiment file and use --config-dir FOLDER experiment=NAME")
            continue
        from alexnet_exp.config.suggestions import instead

        advice = instead(flag.lstrip("-"), given)
        if advice is not None:
            lines.append(f"{typed}: {'' if PROGRAM in advice else 'settings are written without dashes; '}{advice}")
    if lines:
        raise UserError("\n".join(lines))
