"""The pictures that runs made, small enough to be embedded."""

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

BUDGET = 2_500_000  # bytes of all pictures together, as text in the page
WIDTH, HEIGHT = 900, 900  # pixels; more cannot be seen in a column of the page
DESCRIPTION = "Description"  # the text of a PNG in which `plot` leaves the picture's caption
LONGEST = 600  # letters of a caption
LARGEST = 40_000_000  # pixels of a file; more is no picture of a run, and would take seconds and gigabytes to open

ABOUT = {
    "confusion_matrix": "Of each true class, the row, which part was taken for which class.",
    "filters": "What the first layer looks for, the columns of the network apart. Mid-grey is a weight of zero; each "
    "filter has its own scale.",
    "learning_curves": "Loss and accuracy by epoch.",
    "neighbours": "At the left an image; beside it the training images whose features in the last hidden layer are "
    "nearest, with their distances. Framed: of another class.",
    "predictions": "The most probable classes of some images. Blue is the true one.",
}


@dataclass(frozen=True)
class Picture:
    """One picture of a run: its file's name without the ending, its size as embedded, its data URI and its caption."""

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
    """What is shown, and how many pictures were left out for want of room or because they could not be read."""

    shown: list[Picture]
    left_out: int
    unreadable: int


@dataclass(frozen=True)
class Kind:
    """The pictures of one kind, with what such a picture shows; `about` is empty for a kind that is not ours."""

    title: str
    about: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Section:
    """The pictures by kind, so that the same picture of different runs stands side by side."""

    note: str
    kinds: list[Kind]


def picture_section(pictures: Pictures) -> Section | None:
    """The section of the page; None where the runs have no pictures."""
    if not pictures.shown and not pictures.left_out and not pictures.unreadable:
        return None
    kinds = [
        Kind(
            name.replace("_", " ").capitalize(),
            ABOUT.get(name, ""),
            [picture for picture in pictures.shown if picture.name == name],
        )
        for name in dict.fromkeys(picture.name for picture in pictures.shown)
    ]
    notes = []
    if pictures.left_out:
        notes.append(f"{counted(pictures.left_out, 'picture')} left out to keep this file small")
    if pictures.unreadable:
        notes.append(f"{counted(pictures.unreadable, 'file')} could not be read as pictures")
    return Section(f"{'; '.join(notes)}." if notes else "", kinds)


def read_pictures(arms: Sequence[Arm], runs: Sequence[Run], budget: int = BUDGET) -> Pictures:
    """The pictures `plots/*.png` of the runs, as many as `budget` bytes allow.

    One run of each arm comes first, so that a small budget shows every arm; then the second of each, and so on.
    """
    shown: list[Picture] = []
    left_out = unreadable = used = 0
    full = False
    for run in _fairly(arms, runs):
        for file in sorted((run.path / "plots").glob("*.png")):
            # the first that does not fit ends it: to try all others would take a second for each thirty
            # a link out of the run would put a picture of this machine's into a page that is sent on
            inside = file.resolve().is_relative_to(run.path.resolve())
            picture = _embedded(run, file) if inside and not full else None
            full = full or (picture is not None and used + len(picture.uri) > budget)
            if full:
                left_out += 1
            elif picture is None:
                unreadable += 1
            else:
                used += len(picture.uri)
                shown.append(picture)
    return Pictures(shown, left_out, unreadable)


def _fairly(arms: Sequence[Arm], runs: Sequence[Run]) -> Iterator[Run]:
    """Every run once, taking turns between the arms."""
    seen = set()
    for turn in zip_longest(*(arm.runs for arm in arms)):
        for run in turn:
            if run is not None and run.name not in seen:
                seen.add(run.name)
                yield run
    yield from (run for run in runs if run.name not in seen)


def _embedded(run: Run, file: Path) -> Picture | None:
    """The picture as WebP, which takes a third of what PNG does; None for what is no picture."""
    from PIL import Image

    try:
        with open_picture(file) as opened:
            if opened.width * opened.height > LARGEST:
                return None
            image = opened.convert("RGB")
            caption = " ".join(str(opened.info.get(DESCRIPTION, "")).split())[:LONGEST]
        image.thumbnail((WIDTH, HEIGHT))
        content = io.BytesIO()
        image.save(content, format="WEBP", quality=82, method=2)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # whatever is wrong with one picture, the report is of the runs
        return None
    uri = f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
    return Picture(run, file.stem, image.width, image.height, uri, caption)
