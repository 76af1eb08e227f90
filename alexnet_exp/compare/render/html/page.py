"""The page: what is said first stands in its HTML, what is explored further is drawn by its script from its data."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from alexnet_exp import __version__
from alexnet_exp.atomic import atomic_write
from alexnet_exp.compare.compare import verdict_text
from alexnet_exp.compare.next_seeds import own_options
from alexnet_exp.compare.paper_claim_status import ANALOGUE, figure_text, sentence, status_text
from alexnet_exp.compare.render.dotplot import ROWS, dots_svg, lanes
from alexnet_exp.compare.render.html.contents import as_json, contents
from alexnet_exp.compare.render.html.curves import Curves, read_curves
from alexnet_exp.compare.render.html.methods import methods
from alexnet_exp.compare.render.html.pictures import Picture, Pictures, read_pictures
from alexnet_exp.compare.render.text import main_and_rest, markdown_table
from alexnet_exp.compare.result import Arm, Comparison, Difference, Interval, Verdict
from alexnet_exp.errors import UserError
from alexnet_exp.runs.metric import difference_text, value_text

ALL_VALUES = 5  # up to so many seeds every value is told
OPEN = 4  # up to so many differences are told without being asked for
SKIPPED = 50  # folders that are named
SIGNS = {Verdict.better: "▲", Verdict.worse: "▼", Verdict.no_difference: "=", Verdict.cannot_tell: "?"}
NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
HYPHENATED = re.compile(r"(?<![^\s(])[\w-]{0,15}-\w[\w-]{0,14}(?![\w/=&-]|\.\w)")
Column = tuple[str, bool, Callable[[Arm], str]]  # its heading, whether it holds numbers, and its cell
_PROVENANCE = (
    ("commit", "Commit"),
    ("dirty", "Uncommitted changes"),
    ("device", "Device"),
    ("precision", "Precision"),
    ("fingerprint", "Data fingerprint"),
)
_ABOUT = {
    "confusion_matrix": "Of each true class, the row, which part was taken for which class.",
    "filters": "What the first layer looks for, the columns of the network apart. Mid-grey is a weight of zero; each "
    "filter has its own scale.",
    "learning_curves": "Loss and accuracy by epoch.",
    "neighbours": "At the left an image; beside it the training images whose features in the last hidden layer are "
    "nearest, with their distances. Framed: of another class.",
    "predictions": "The most probable classes of some images. Blue is the true one.",
}


def write_report(comparison: Comparison, path: Path, command: str | None = None) -> None:
    """Writes `comparison` to `path` as one HTML file without any outside reference.

    command: what the footer says made it; the command line of this process where it is ours. Raises UserError when
    `path` cannot be written.
    """
    if path.is_dir():
        raise UserError(f"--html {path}: it is a folder; write the name of a file, such as {path / 'report.html'}")
    page = report(comparison, command or _command(), datetime.now().astimezone())
    try:
        with atomic_write(path) as file:
            file.write(page.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"--html {path}: cannot be written ({error.strerror})") from None


def report(comparison: Comparison, command: str, when: datetime) -> str:
    """The page as text."""
    curves = read_curves(comparison.runs)
    pictures = read_pictures(comparison.arms, comparison.runs)
    script = _part("page.js")
    return Template(_part("page.html")).substitute(
        policy=_policy(script),
        title=escape(f"{comparison.metric.label}: {_counted(len(comparison.arms), 'arm')} compared"),
        style=_part("page.css"),
        runs=_counted(len(comparison.runs), "run"),
        sentence=_words(comparison.sentence),
        dots=_dots(comparison),
        arms=_arms(comparison),
        further=_further(comparison),
        look_out=_look_out(comparison),
        markdown=escape(markdown_table(main_and_rest(comparison)[0], len(comparison.runs), comparison.metric.key)),
        methods=escape(methods(comparison)),
        curves_note=_words(_curves_note(curves)),
        pictures=_pictures(pictures),
        provenance=_provenance(comparison, command, when),
        data=as_json(contents(comparison, curves)),
        script=script,
    )


def _policy(script: str) -> str:
    """Forbids every request, and every script but the page's own: a run's text cannot become code."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _dots(comparison: Comparison) -> str:
    picture = dots_svg(comparison)
    if not picture:
        return ""
    drawn = lanes(comparison)
    legend = ["Each dot is one seed, the number the mean"]
    if any(lane.arm.interval for lane in drawn):
        legend.append("the bar is the mean's 95% interval")
    if any(lane.grey for lane in drawn):
        legend.append("grey cannot be told from the baseline")
    if any(lane.claim is not None for lane in drawn):
        legend.append("the hollow diamond is where the paper has it")
    more = f" {_counted(len(drawn) - ROWS, 'further arm')} in the table." if len(drawn) > ROWS else ""
    return f'<figure class="dots">{picture}<figcaption>{"; ".join(legend)}.{more}</figcaption></figure>'


