"""One group of rows, measured in a process of its own; `python -m benchmarks` starts these.

python -m benchmarks.group MODULE RESULT.json OPTIONS
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.rows import Measured, Missing, Row

TURNS = 7  # where the group does not say itself
PATHS = ("keras", "images", "cifar", "out")  # the options that are files and folders


def main() -> None:
    """Measures, and writes the rows, or what is missing for them. OPTIONS are JSON."""
    path, result, options = sys.argv[1:]
    module = import_module(path)
    try:
        measured = call(module.rows, json.loads(options))
    except Missing as missing:
        written: dict[str, Any] = {"missing": str(missing)}
    else:
        rows = measured.rows if isinstance(measured, Measured) else measured
        data = measured.data if isinstance(measured, Measured) else {}
        written = {"machine": machine(), "rows": [row.to_json() for row in rows], "data": data}
    Path(result).write_text(json.dumps(written), encoding="utf-8")


def call(rows: Callable[..., Measured | list[Row]], options: Mapping[str, Any]) -> Measured | list[Row]:
    """`rows` with those of the options that it takes; an option that was not given keeps its default there.

    Where it has no default either, `turns` is TURNS and all else None.
    """
    wanted = inspect.signature(rows).parameters
    given = {key: value for key, value in options.items() if key in wanted and value is not None}
    for key, parameter in wanted.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            given[key] = TURNS if key == "turns" else None
    return rows(**{key: Path(value) if key in PATHS else value for key, value in given.items()})


if __name__ == "__main__":
    main()
