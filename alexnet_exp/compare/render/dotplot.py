"""Draws the dot plot of a comparison as text and as inline SVG: seeds, interval of the mean, and paper's claim.

Arms whose verdict is inconclusive are grey. The SVG uses the colours of the page.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from alexnet_exp.compare.result import Arm, Comparison, Verdict
from alexnet_exp.errors import yaml_text
from alexnet_exp.runs.metric import is_accuracy, value_text

MOST_DRAWN_ARMS = 20  # further arms are only in the table
LABEL_CHARACTERS = 36  # of the label of an arm
_SVG_LABEL_CHARACTERS = 48

# In units of the SVG; text has a height of 13, which is readable on a phone.
SVG_WIDTH, SVG_MARGIN, LANE_HEIGHT, SVG_TOP, DOT_RADIUS = 520, 16, 46, 8, 4.5
DOT_COLOUR, INCONCLUSIVE_COLOUR = "var(--accent, #1f6feb)", "var(--muted, #8b949e)"


@dataclass(frozen=True)
class PlotSigns:
    """The characters of a text plot."""

    dot: str = "●"
    bar: str = "─"
    left: str = "├"
    right: str = "┤"
    claim: str = "◇"


ASCII_SIGNS = PlotSigns("o", "-", "[", "]", "<")  # for terminals that cannot show the others


@dataclass(frozen=True)
class Lane:
    """One arm in the picture. grey: the verdict is inconclusive. claim: its value by the paper's claim."""

    arm: Arm
    grey: bool
    claim: float | None
    claim_text: str = ""


@dataclass(frozen=True)
class PlotLine:
    """A line of the text plot; `grey` lines are dimmed if possible."""

    text: str
    grey: bool = False


def lanes(comparison: Comparison) -> list[Lane]:
    """Returns the arms with values, best first."""
    against = {id(difference.arm): difference for difference in comparison.differences}
    found = []
    for arm in comparison.arms:
        if not arm.values:
            continue
        difference = against.get(id(arm))
        claim = difference.claim if difference else None
        at = difference.baseline.mean if difference else None
        found.append(
            Lane(
                arm,
                difference is not None and difference.verdict is Verdict.inconclusive,
                claim.place(at) if claim and at is not None else None,
                f"{claim.paper.text} ({claim.status.value})" if claim else "",
            )
        )
    return found


