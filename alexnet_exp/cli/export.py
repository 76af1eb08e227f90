"""`export RUN`: exports network and preprocessing as ONNX and safetensors; uint8 images in, logits out."""

from __future__ import annotations

import json
from pathlib import Path

from alexnet_exp.cli.output import report_loading
from alexnet_exp.cli.parser import Parser, output_folder
from alexnet_exp.errors import one_line
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.lookup import find

FORMATS = ("safetensors", "onnx")  # in this order, because the first needs no other package


def run(arguments: list[str]) -> int:
    """Writes the files to `export/` in the run folder, or to --out, and prints their paths and checks."""
    parser = Parser("export", "Exports the network of a run with its preprocessing.")
    parser.add_argument("run", metavar="RUN", help="a run folder, last, or a unique prefix of its path")
    parser.add_argument("--format", action="append", choices=FORMATS, help="default: both")
    parser.add_argument("--ckpt", default="best", metavar="best|last|FILE")
    parser.add_argument("--out", metavar="FOLDER")
    given = parser.parse_args(arguments)
    path = find(given.run, outputs_folder(), trained=True)

    report_loading()
    from alexnet_exp.inference.classifier import load
    from alexnet_exp.inference.export import export_onnx, export_safetensors, need_onnx

    kinds = [kind for kind in FORMATS if kind in (given.format or FORMATS)]
    if kinds == ["onnx"]:
        need_onnx()
    classifier = load(path, given.ckpt)
    folder = output_folder(Path(given.out) if given.out else path / "export")
    (folder / "classes.json").write_text(json.dumps(classifier.classes, indent=1) + "\n", encoding="utf-8")
    for kind in kinds:
        if kind == "onnx":
            file, difference = export_onnx(classifier, folder)
            print(f"{one_line(file)}  logits within {difference:.1e} of torch's, batches of 1 and 3")
        else:
            print(one_line(export_safetensors(classifier, folder)))
    return 0
