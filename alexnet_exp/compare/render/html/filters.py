"""Filters for text in the report's templates."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_HYPHENATED = re.compile(r"(?<![^\s(])[\w-]{0,15}-\w[\w-]{0,14}(?![\w/=&-]|\.\w)")


def unbroken(text: str) -> Markup:
    """`text` as HTML in which short words with hyphens, such as --baseline and top-1, are not broken over two lines."""
    # Markup: the text is escaped before the elements are added around parts of it.
    return Markup(_HYPHENATED.sub(r'<span class="whole">\g<0></span>', str(escape(text))))


def counted(number: int, noun: str) -> str:
    """`1 run` or `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
