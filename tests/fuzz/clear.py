"""Checks that error messages are clear: one line per problem, without internal names."""

from __future__ import annotations

import re

INSIDE = re.compile(
    r"Traceback|\bomegaconf\b|\bhydra\.(?:core|errors|types|_internal)|DictConfig|ListConfig|\w+Node\b|NoneType"
    r"|\b[A-Z]\w+(?:Error|Exception)\b|object_type=|full_key|<class |<.* object|\b0x[0-9a-f]{6,}|File \"",
)
"""Internal names that a user does not know."""
LONGEST = 2000


def complaint(text: str, given: str = "") -> str | None:
    """Returns why `text` is not one clear line per problem, or None; it may quote the input of the user (`given`)."""
    lines = text.split("\n")
    for line in lines:
        if not line.strip():
            return f"an empty line among {lines!r}"
        if any(ord(letter) < 32 or letter in "\x7f\x85\u2028\u2029" for letter in line):
            return f"a control character in {line!r}"
        if len(line) > LONGEST + 2 * len(given):
            return f"a line of {len(line)} characters: {line[:200]!r}"
        found = INSIDE.search(line)
        if found and found[0] not in given:
            return f"{found[0]!r} in {line!r}"
    return None


def check(error: object, naming: str = "", given: str = "") -> None:
    """Fails unless the text of an error is clear and contains `naming`."""
    text = str(error)
    assert naming in text
    assert complaint(text, given or naming) is None, f"{complaint(text, given or naming)}; given {given}"
