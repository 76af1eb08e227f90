"""Damage to files: truncation, flipped bits, lost or repeated lines, values of other types, other bytes."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

JUNK = st.one_of(
    st.sampled_from(
        [
            b"\x00",
            b"\xff\xfe",
            b"\xed\xa0\x80",
            b"\r",
            b"\n",
            b'"',
            b",",
            b"_",
            b"nan",
            b"1e999",
            b"${seed}",
            b"\x1b[2J",
        ]
    ),
    st.binary(max_size=12),
)
DEEP = 10_000
VALUES: list[Any] = [
    *(
        None,
        True,
        "",
        "nan",
        "done",
        "running",
        "\x1b[2J\n",
        "\ud800",
        -1,
        0,
        10**30,
        1e308,
        [],
        {},
        [[]],
        [None],
        {"": {}},
    ),
    *([1, "a", None], {"name": None}, "${oc.env:HOME}"),
]
# JSON that Python's json cannot write, inserted in place of a value
RAW = ["1e999", "-Infinity", "NaN", "1" * 5000, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP]
PLACE = "\u2603place"


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draws the bytes of a file after one or two kinds of damage."""
    for _ in range(draw(st.integers(1, 2))):
        content = draw(_accident(content))
    return content


@st.composite
def _accident(draw: st.DrawFn, content: bytes) -> bytes:
    kind = draw(
        st.sampled_from(["cut", "flip", "line lost", "line doubled", "lines swapped", "insert", "remove", "other"])
    )
    place = draw(st.integers(0, max(0, len(content) - 1)))
    lines = content.splitlines(keepends=True)
    if kind == "cut":
        return content[:place]
    if kind == "flip" and content:
        return content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
    if kind.startswith("line") and lines:
        first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        if kind == "line lost":
            del lines[first]
        elif kind == "line doubled":
            lines.insert(second, lines[first])
        else:
            lines[first], lines[second] = lines[second], lines[first]
        return b"".join(lines)
    if kind == "insert":
        return content[:place] + draw(JUNK) + content[place:]
    if kind == "remove":
        return content[:place] + content[place + draw(st.integers(1, 20)) :]
    return draw(st.binary(max_size=64))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


@st.composite
def damaged_json(draw: st.DrawFn, content: bytes) -> bytes:
    """Draws the same file with a value of another type, a missing key, or content that this package never writes."""
    value = json.loads(content)
    raw = None
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(value)))
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        kind = draw(st.sampled_from(["other", "other", "lost", "raw"]))
        if kind == "lost":
            del holder[place[-1]]
        elif kind == "raw" and raw is None:
            holder[place[-1]], raw = PLACE, draw(st.sampled_from(RAW))
        else:
            holder[place[-1]] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    text = json.dumps(value)
    return (text if raw is None else text.replace(json.dumps(PLACE), raw)).encode()
