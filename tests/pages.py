"""The console blocks of the pages: reading them, comparing them with what is printed, rewriting them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_EXECUTED = ROOT / "tests" / "docs_not_executed.txt"
CUT = "..."  # a line of its own: lines are left out; within a line: a part of it is


@dataclass(frozen=True)
class Block:
    """One command of a console block. `line` is its line in the page, `shown` the output below it."""

    page: Path
    line: int
    command: str
    shown: str

    @property
    def place(self) -> str:
        """The page and the command, as tests/docs_not_executed.txt names a block."""
        return f"{self.page.relative_to(ROOT).as_posix()}: {self.command}"


def console(page: Path) -> list[Block]:
    """The commands of a page's console blocks, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, block.start(1) + typed.start()) + 1, typed[1], typed[2])
        for block in re.finditer(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for typed in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block[1], re.MULTILINE)
    ]


def files(page: Path) -> dict[str, str]:
    """The files whose text a page gives: their name on a line, and a block below it."""
    text = page.read_text(encoding="utf-8")
    return dict(re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


@cache
def not_executed() -> dict[str, str]:
    """The reason for each block that is not executed, by its place; from tests/docs_not_executed.txt."""
    reasons, reason = {}, ""
    for line in NOT_EXECUTED.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            reason = line.removeprefix("# ")
        elif line:
            reasons[line] = reason
    return reasons


def pattern(shown: str) -> str:
    """A regular expression for the output that a page shows, with what it cuts."""
    return "".join(r"(?:.*\n)*?" if line == CUT else _pattern(line) + r"\n" for line in shown.splitlines())


def _pattern(line: str) -> str:
    return re.escape(line).replace(r"\ \.\.\.", ".*").replace(r"\.\.\.", ".*")


def updated_lines(shown: list[str], today: list[str], masked: Mapping[str, str]) -> list[str]:
    """The lines that a page shows, brought up to date with those that are printed today.

    `masked` has each line without the parts that depend on the machine: a line that differs in these alone stays.
    What the page cuts stays cut.
    """
    pairs = _aligned(shown, today, masked)
    lines: list[str] = []
    before = (-1, -1)
    for pair in [*pairs, (len(shown), len(today))]:
        gap = shown[before[0] + 1 : pair[0]]
        lines += [CUT] if CUT in gap else today[before[1] + 1 : pair[1]]
        if pair[0] < len(shown):
            lines.append(_line(shown[pair[0]], today[pair[1]], masked))
        before = pair
    return lines


def _line(old: str, new: str, masked: Mapping[str, str]) -> str:
    if re.fullmatch(_pattern(masked[old]), masked[new]):
        return old
    if old.endswith(f" {CUT}"):
        return f"{new[: len(old) - len(CUT) - 1]} {CUT}"
    if CUT not in old:
        return new
    left, right = (re.findall(r"\S+|\s+", line) for line in (old, new))
    parts = SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    line = "".join(CUT if CUT in left[i:j] else "".join(right[k:m]) for _, i, j, k, m in parts)
    return re.sub(r" *\.\.\. *", f" {CUT} ", line)


def _aligned(shown: list[str], today: list[str], masked: Mapping[str, str]) -> list[tuple[int, int]]:
    """Which line of the page is which of today: the pairs, in order, of the greatest similarity in all."""

    def similarity(old: str, new: str) -> float:
        if old == CUT:
            return 0.0
        if re.fullmatch(_pattern(masked[old]), masked[new]):
            return 2.0
        left, right = (" ".join(line.split()) for line in (masked[old].removesuffix(CUT), masked[new]))
        ratio = SequenceMatcher(None, left, right[: len(left)] if old.endswith(CUT) else right, autojunk=False).ratio()
        return ratio if ratio > 0.5 else 0.0

    best = [[0.0] * (len(today) + 1) for _ in range(len(shown) + 1)]
    gains = [[similarity(old, new) for new in today] for old in shown]
    for i in reversed(range(len(shown))):
        for j in reversed(range(len(today))):
            pair = gains[i][j] + best[i + 1][j + 1] if gains[i][j] else 0.0
            best[i][j] = max(pair, best[i + 1][j], best[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(shown) and j < len(today):
        if gains[i][j] and best[i][j] == gains[i][j] + best[i + 1][j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def rewrite(page: Path, changes: Iterable[tuple[Block, list[str]]]) -> None:
    """Puts other output below commands of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for block, shown in sorted(changes, key=lambda change: -change[0].line):
        lines[block.line : block.line + len(block.shown.splitlines())] = shown
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
