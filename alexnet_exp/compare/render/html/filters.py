"""Filters for text in the templates of the report."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_HYPHENATED = re.compile(r"(?<![^\s(])[\w-]{0,15}-\w[\w-]{0,14}(?![\w/=&-]|\.\w)")


def breakable(text: str) -> Markup:
    """Returns settings such as `model.norm=lrn seed=1` as HTML that wraps between them first, then after `=`."""
    # Markup: the text is escaped before the elements are added; no escape contains a space or `=`.
    words = str(escape(text)).replace("=", "=<wbr>").split(" ")
    return Markup(" ".join(f'<span class="setting">{word}</span>' for word in words))


def unbroken(text: str) -> Markup:
    """Returns `text` as HTML that does not wrap inside short words with hyphens, such as --baseline and top-1."""
    # Markup: the text is escaped before the elements are added around parts of it.
    return Markup(_HYPHENATED.sub(r'<span class="whole">\g<0></span>', str(escape(text))))


def counted(number: int, noun: str) -> str:
    """Returns `1 run` or `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