def dots_text(comparison: Comparison, width: int = 100, signs: PlotSigns | None = None) -> list[PlotLine]:
    """Returns the plot as lines of at most `width` characters; no line if no arm has a value."""
    signs = signs or PlotSigns()
    drawn = lanes(comparison)
    if not drawn:
        return []
    key, first = comparison.metric.key, drawn[:MOST_DRAWN_ARMS]
    low, high = _span(first)
    labels = _labels(first)
    wide = min(LABEL_CHARACTERS, width // 3, max(map(len, labels)))
    labels = _cut(labels, wide)
    figures = [value_text(key, lane.arm.mean) for lane in first]
    room = max(20, width - wide - max(map(len, figures)) - 4)

    def place(number: float) -> int:
        return min(room - 1, max(0, round((number - low) / (high - low) * (room - 1))))

    lines = []
    for lane, label, figure in zip(first, labels, figures, strict=True):
        cells = [" "] * room
        if lane.arm.interval:
            start, end = map(place, lane.arm.interval)
            cells[start : end + 1] = signs.bar * (end - start + 1)
            cells[start], cells[end] = signs.left, signs.right
        for number in lane.arm.values:
            cells[place(number)] = signs.dot
        if lane.claim is not None:
            cells[place(lane.claim)] = signs.claim
        lines.append(PlotLine(f"{label:<{wide}}  {''.join(cells)}  {figure}".rstrip(), lane.grey))
    lines.append(PlotLine(f"{'':<{wide}}  {_scale(key, low, high, room, place)}".rstrip()))
    legend = [f"{signs.dot} one seed"]
    if any(lane.arm.interval for lane in first):
        legend.append(f"{signs.left}{signs.bar}{signs.right} 95% interval of the mean")
    if any(lane.claim is not None for lane in first):
        legend.append(f"{signs.claim} the paper's claim")
    more = f"; {len(drawn) - MOST_DRAWN_ARMS} more are in the table" if len(drawn) > MOST_DRAWN_ARMS else ""
    return [*lines, PlotLine(f"{'':<{wide}}  {comparison.metric.label}: {', '.join(legend)}{more}")]


def dots_svg(comparison: Comparison) -> str:
    """Returns the plot as an `<svg>` element; an empty text if no arm has a value.

    The colours are `--accent`, `--muted` and the text colour of the page, so the plot works in dark mode.
    """
    drawn = lanes(comparison)[:MOST_DRAWN_ARMS]
    if not drawn:
        return ""
    key = comparison.metric.key
    low, high = _span(drawn)

    def place(number: float) -> str:
        return f"{SVG_MARGIN + (number - low) / (high - low) * (SVG_WIDTH - 2 * SVG_MARGIN):.1f}"

    bottom = SVG_TOP + LANE_HEIGHT * len(drawn)
    parts = [
        f'<svg class="dot-plot" viewBox="0 0 {SVG_WIDTH} {bottom + 40}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'style="width:100%;max-width:{SVG_WIDTH + 200}px;height:auto" font-size="13" fill="currentColor" '
        f'font-family="inherit"><title>{escape(_alternative(comparison, drawn))}</title>'
    ]
    for tick in _ticks(low, high, 5):
        x = place(tick)
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{SVG_TOP}" y2="{bottom}" stroke="currentColor" stroke-opacity=".15"/>'
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle" font-size="12">{escape(_tick(key, tick))}</text>'
        )
    for number, (lane, name) in enumerate(zip(drawn, _cut(_labels(drawn), _SVG_LABEL_CHARACTERS), strict=True)):
        parts += _lane_svg(lane, name, key, SVG_TOP + LANE_HEIGHT * number, place)
    middle, label = SVG_WIDTH / 2, escape(comparison.metric.label)
    parts.append(f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle" font-size="12">{label}</text></svg>')
    return "".join(parts)


def _lane_svg(lane: Lane, name: str, key: str, top: float, place: Callable[[float], str]) -> Iterable[str]:
    arm, y, colour = lane.arm, top + 32, INCONCLUSIVE_COLOUR if lane.grey else DOT_COLOUR
    figure = value_text(key, arm.mean)
    yield f'<text x="{SVG_MARGIN}" y="{top + 16}">{escape(name)}</text>'
    yield f'<text x="{SVG_WIDTH - SVG_MARGIN}" y="{top + 16}" text-anchor="end">{escape(figure)}</text>'
    if arm.interval:
        start, end = map(place, arm.interval)
        tooltip = escape(f"95% interval {value_text(key, arm.interval[0])} to {value_text(key, arm.interval[1])}")
        yield (
            f'<line x1="{start}" x2="{end}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="9" stroke-opacity=".35" '
            f'stroke-linecap="round"><title>{tooltip}</title></line>'
        )
    for seed, number in zip(arm.seeds, arm.values, strict=True):
        tooltip = escape(value_text(key, number) + ("" if seed is None else f", seed {seed}"))
        yield (
            f'<circle cx="{place(number)}" cy="{y}" r="{DOT_RADIUS}" fill="{colour}" fill-opacity=".75">'
            f"<title>{tooltip}</title></circle>"
        )
    if lane.claim is not None:
        x, r = float(place(lane.claim)), DOT_RADIUS + 3
        corners = f"{x},{y - r} {x + r},{y} {x},{y + r} {x - r},{y}"
        tooltip = escape(f"the paper: {lane.claim_text}")
        yield (
            f'<polygon points="{corners}" fill="none" stroke="currentColor" stroke-width="1.5">'
            f"<title>{tooltip}</title></polygon>"
        )


def _span(drawn: Sequence[Lane]) -> tuple[float, float]:
    """Returns the lowest and highest value drawn, with a margin and at least a minimal width."""
    numbers = [number for lane in drawn for number in (*lane.arm.values, *(lane.arm.interval or ()))]
    numbers += [lane.claim for lane in drawn if lane.claim is not None]
    low, high = min(numbers), max(numbers)
    spare = (high - low) * 0.03 or abs(high) * 0.01 or 0.01
    return low - spare, high + spare


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Returns round numbers between two values, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _scale(key: str, low: float, high: float, room: int, place: Callable[[float], int]) -> str:
    cells = [" "] * room
    for tick in _ticks(low, high, max(2, room // 14)):
        text = _tick(key, tick)
        start = max(0, min(room - len(text), place(tick) - len(text) // 2))
        if all(cell == " " for cell in cells[max(0, start - 1) : start + len(text) + 1]):
            cells[start : start + len(text)] = text
    return "".join(cells)


def _tick(key: str, number: float) -> str:
    return f"{100 * number:.6g}%" if is_accuracy(key) else f"{number:.6g}"


def _labels(drawn: Sequence[Lane]) -> list[str]:
    """Returns short labels: the settings that differ, each by the last part of its key if this is unique."""
    settings = [lane.arm.settings for lane in drawn]
    keys = dict.fromkeys(key for one in settings for key in one)
    differ = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
    lasts = Counter(key.rpartition(".")[2] for key in differ)
    names = {key: last if lasts[last] == 1 else key for key in differ for last in [key.rpartition(".")[2]]}
    if not names:
        return [lane.arm.label for lane in drawn]

    def labels(keys: Sequence[str]) -> list[str]:
        return [" ".join(f"{names[key]}={yaml_text(one[key])}" for key in keys if key in one) for one in settings]

    if max(map(len, labels(differ))) <= LABEL_CHARACTERS:
        return labels(differ)
    # A label that is too long would be cut. To avoid this, labels omit the values that most arms have in common ...
    counts = {key: Counter(yaml_text(one.get(key)) for one in settings).most_common(1)[0] for key in differ}
    common = {key: text for key, (text, times) in counts.items() if times > 1}
    short = [
        " ".join(
            f"{names[key]}={yaml_text(one[key])}"
            for key in differ
            if key in one and yaml_text(one[key]) != common.get(key)
        )
        or "most common settings"
        for one in settings
    ]
    if max(map(len, short)) <= LABEL_CHARACTERS and len(set(short)) == len(set(labels(differ))):
        return short
    # ... or the settings that the other settings determine.
    kept = list(differ)
    for key in reversed(differ):
        fewer = [other for other in kept if other != key]
        if (
            max(map(len, labels(kept))) > LABEL_CHARACTERS
            and fewer
            and len(set(labels(fewer))) == len(set(labels(kept)))
        ):
            kept = fewer
    return labels(kept)


def _cut(labels: Sequence[str], width: int) -> list[str]:
    """Returns the labels cut to `width` characters: at the end, in the middle or at the start, so that most differ."""

    def keep(start: int) -> list[str]:
        """Returns the labels with `start` characters of their beginning and the rest of their end."""
        end = width - 2 - start
        return [label if len(label) <= width else f"{label[:start]}..{label[len(label) - end :]}" for label in labels]

    return max((keep(start) for start in (width - 2, (width - 2) // 2, 0)), key=lambda cut: len(set(cut)))


def _alternative(comparison: Comparison, drawn: Sequence[Lane]) -> str:
    """Returns the alternative text of the picture."""
    key = comparison.metric.key
    arms = "; ".join(f"{lane.arm.label} {value_text(key, lane.arm.mean)} ({lane.arm.n})" for lane in drawn)
    return f"{comparison.metric.label} by arm, mean and number of seeds: {arms}"
