"""Reads CSV files of spreadsheets, experiment trackers and pandas, and detects their encoding and delimiter."""

from __future__ import annotations

import ast
import codecs
import csv
import io
import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path

from alexnet_exp.errors import UserError, yaml_text
from alexnet_exp.runs.folder import flatten

Row = dict[str, str]

_DELIMITERS = ",;\t|"
_NOT_TEXT = {
    b"PK\x03\x04": "an Excel or zip file; save the table as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel file; save the table as CSV",
    b"\x1f\x8b": "compressed with gzip; decompress it first",
    b"PAR1": "a Parquet file; write it as CSV",
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
# spellings of a missing number
EMPTY = ("", "-", "na", "n/a", "nan", "none", "null", "<na>")


def read_csv(file: Path) -> tuple[list[str], list[Row]]:
    """Returns the columns and the rows of `file`. Raises UserError with the file and the line.

    Names and fields are stripped and in Unicode normalization form NFC. A column without a name is dropped if it is
    empty or counts the rows, as the index of pandas does. A decimal comma becomes a point. `config` and `summary`
    columns with dictionaries, as the W&B API returns them, become one column a key.
    """
    text = unicodedata.normalize("NFC", _decoded(file))
    delimiter, header, lines, first = _parsed(file, text)
    if lines and not text.endswith(("\n", "\r")) and len(lines[-1]) < len(header):
        lines = lines[:-1]  # the writer was killed, or is still writing
    for number, line in enumerate(lines, start=first):
        if len(line) != len(header):
            raise UserError(f"{file}: line {number} has {len(line)} values for {len(header)} columns")
    kept = [place for place, name in enumerate(header) if not _is_index(name, [line[place] for line in lines])]
    # an unnamed first column of words is the index of pandas
    names = ["name" if place == 0 and not header[0] and "name" not in header else header[place] for place in kept]
    _check_names(file, names, kept)
    columns = {name: [line[place] for line in lines] for name, place in zip(names, kept, strict=True)}
    for name, values in columns.items():
        if _has_decimal_commas(values, delimiter):
            columns[name] = [value.replace(",", ".") for value in values]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return _without_dictionaries(file, list(columns), rows)


def number(text: str) -> float | None:
    """Returns `text` as a number, or None. Text with an underscore, such as 1_1, is a name and not a number."""
    return float(text) if _NUMBER.fullmatch(text) else None


def numbers(values: Sequence[str]) -> list[float | None] | None:
    """Returns a column as numbers, with None for an empty field; None if any field is not a number. `80.1%` is 80.1."""
    percent = is_percent(values)
    found: list[float | None] = []
    for value in values:
        if value.lower() in EMPTY:
            found.append(None)
            continue
        had = number(value.removesuffix("%").rstrip() if percent else value)
        if had is None:
            return None
        found.append(had)
    return found


def is_percent(values: Sequence[str]) -> bool:
    """Returns whether every number of the column has a percent sign."""
    there = [value for value in values if value.lower() not in EMPTY]
    return bool(there) and all(value.endswith("%") for value in there)


def _parsed(file: Path, text: str) -> tuple[str, list[str], list[list[str]], int]:
    """Returns the delimiter, the header, the lines below it, and the line number of the first of these."""
    first, _, rest = text.partition("\n")
    stated = re.fullmatch(r'"?sep=(.)"?', first.rstrip("\r"))
    if stated:
        text, first = rest, rest.partition("\n")[0]
    found = []
    for delimiter in stated[1] if stated else [mark for mark in _DELIMITERS if mark in first] or ",":
        try:
            reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
            lines = [[_cell(field) for field in line] for line in reader if line]
        except csv.Error as error:
            raise UserError(f"{file}: is not a CSV file ({error})") from None
        fits = all(len(line) == len(lines[0]) for line in lines)
        found.append((fits, len(lines[0]) if lines else 0, delimiter, lines or [[]]))
    _, _, delimiter, (header, *lines) = max(found, key=lambda one: one[:2])
    words = len(header[0].split()) if len(header) == 1 else 0
    if words > 1 and lines and all(len(line) == 1 and len(line[0].split()) == words for line in lines):
        raise UserError(f"{file}: its columns are separated by spaces; separate them by commas, semicolons or tabs")
    return delimiter, header, lines, 3 if stated else 2


def _decoded(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    for start, said in _NOT_TEXT.items():
        if data.startswith(start):
            raise UserError(f"{file}: {said}")
    if data.lstrip()[:1] == b"{":
        raise UserError(f"{file}: JSON, not CSV; write it as CSV with a row a run")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    head = data[:200]
    if b"\0" in head:
        # without a byte order mark, the zero bytes of Latin letters show the byte order
        order = "le" if head[1::2].count(0) > head[::2].count(0) else "be"
        text = data.decode(f"utf-16-{order}", errors="replace")
        if "\0" in text[:100] or "\ufffd" in text[:100]:
            raise UserError(f"{file}: not a text file; save the table as CSV")
        return text
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")  # what Excel writes in Western Europe


def _cell(field: str) -> str:
    """Returns a field without the apostrophe that `compare --format csv` puts before formulas."""
    text = field.strip()
    return text[1:] if text[:1] == "'" and text[1:2] in ("=", "+", "-", "@") else text


def _is_index(name: str, values: Sequence[str]) -> bool:
    if name and not re.fullmatch(r"Unnamed: \d+", name):
        return False
    return not any(values) or [str(place) for place in range(len(values))] == list(values)


def _check_names(file: Path, names: Sequence[str], kept: Sequence[int]) -> None:
    if "" in names:
        raise UserError(f"{file}: column {kept[names.index('')] + 1} has no name; add one to the first line")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{file}: the header has two columns named {twice}; rename one of them")


def _has_decimal_commas(values: Sequence[str], delimiter: str) -> bool:
    """Returns whether a column has decimal commas (0,5). If commas separate the columns, 1,234 is a thousand."""
    commas = [value for value in values if "," in value]
    rest = [value for value in values if "," not in value and value.lower() not in EMPTY]
    return (
        bool(commas)
        and all(_DECIMAL_COMMA.fullmatch(value.removesuffix("%").rstrip()) for value in commas)
        and (delimiter != "," or not all(_THOUSANDS.fullmatch(value) for value in commas))
        and all(re.fullmatch(r"[+-]?\d+%?", value) for value in rest)
    )


def _without_dictionaries(file: Path, columns: list[str], rows: list[Row]) -> tuple[list[str], list[Row]]:
    """Splits the `summary` and `config` columns of the W&B API into columns `metrics.KEY` and `params.KEY`."""
    expanded = {"summary": "metrics.", "config": "params."}
    held = [name for name in expanded if rows and all(row.get(name, "").startswith("{") for row in rows)]
    if not held:
        return columns, rows
    found: list[Row] = []
    for line, row in enumerate(rows, start=2):
        made = {name: text for name, text in row.items() if name not in held}
        for name in held:
            made |= _dictionary(file, line, name, row[name], expanded[name])
        found.append(made)
    names = list(dict.fromkeys(name for row in found for name in row))
    return names, [{name: row.get(name, "") for name in names} for row in found]


def _dictionary(file: Path, line: int, name: str, text: str, prefix: str) -> Row:
    plain = re.sub(r"(?<=[:\[,] )(nan|-?inf)(?=[,\]}])", "None", text)
    try:
        with warnings.catch_warnings(action="ignore"):
            had = ast.literal_eval(plain)
        if not isinstance(had, dict):
            raise TypeError
        return {f"{prefix}{key}": "" if value is None else yaml_text(value) for key, value in flatten(had).items()}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UserError(
            f"{file}: line {line}: {name} cannot be read as a dictionary; write one column a setting or metric"
        ) from None
