"""docs/background/performance.md and its pictures, made from the JSON files: no figure there is typed.

Between `<!-- measured: GROUP GROUP -->` and `<!-- end -->` stand the table of those groups, and their pictures; between
`<!-- kept: precision -->` and the end what follows from the kept runs of both precisions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from alexnet_exp.errors import UserError, suggest_name
from benchmarks.table import Result, load, markdown, where

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(?P<head><!-- (?:measured|kept): (?P<names>[\w ]+) -->\n).*?(?P<tail><!-- end -->)", re.DOTALL)
# Groups whose module has `draw(result, path)`, which makes a picture of their result; the picture, and what it shows.
PICTURES = {
    "accuracy_time": ("time_to_accuracy.png", "Test accuracy against seconds, of both"),
    "scale": ("scale.png", "How images per second, compare and memory grow"),
}


def write_docs(results: Path, groups: Mapping[str, str], docs: Path = DOCS) -> list[Path]:
    """Fills the page's tables and draws the pictures; returns the files that it wrote."""
    page = docs / "background" / "performance.md"
    before = page.read_text(encoding="utf-8")
    after = filled(before, results, groups)
    if after != before:
        page.write_text(after, encoding="utf-8")
    written = [page]
    for group, (name, _) in PICTURES.items():
        result = load(group, results)
        if result is not None and group in groups:
            draw: Callable[[Result, Path], None] = import_module(groups[group]).draw
            draw(result, docs / "pictures" / name)
            written.append(docs / "pictures" / name)
    return written


def filled(page: str, results: Path, groups: Mapping[str, str]) -> str:
    """`page` with each of its blocks as the files in `results` have it; a group without one is named as not measured.

    Raises UserError where a block names no group, or has no end.
    """
    if len(re.findall(r"<!-- (?:measured|kept):", page)) != len(BLOCK.findall(page)):
        raise UserError("docs/background/performance.md: a block <!-- measured: ... --> without <!-- end -->")

    def fill(block: re.Match[str]) -> str:
        names = block["names"].split()
        if "kept:" in block["head"]:
            return f"{block['head']}\n{_precision(results)}\n\n{block['tail']}"
        for name in names:
            if name not in groups:
                raise UserError(f"docs/background/performance.md: {name}: no such group; {suggest_name(name, groups)}")
        found = [(name, load(name, results)) for name in names]
        there = [result for _, result in found if result is not None]
        absent = [f"`{name}`" for name, result in found if result is None]
        parts = [markdown(there), where(there)] if there else []
        parts += [_picture(*PICTURES[result.group]) for result in there if result.group in PICTURES]
        if absent:
            parts.append(f"Not measured yet: {', '.join(absent)}.")
        return block["head"] + "\n" + "\n\n".join(parts) + "\n\n" + block["tail"]

    return BLOCK.sub(fill, page)


def _picture(name: str, shows: str) -> str:
    return f"![{shows}](../pictures/{name})"


def _precision(results: Path) -> str:
    """A line for the first ten seeds, which is what was planned, and one for all."""
    from benchmarks.precision import MARGIN, equivalence, read, told  # scipy takes its time

    file = results / "precision" / "runs.csv"
    if not file.exists():
        return "Not measured yet: `python -m benchmarks.precision` says how."
    pairs = read(file)
    numbers = sorted({min(10, len(pairs)), len(pairs)})
    return "\n".join(f"- {told(equivalence(pairs[:number], MARGIN), MARGIN)}." for number in numbers)
