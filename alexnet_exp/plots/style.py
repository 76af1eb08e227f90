"""How every picture looks: light, quiet axes, and one colour for what matters."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ACCENT = "#1f5fa8"
QUIET = "#8a8f98"
INK = "#24292f"
GRID = "#e6e8eb"
DPI = 150


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


def save(made: Figure, path: Path) -> None:
    """Writes the picture as PNG."""
    made.savefig(path, dpi=DPI, format="png")
