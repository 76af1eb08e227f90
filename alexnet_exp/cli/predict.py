"""`predict RUN IMAGE...`: prints the five most probable classes of each image. IMAGE may be a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_exp.cli.output import report_loading
from alexnet_exp.cli.parser import Parser
from alexnet_exp.data.image_files import images_under
from alexnet_exp.errors import UserError, one_line
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.lookup import find
from alexnet_exp.runs.reader import read_config
from alexnet_exp.sanitize import escape_controls

if TYPE_CHECKING:
    from alexnet_exp.inference.classifier import Classifier

TOP_CLASSES = 5
MAX_NAMED_CLASSES = 10  # that the line about the run lists


def run(arguments: list[str]) -> int:
    """Prints a table, or with --json one object an image. Prints the training data of the run to stderr."""
    parser = Parser("predict", "Prints the five most probable classes of images.")
    parser.add_argument("run", metavar="RUN", help="a run folder, last, or a unique prefix of its path")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of images")
    parser.add_argument("--ckpt", default="best", metavar="best|last|FILE")
    parser.add_argument("--json", action="store_true", help="prints one JSON object an image")
    given = parser.parse_args(arguments)
    names = list(_files(given.images))
    path = find(given.run, outputs_folder(), trained=True)

    report_loading()
    from alexnet_exp.inference.classifier import load

    classifier = load(path, given.ckpt)
    for number, (name, probabilities) in enumerate(zip(names, classifier.each(names), strict=True)):
        if number == 0:
            print(escape_controls(_trained_on(path, classifier)), file=sys.stderr)
        values, indices = probabilities.topk(min(TOP_CLASSES, len(classifier.classes)))
        top = [
            (classifier.classes[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        if given.json:
            print(json.dumps({"image": name, "top": [{"class": label, "probability": value} for label, value in top]}))
        else:
            print(one_line(name))
            for label, value in top:
                print(f"  {value:7.2%}  {one_line(str(label))}")
    return 0


def _files(names: Sequence[str]) -> Iterator[str]:
    """Yields the given files and the images in the given folders."""
    for name in names:
        if Path(name).is_dir():
            found = images_under(Path(name))
            if not found:
                raise UserError(
                    f"predict: {name}: the folder contains no images; give image files or a folder of images"
                )
            yield from (str(Path(name) / file) for file in found)
        elif Path(name).is_file():
            yield name
        else:
            raise UserError(f"predict: {name}: no such file")


def _trained_on(run: Path, classifier: Classifier) -> str:
    data = read_config(run).get("data") or {}
    channels, *sides = classifier.shape
    size, colour = "x".join(map(str, sides)), {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    classes = classifier.classes
    named = ", ".join(classes[:MAX_NAMED_CLASSES]) + (", ..." if len(classes) > MAX_NAMED_CLASSES else "")
    source = data.get("name") or data.get("_target_")
    return f"{run}: trained on {source}: images {size}, {colour}, of {len(classes)} classes: {named}"
