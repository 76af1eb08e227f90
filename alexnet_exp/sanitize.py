"""What runs contain, made fit for where it is shown: a terminal obeys control characters, a spreadsheet formulas."""

from __future__ import annotations

import re
from typing import Any

# All but tab and new line; what turns the direction of writing round, so that a text reads as another; bytes that are
# no text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape_controls(text: str) -> str:
    r"""The text with control characters written out, an escape as `\x1b`; tabs and new lines stay."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def spreadsheet_cell(had: Any) -> Any:
    """A value for a CSV file. A text that a spreadsheet would compute has an apostrophe before it, as one types it."""
    if not isinstance(had, str):
        return had
    text = escape_controls(had)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
