"""What a refusal must look like: a line a problem, in words for a user."""

from __future__ import annotations

import re

INSIDE = re.compile(
    r"Traceback|\bomegaconf\b|\bhydra\.(?:core|errors|types|_internal)|DictConfig|ListConfig|\w+Node\b|NoneType"
    r"|\b[A-Z]\w+(?:Error|Exception)\b|object_type=|full_key|<class |<.* object|\b0x[0-9a-f]{6,}|File \"",
)
"""Names of what a user has never heard of."""
LONGEST = 2000


def complaint(text: str, given: str = "") -> str | None:
    """Why `text` is not one clear line a problem; None where it is. What the user wrote (`given`) may stand in it."""
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
    """Fails unless the text of a refusal is clear, and has the name of what is refused."""
    text = str(error)
    assert naming in text
    assert complaint(text, given or naming) is None, f"{complaint(text, given or naming)}; given {given}"
