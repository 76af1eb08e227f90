"""How every picture looks: light, quiet axes, and one colour for what matters."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ACCENT = "#1f5fa8"
QUIET = "#8a8f98"
INK = "#24292f"
GRID = "#e6e8eb"
NOTE = "#57606a"  # small text that is still to be read
# blue and orange differ for every kind of colour blindness; the pale ones lie behind text
TRUE, OTHER, WRONG = "#a9cdef", "#f3cf9f", "#c45500"
DPI = 150
DESCRIPTION = "Description"  # the PNG's text field that holds its caption; the report reads it
LETTERS_AN_INCH = 16.5  # of 8 points
LINE = 0.16  # inches of such a line

_WNID = re.compile(r"n\d{8}\s+(?=\S)")


def figure(width: float, height: float) -> Figure:
    """A figure of so many inches that is drawn by Agg, without pyplot's global state or a display."""
    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made


def quiet(axes: Axes, title: str, x: str) -> None:
    """Titles `axes` at the left, names its x axis, and takes away what is not data."""
    axes.set_title(literal(title), loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)


def literal(text: str) -> str:
    """A name as it is: matplotlib would set what stands between two dollar signs as mathematics."""
    return text.replace("$", r"\$")


def words(name: str, letters: int) -> str:
    """A class as it can be read in a picture, in so many letters: `n01440764 tench, Tinca tinca` is tench."""
    plain = _WNID.sub("", name, count=1)
    if plain != name:
        plain = plain.split(",")[0]
    return literal(plain if len(plain) <= letters else f"{plain[: letters - 1].rstrip()}…")


def wrapped(caption: str, inches: float) -> str:
    """`caption` in lines that fit into so many inches, at 8 points."""
    return literal(textwrap.fill(caption, int(inches * LETTERS_AN_INCH)))


def save(made: Figure, path: Path, caption: str = "") -> None:
    """Writes the picture as PNG; `caption`, plain text, goes with it as its description."""
    made.savefig(path, dpi=DPI, format="png", metadata={DESCRIPTION: caption} if caption else None)
