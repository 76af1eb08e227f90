"""docs/background/performance*.md and their pictures, made from the JSON files: no figure there is typed.

Between `<!-- measured: GROUP GROUP -->` and `<!-- end -->` stand the table of those groups, with a column for each
processor, and their pictures; between `<!-- kept: precision -->` and the end what follows from the kept runs of both
precisions; between `<!-- kept: processors -->` and the end what is known of each processor.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from alexnet_exp.errors import UserError, suggest_name
from benchmarks.processor import processors
from benchmarks.table import Result, by_processor, digits, load, where

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(?P<head><!-- (?:measured|kept): (?P<names>[\w ]+) -->\n).*?(?P<tail><!-- end -->)", re.DOTALL)
# Groups whose module has `draw(result, path)`, which makes a picture of their result; the picture, and what it shows.
PICTURES = {
    "accuracy_time": ("time_to_accuracy.png", "Test accuracy against seconds, of both"),
    "scale": ("scale.png", "How images per second, compare and memory grow"),
}


def write_docs(results: Path, groups: Mapping[str, str], docs: Path = DOCS) -> list[Path]:
    """Fills the pages' tables and draws the pictures; returns the files that it wrote."""
    written = pages(docs)
    for page in written:
        before = page.read_text(encoding="utf-8")
        after = filled(before, results, groups)
        if after != before:
            page.write_text(after, encoding="utf-8")
    for group, (name, _) in PICTURES.items():
        found = columns(group, results)
        if found and group in groups:
            draw: Callable[[Result, Path], None] = import_module(groups[group]).draw
            draw(found[_newest(found)], docs / "pictures" / name)
            written.append(docs / "pictures" / name)
    return written


def pages(docs: Path = DOCS) -> list[Path]:
    """Returns the pages with tables of measurements."""
    return sorted((docs / "background").glob("performance*.md"))


def filled(page: str, results: Path, groups: Mapping[str, str]) -> str:
    """`page` with each of its blocks as the files in `results` have it; a group without one is named as not measured.

    Raises UserError where a block names no group, or has no end.
    """
    if len(re.findall(r"<!-- (?:measured|kept):", page)) != len(BLOCK.findall(page)):
        raise UserError("docs/background/performance*.md: a block <!-- measured: ... --> without <!-- end -->")

    def fill(block: re.Match[str]) -> str:
        names = block["names"].split()
        if "kept:" in block["head"]:
            text = _precision(results) if names == ["precision"] else _processors(results)
            return f"{block['head']}\n{text}\n\n{block['tail']}"
        for name in names:
            if name not in groups:
                raise UserError(f"docs/background/performance*.md: {name}: no such group; {suggest_name(name, groups)}")
        found = {name: columns(name, results) for name in names}
        absent = [f"`{name}`" for name in names if not found[name]]
        labels = [each.label for each in processors(results).values()]
        there = {label: [found[name][label] for name in names if label in found[name]] for label in labels}
        there = {label: each for label, each in there.items() if each}
        parts = [
            by_processor(there),
            *(f"- {label}: {_indented(where(each, named=False))}" for label, each in there.items()),
        ]
        parts = ["\n\n".join([parts[0], "\n".join(parts[1:])])] if there else []
        parts += [_choices(label, result) for label, result in found.get("choice", {}).items()]
        parts += [_picture(*PICTURES[name], _newest(found[name])) for name in names if found[name] and name in PICTURES]
        if absent:
            parts.append(f"Not measured yet: {', '.join(absent)}.")
        return block["head"] + "\n" + "\n\n".join(parts) + "\n\n" + block["tail"]

    return BLOCK.sub(fill, page)


def columns(group: str, results: Path) -> dict[str, Result]:
    """Returns what a group measured, by the label of the processor."""
    found = {each.label: load(group, folder) for folder, each in processors(results).items()}
    return {label: result for label, result in found.items() if result is not None}


def _newest(found: Mapping[str, Result]) -> str:
    return max(found, key=lambda label: str(found[label].machine["date"]))


def _indented(text: str) -> str:
    return text if "\n" not in text else "".join(f"\n    - {line}" for line in text.splitlines())


def _picture(name: str, shows: str, label: str) -> str:
    return f"![{shows}](../pictures/{name})\n\nThe picture is of {label}."


def _choices(label: str, result: Result) -> str:
    """Returns what was chosen for each precision, and the milliseconds of a step with each side of a row."""
    data = result.data
    chosen = [f"- {name}: {each['phrase']}" for name, each in data.items() if "phrase" in each]
    seconds = {name: each["seconds"] for name, each in data.items() if "seconds" in each}
    sides = list(dict.fromkeys(side for each in seconds.values() for side in each))
    lines = ["| ms | " + " | ".join(sides) + " |", "|---" * (1 + len(sides)) + "|"]
    for name, each in seconds.items():
        cells = (digits(1e3 * statistics.median(each[side])) if side in each else "-" for side in sides)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n\n".join(
        [f"The choice on {label}, and the median step with each candidate:", *map("\n".join, (chosen, lines))]
    )


def _processors(results: Path) -> str:
    """Returns a line for each processor."""
    return "\n".join(
        f"- {each.label}: " + ", ".join(f"{name} {value}" for name, value in each.facts.items())
        for each in processors(results).values()
    )


def _precision(results: Path) -> str:
    """A line for the first ten seeds, which is what was planned, and one for all."""
    from benchmarks.precision import MARGIN, equivalence, read, told  # scipy takes its time

    file = results / "precision" / "runs.csv"
    if not file.exists():
        return "Not measured yet: `python -m benchmarks.precision` says how."
    pairs = read(file)
    numbers = sorted({min(10, len(pairs)), len(pairs)})
    return "\n".join(f"- {told(equivalence(pairs[:number], MARGIN), MARGIN)}." for number in numbers)
