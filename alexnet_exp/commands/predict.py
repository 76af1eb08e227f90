"""`predict RUN IMAGE...`: the five most probable classes of each image, with their names and probabilities."""

from __future__ import annotations

import json
from pathlib import Path

from alexnet_exp.commands.parser import Parser
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.printable import printable
from alexnet_exp.runs.find import find
from alexnet_exp.settings import UserError

TOP = 5


def run(arguments: list[str]) -> int:
    """Prints a table, or with --json one object an image."""
    parser = Parser("predict", "The five most probable classes of images.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, last, or the unique beginning of its path")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--ckpt", default="best", metavar="best|last|FILE")
    parser.add_argument("--json", action="store_true", help="one JSON object an image")
    given = parser.parse_args(arguments)
    for name in given.images:
        if not Path(name).is_file():
            raise UserError(f"predict: {name}: {'a folder, not an image' if Path(name).is_dir() else 'no such file'}")
    path = find(given.run, OUTPUTS)

    from alexnet_exp.loading import load

    classifier = load(path, given.ckpt)
    for name, probabilities in zip(given.images, classifier.predict(given.images), strict=True):
        values, indices = probabilities.topk(min(TOP, len(classifier.classes)))
        top = [
            (classifier.classes[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        if given.json:
            print(json.dumps({"image": name, "top": [{"class": label, "probability": value} for label, value in top]}))
        else:
            print(name)
            for label, value in top:
                print(f"  {value:7.2%}  {printable(str(label))}")
    return 0
