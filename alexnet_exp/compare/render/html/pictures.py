"""The pictures of runs, reduced in size for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from alexnet_exp.compare.render.html.filters import counted
from alexnet_exp.compare.result import Arm
from alexnet_exp.data.formats import open_picture
from alexnet_exp.runs.run import Run

BUDGET_BYTES = 2_500_000  # of all pictures together, as text in the page
MOST_WIDTH, MOST_HEIGHT = 900, 900  # pixels; the page shows no more
CAPTION_FIELD = "Description"  # the text field of a PNG in which `plot` saves the caption
CAPTION_CHARACTERS = 600  # a longer caption is cut
MOST_PIXELS = 40_000_000  # a larger file takes seconds and gigabytes to open, and no run makes one
# What the kinds of pictures that `plot` makes show.
DESCRIPTIONS = {
    "confusion_matrix": "Each row is a true class; its cells are the shares predicted as each class.",
    "filters": "Filters of the first layer, grouped by the network's columns. Mid-grey is a weight of zero; each "
    "filter has its own scale.",
    "learning_curves": "Loss and accuracy by epoch.",
    "neighbours": "Left: an image. Right: the training images with the nearest features in the last hidden layer, and "
    "their distances. A frame marks another class.",
    "predictions": "The most probable classes of some images. The true class is blue.",
}


@dataclass(frozen=True)
class Picture:
    """A picture of a run: the file's name without its suffix, the size in the page, the data URI and the caption."""

    run: Run
    name: str
    width: int
    height: int
    uri: str
    caption: str = ""

    @property
    def title(self) -> str:
        return f"{self.name.replace('_', ' ')} of {self.run.name}"

    @property
    def alternative(self) -> str:
        return f"{self.title}: {self.caption}" if self.caption else self.title


@dataclass(frozen=True)
class Pictures:
    """The pictures in the page, and how many are omitted because of the budget or are unreadable."""

    shown: list[Picture]
    omitted: int
    unreadable: int


@dataclass(frozen=True)
class Kind:
    """The pictures of one kind; `about` explains the kind and is empty for kinds that `plot` does not make."""

    title: str
    about: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Section:
    """The pictures grouped by kind, so that pictures of different runs can be compared side by side."""

    note: str
    kinds: list[Kind]


def picture_section(pictures: Pictures) -> Section | None:
    """Returns the pictures by kind, and a note on those that are missing; None if the runs have no pictures."""
    if not pictures.shown and not pictures.omitted and not pictures.unreadable:
        return None
    kinds = [
        Kind(
            name.replace("_", " ").capitalize(),
            DESCRIPTIONS.get(name, ""),
            [picture for picture in pictures.shown if picture.name == name],
        )
        for name in dict.fromkeys(picture.name for picture in pictures.shown)
    ]
    notes = []
    if pictures.omitted:
        notes.append(f"{counted(pictures.omitted, 'picture')} omitted to limit the size of this file")
    if pictures.unreadable:
        notes.append(f"{counted(pictures.unreadable, 'file')} could not be read as images")
    return Section(f"{'; '.join(notes)}." if notes else "", kinds)


def read_pictures(arms: Sequence[Arm], runs: Sequence[Run], budget: int = BUDGET_BYTES) -> Pictures:
    """Returns the pictures `plots/*.png` of the runs, as many as `budget` bytes allow.

    The first run of each arm comes first, then the second of each, so that a small budget shows every arm.
    """
    shown: list[Picture] = []
    omitted = unreadable = used = 0
    full = False
    for run in _alternating(arms, runs):
        for file in sorted((run.path / "plots").glob("*.png")):
            # A link out of the run folder could put a private file of this machine into a page that is passed on.
            inside = file.resolve().is_relative_to(run.path.resolve())
            picture = _embedded(run, file) if inside and not full else None
            # The first picture that exceeds the budget ends the search: encoding thirty pictures takes a second.
            full = full or (picture is not None and used + len(picture.uri) > budget)
            if full:
                omitted += 1
            elif picture is None:
                unreadable += 1
            else:
                used += len(picture.uri)
                shown.append(picture)
    return Pictures(shown, omitted, unreadable)


def _alternating(arms: Sequence[Arm], runs: Sequence[Run]) -> Iterator[Run]:
    """Yields every run once, alternating between the arms."""
    seen = set()
    for turn in zip_longest(*(arm.runs for arm in arms)):
        for run in turn:
            if run is not None and run.name not in seen:
                seen.add(run.name)
                yield run
    yield from (run for run in runs if run.name not in seen)


def _embedded(run: Run, file: Path) -> Picture | None:
    """Returns the picture as WebP, a third of the size of PNG; None for a file that is not an image."""
    from PIL import Image

    try:
        with open_picture(file) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return None
            image = opened.convert("RGB")
            caption = " ".join(str(opened.info.get(CAPTION_FIELD, "")).split())[:CAPTION_CHARACTERS]
        image.thumbnail((MOST_WIDTH, MOST_HEIGHT))
        content = io.BytesIO()
        image.save(content, format="WEBP", quality=82, method=2)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # A damaged picture must not prevent the report.
        return None
    uri = f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
    return Picture(run, file.stem, image.width, image.height, uri, caption)
