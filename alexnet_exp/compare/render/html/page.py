"""Writes a comparison as one HTML file.

The templates contain the finding and all that needs no JavaScript; the scripts draw the rest from the data in the page.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
import sys
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from alexnet_exp.atomic import atomic_write
from alexnet_exp.compare.render.dotplot import dots_svg
from alexnet_exp.compare.render.html import finding
from alexnet_exp.compare.render.html.contents import contents
from alexnet_exp.compare.render.html.curves import Curves, read_curves
from alexnet_exp.compare.render.html.filters import breakable, counted, unbroken
from alexnet_exp.compare.render.html.methods import methods
from alexnet_exp.compare.render.html.pictures import picture_section, read_pictures
from alexnet_exp.compare.render.html.provenance import provenance
from alexnet_exp.compare.render.text import main_and_rest, markdown_table
from alexnet_exp.compare.result import Comparison
from alexnet_exp.errors import UserError

MOST_OPEN_DETAILS = 4  # a longer list of differences is folded
# The scripts are joined in this order and share one scope. Top-level code may use names of earlier scripts only.
SCRIPTS = (
    "dom.js",
    "numbers.js",
    "theme.js",
    "tooltip.js",
    "copy.js",
    "runs_filter.js",
    "runs_table.js",
    "axes.js",
    "curves.js",
    "settings.js",
    "configuration.js",
    "pictures.js",
    "resize.js",
)
STYLES = (
    "colours.css",
    "layout.css",
    "controls.css",
    "tables.css",
    "finding.css",
    "runs.css",
    "plots.css",
    "pictures.css",
    "footer.css",
    "media.css",
)


def write_report(comparison: Comparison, path: Path, command: str | None = None) -> None:
    """Writes `comparison` to `path` as one HTML file that requests nothing else.

    command: shown in the footer; by default the command line of this process. Raises UserError if `path` cannot be
    written.
    """
    if path.is_dir():
        raise UserError(f"--html {path}: is a folder; write the name of a file, such as {path / 'report.html'}")
    page = report(comparison, command or _command(), datetime.now().astimezone())
    try:
        with atomic_write(path) as file:
            file.write(page.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"--html {path}: cannot be written ({error.strerror})") from None


def report(comparison: Comparison, command: str, when: datetime) -> str:
    """Returns the page. command, when: shown under Provenance."""
    curves = read_curves(comparison.runs)
    script = f'\n"use strict";\n(() => {{\n{_joined("scripts", SCRIPTS)}}})();\n'
    return (
        _environment()
        .get_template("page.html")
        .render(
            policy=_policy(script),
            title=f"{comparison.metric.label}: {counted(len(comparison.arms), 'arm')} compared",
            style=_joined("styles", STYLES),
            script=script,
            run_count=len(comparison.runs),
            sentence=comparison.sentence,
            dots=dots_svg(comparison),
            legend=finding.legend(comparison),
            arms=finding.arm_table(comparison),
            caveats=finding.caveats(comparison),
            details=finding.details(comparison),
            most_open_details=MOST_OPEN_DETAILS,
            markdown=markdown_table(main_and_rest(comparison)[0], len(comparison.runs), comparison.metric.key),
            methods=methods(comparison),
            curves=curves,
            curves_note=_curves_note(curves),
            pictures=picture_section(read_pictures(comparison.arms, comparison.runs)),
            provenance=provenance(comparison, command, when),
            data=contents(comparison, curves),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alexnet_exp.compare.render.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"breakable": breakable, "counted": counted, "unbroken": unbroken}
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "allow_nan": False,
        "separators": (",", ":"),
        "default": str,
    }
    return environment


def _policy(script: str) -> str:
    """Returns a Content-Security-Policy that allows no request and no script but `script`."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _curves_note(curves: Curves) -> str:
    parts = []
    if curves.stride > 1:
        parts.append(f"One epoch in {curves.stride} and the last of each run are drawn.")
    missing = sum(line is None for line in curves.lines) - len(curves.unreadable)
    if missing:
        parts.append(f"{counted(missing, 'run')} without per-epoch metrics.")
    return " ".join([*parts, *curves.unreadable])


def _command() -> str:
    """Returns the command line of this process if it is one of this package."""
    program = Path(sys.argv[0])
    is_own = program.name == "alexnet_exp" or (program.name == "__main__.py" and program.parent.name == "alexnet_exp")
    return shlex.join(["python", "-m", "alexnet_exp", *sys.argv[1:]]) if is_own else "alexnet_exp.compare (Python)"


def _joined(folder: str, names: tuple[str, ...]) -> str:
    parent = files("alexnet_exp.compare.render.html") / folder
    return "".join((parent / name).read_text(encoding="utf-8") for name in names)
