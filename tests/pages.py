"""The console blocks of a page: each command with the lines that the page shows below it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """One command of a console block. `line` is its line in the page, `shown` what stands below it."""

    page: Path
    line: int
    command: str
    shown: str


def console(page: Path) -> list[Block]:
    """The commands of a page's console blocks, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, block.start(1) + typed.start()) + 1, typed[1], typed[2])
        for block in re.finditer(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for typed in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block[1], re.MULTILINE)
    ]
