"""Provides text that is safe to show: without control characters in terminals, without formulas in spreadsheets."""

from __future__ import annotations

import re
from typing import Any

# Control characters but tab and newline; characters that change the direction of writing, which can disguise a text;
# surrogates, which stand for bytes that are not text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")


def escape_controls(text: str) -> str:
    r"""Returns the text with control characters escaped (`\x1b`), but for tabs and newlines."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def spreadsheet_cell(value: Any) -> Any:
    """Returns a value for a CSV file; text that a spreadsheet would evaluate as a formula gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    text = escape_controls(value)
    return f"'{text}" if text.startswith(_FORMULA_PREFIXES) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