def _arms(comparison: Comparison) -> str:
    """The table of arms, best first, each with its difference from the baseline and the verdict."""
    if not comparison.arms:
        return "<p>No run has ended with a value of this metric.</p>"
    key = comparison.metric.key
    differences = {difference.arm.label: difference for difference in comparison.differences}
    unit = " in points" if comparison.metric.percent else ""
    columns: list[Column] = [("Arm", False, lambda arm: _name(arm, comparison))]
    if differences:
        columns += [
            ("Verdict", False, lambda arm: _verdict(comparison, differences.get(arm.label))),
            (f"Difference{unit}, with its interval", True, lambda arm: _difference(key, differences.get(arm.label))),
        ]
    if any(difference.images_interval for difference in differences.values()):
        columns.append(("The same on new images", True, lambda arm: _new_images(key, differences.get(arm.label))))
    if any(difference.claim for difference in differences.values()):
        columns.append(("The paper's claim", False, lambda arm: _claim(differences.get(arm.label))))
    columns += [
        (f"Mean {comparison.metric.label}, with its 95% interval", True, lambda arm: _mean(key, arm)),
        (f"sd{unit}", True, lambda arm: NONE if arm.sd is None else difference_text(key, arm.sd)),
        ("Seeds", True, _seeds),
    ]
    if any(0 < arm.n <= ALL_VALUES for arm in comparison.arms):
        columns.append(("Each seed", True, lambda arm: _each(key, arm)))
    head = "".join(f'<th scope="col"{_number(number)}>{_words(title)}</th>' for title, number, _ in columns)
    rows = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{cell(arm)}</th>' if place == 0 else f"<td{_number(number)}>{cell(arm)}</td>"
            for place, (_, number, cell) in enumerate(columns)
        )
        + "</tr>"
        for arm in comparison.arms
    )
    return _scrolling("The arms", f'<table class="arms"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>')


def _name(arm: Arm, comparison: Comparison) -> str:
    is_baseline = any(difference.baseline.label == arm.label for difference in comparison.differences)
    return escape(arm.label) + (' <span class="tag">baseline</span>' if is_baseline else "")


def _seeds(arm: Arm) -> str:
    uncounted = f'<span class="quiet second">{len(arm.uncounted)} not counted</span>' if arm.uncounted else ""
    return f"{arm.n}{uncounted}"


def _each(key: str, arm: Arm) -> str:
    if not 0 < arm.n <= ALL_VALUES:
        return NONE
    values = " ".join(value_text(key, value).rstrip("%") for value in arm.values)
    return f'<span class="quiet">{values}</span>'


def _mean(key: str, arm: Arm) -> str:
    if arm.mean is None:
        return NONE
    interval = "" if arm.interval is None else " to ".join(value_text(key, end) for end in arm.interval)
    below = f'<span class="quiet second">{interval}</span>' if interval else ""
    return f"<strong>{value_text(key, arm.mean)}</strong>{below}"


def _difference(key: str, difference: Difference | None) -> str:
    if difference is None:
        return ""
    if math.isnan(difference.difference):
        return NONE
    return f"{_signed(key, difference.difference)}{_within(key, difference.interval)}"


def _claim(difference: Difference | None) -> str:
    if difference is None or difference.claim is None:
        return NONE
    claim = difference.claim
    tag = f' <span class="tag">{ANALOGUE}</span>' if claim.said.analogue else ""
    below = f'<span class="quiet second">{escape(figure_text(claim.said).replace("-", MINUS))}</span>'
    return f"<strong>{escape(status_text(claim))}</strong>{tag}{below}"


def _new_images(key: str, difference: Difference | None) -> str:
    return _within(key, difference.images_interval) if difference else ""


