"""Provides the common style of all pictures: light axes and one accent colour."""

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
NOTE = "#57606a"  # of small text
# blue and orange differ for every kind of colour blindness; the pale ones are behind text
TRUE, OTHER, WRONG = "#a9cdef", "#f3cf9f", "#c45500"
DPI = 150
DESCRIPTION = "Description"  # the text field of a PNG with its caption, which the HTML report reads
LETTERS_AN_INCH = 16.5  # of 8 points
LINE = 0.16  # inches of such a line

_WNID = re.compile(r"n\d{8}\s+(?=\S)")


def figure(width: float, height: float) -> Figure:
    """Returns a figure of the given inches for Agg, without pyplot's global state or a display."""
    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made


def quiet(axes: Axes, title: str, x: str) -> None:
    """Sets the title and the x label of `axes`, and removes decorations."""
    axes.set_title(literal(title), loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)


def literal(text: str) -> str:
    """Escapes dollar signs, between which matplotlib would typeset mathematics."""
    return text.replace("$", r"\$")


def words(name: str, letters: int) -> str:
    """Returns a short class name of at most `letters` letters: `n01440764 tench, Tinca tinca` becomes tench."""
    plain = _WNID.sub("", name, count=1)
    if plain != name:
        plain = plain.split(",")[0]
    return literal(plain if len(plain) <= letters else f"{plain[: letters - 1].rstrip()}…")


def wrapped(caption: str, inches: float) -> str:
    """Wraps `caption` into lines of the given inches at 8 points."""
    return literal(textwrap.fill(caption, int(inches * LETTERS_AN_INCH)))


def save(made: Figure, path: Path, caption: str = "") -> None:
    """Writes the picture as PNG with `caption`, plain text, as its description."""
    made.savefig(path, dpi=DPI, format="png", metadata={DESCRIPTION: caption} if caption else None)
