"""One part of the group `cuda`, in a process of its own: a fault of the GPU or a kill loses what is not written yet.

python -m benchmarks.cuda_part MODULE FUNCTION RESULT.json SETUP

The function yields checks and rows. The file is written after each, so that a part that is killed keeps them.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.rows import Missing, Row


@dataclass(frozen=True)
class Check:
    """Whether a path of the GPU is correct. passed: None where it was not checked. detail: what was found, or why."""

    name: str
    passed: bool | None
    detail: str = ""


@dataclass(frozen=True)
class Setup:
    """Where and how much. device: `cuda`, or `cpu` to try the script without a card. small: seconds, not minutes."""

    device: str = "cuda"
    small: bool = False
    turns: int = 5
    cifar: str | None = None

    def overrides(self) -> list[str]:
        """Returns the settings of a run on one such device."""
        return ["trainer=cpu"] if self.device == "cpu" else ["trainer.gpus=1"]


Part = Callable[[Setup], Iterator[Check | Row]]


@dataclass
class Found:
    """What a part has found so far."""

    checks: list[Check] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Replaces the file at once: its reader may kill this process at any moment."""
        content = {"checks": [asdict(check) for check in self.checks], "rows": [row.to_json() for row in self.rows]}
        written = file.with_suffix(".tmp")
        written.write_text(json.dumps(content), encoding="utf-8")
        written.replace(file)

    @classmethod
    def read(cls, file: Path) -> Found:
        """Returns what `write` wrote; nothing where there is no file."""
        if not file.exists():
            return cls()
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return cls([Check(**check) for check in content["checks"]], [Row.from_json(row) for row in content["rows"]])


def collect(part: Part, name: str, setup: Setup, file: Path) -> Found:
    """Runs a part to its end; an exception is a check that failed, `Missing` one that was not made."""
    found = Found()
    try:
        for each in part(setup):
            if isinstance(each, Check):
                found.checks.append(each)
            else:
                found.rows.append(each)
            found.write(file)
    except Missing as missing:
        found.checks.append(Check(name, None, str(missing)))
    except Exception as error:
        traceback.print_exc()
        found.checks.append(Check(name, False, f"{type(error).__name__}: {error}".partition("\n")[0]))
    found.write(file)
    return found


def main() -> None:
    """Runs the part that the command line names."""
    module, name, file, setup = sys.argv[1:]
    collect(getattr(import_module(module), name), name, Setup(**json.loads(setup)), Path(file))


if __name__ == "__main__":
    import_module("benchmarks.cuda_part").main()  # `Check` of the module `__main__` would be another class