def _within(key: str, interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f'<span class="quiet second">{_signed(key, interval[0])} to {_signed(key, interval[1])}</span>'


def _signed(key: str, value: float) -> str:
    return difference_text(key, value, sign=True).replace("-", MINUS)


def _verdict(comparison: Comparison, difference: Difference | None) -> str:
    """Sign, words and colour: the colour alone says nothing."""
    if difference is None:
        return ""
    verdict, text = difference.verdict, verdict_text(difference, comparison.metric)
    sign = f'<span aria-hidden="true">{SIGNS[verdict]}</span>'
    return f'<span class="verdict {verdict.name.replace("_", "-")}">{sign} {escape(text)}</span>'


def _further(comparison: Comparison) -> str:
    """Each difference in words, with what would settle it and what the paper claims."""
    items = []
    for difference in comparison.differences:
        lines = []
        if not comparison.sentence[1:].startswith(difference.sentence[1:]):
            lines.append(f"<p>{_words(difference.sentence)}</p>")
        if difference.claim is not None:
            lines.append(f'<p class="quiet">The paper: {_words(sentence(difference.claim))}</p>')
        if difference.command:
            lines.append(f'<pre tabindex="0"><code>{escape(difference.command)}</code></pre>')
            if needed := own_options(difference.command):
                lines.append(f'<p class="quiet">{_words(needed)}</p>')
        if lines:
            items.append(f"<li>{''.join(lines)}</li>")
    if not items:
        return ""
    opened = " open" if len(items) <= OPEN else ""
    summary = "<summary>Each difference in words</summary>"
    return f'<details class="further"{opened}>{summary}<ul>{"".join(items)}</ul></details>'


def _look_out(comparison: Comparison) -> str:
    lines = [*comparison.look_out, *(f"Skipped: {line}" for line in comparison.skipped[:SKIPPED])]
    if len(comparison.skipped) > SKIPPED:
        lines.append(f"Skipped: {len(comparison.skipped) - SKIPPED} more")
    if not lines:
        return ""
    items = "".join(f"<li>{_words(line)}</li>" for line in lines)
    return f'<aside class="look-out" aria-labelledby="look-out"><h2 id="look-out">Look out</h2><ul>{items}</ul></aside>'


def _curves_note(curves: Curves) -> str:
    parts = []
    if curves.stride > 1:
        parts.append(f"Every {curves.stride}th epoch is drawn, and each run's last.")
    missing = sum(line is None for line in curves.lines) - len(curves.unreadable)
    if missing:
        parts.append(f"{_counted(missing, 'run')} recorded no epochs.")
    return " ".join([*parts, *curves.unreadable])


def _pictures(pictures: Pictures) -> str:
    """The pictures by kind, so that the same picture of different runs stands side by side."""
    if not pictures.shown and not pictures.left_out and not pictures.unreadable:
        return ""
    kinds = dict.fromkeys(picture.name for picture in pictures.shown)
    groups = "".join(
        f"<h3>{escape(kind.replace('_', ' ').capitalize())}</h3>{_about(kind)}"
        f'<div class="pictures">{"".join(_picture(p) for p in pictures.shown if p.name == kind)}</div>'
        for kind in kinds
    )
    notes = []
    if pictures.left_out:
        notes.append(f"{_counted(pictures.left_out, 'picture')} left out to keep this file small")
    if pictures.unreadable:
        notes.append(f"{_counted(pictures.unreadable, 'file')} could not be read as pictures")
    note = f'<p class="quiet">{"; ".join(notes)}.</p>' if notes else ""
    head = '<section id="pictures" aria-labelledby="pictures-title"><h2 id="pictures-title">Pictures</h2>'
    return f"{head}{note}{groups}</section>"


def _about(kind: str) -> str:
    """What a kind of picture shows; nothing for one that is not ours."""
    return f'<p class="quiet">{escape(_ABOUT[kind])}</p>' if kind in _ABOUT else ""


def _picture(picture: Picture) -> str:
    about = f"{picture.name.replace('_', ' ')} of {picture.run.name}"
    alt = f"{about}: {picture.caption}" if picture.caption else about
    return (
        f'<figure><button type="button" class="zoom" aria-label="{escape(f"Enlarge: {about}")}">'
        f'<img src="{picture.uri}" alt="{escape(alt)}" width="{picture.width}" height="{picture.height}"></button>'
        f"<figcaption>{escape(picture.run.name)}</figcaption></figure>"
    )


def _provenance(comparison: Comparison, command: str, when: datetime) -> str:
    """What the runs came from; where they do not agree, how many runs say what."""
    rows = [
        ("Written", escape(f"{when:%Y-%m-%d %H:%M %Z} by alexnet_exp {__version__}")),
        ("Command", f"<code>{escape(command)}</code>"),
    ]
    facts = [run.facts for run in comparison.runs]
    rows += [(title, _said([fact.get(key) for fact in facts])) for key, title in _PROVENANCE]
    versions = [fact["versions"] for fact in facts if isinstance(fact.get("versions"), dict)]
    packages = dict.fromkeys(package for version in versions for package in version)
    rows += [(str(package), _said([version.get(package) for version in versions])) for package in packages]
    return "".join(f"<div><dt>{escape(title)}</dt><dd>{said}</dd></div>" for title, said in rows if said)


def _said(values: Iterable[Any]) -> str:
    counts = Counter(_shown(value) for value in values if value is not None)
    if len(counts) == 1:
        return escape(next(iter(counts)))
    return ", ".join(
        f'{escape(value)} <span class="quiet">({_counted(n, "run")})</span>' for value, n in counts.items()
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text[:12] if len(text) >= 40 and text.isalnum() else text


def _scrolling(name: str, table: str) -> str:
    """A region that scrolls sideways by itself, and can be reached by the keyboard to do so."""
    return f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">{table}</div>'


def _words(text: str) -> str:
    """`text` as HTML. Short words with hyphens, such as --baseline and top-1, are not broken at the end of a line."""
    return HYPHENATED.sub(r'<span class="whole">\g<0></span>', escape(text))


def _number(number: bool) -> str:
    return ' class="number"' if number else ""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _command() -> str:
    """The command line of this process, if it is one of ours."""
    program = Path(sys.argv[0])
    ours = program.name == "alexnet_exp" or (program.name == "__main__.py" and program.parent.name == "alexnet_exp")
    return shlex.join(["python", "-m", "alexnet_exp", *sys.argv[1:]]) if ours else "compare, from Python"


def _part(name: str) -> str:
    return files("alexnet_exp.compare.render.html").joinpath(name).read_text(encoding="utf-8")
