"""`eval RUN`: a run's own data and checkpoint again, by the code that tested it: the same number to the last digit."""

from __future__ import annotations

import json
import sys

from alexnet_exp.commands.parser import Parser
from alexnet_exp.extend import UserClass
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs.contents import read_config
from alexnet_exp.runs.find import checkpoint_path, find
from alexnet_exp.settings import UserError
from alexnet_exp.validate import validate


def run(arguments: list[str]) -> int:
    """Prints the split's metrics: a table on a terminal, else one line of JSON."""
    parser = Parser("eval", "A run's own data and checkpoint again.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, last, or the unique beginning of its path")
    parser.add_argument("--split", default="test", choices=("test", "val", "train"))
    parser.add_argument("--ckpt", default=None, metavar="best|last|FILE", help="default: the one that the run tested")
    parser.add_argument(
        "--gpus", type=int, default=None, help="as trainer.gpus; default: one device, the best there is"
    )
    given = parser.parse_args(arguments)
    path = find(given.run, OUTPUTS)
    config = validate(read_config(path))

    from alexnet_exp import logs
    from alexnet_exp.build import CARD, build
    from alexnet_exp.datamodule import ImageData
    from alexnet_exp.devices import chosen, place
    from alexnet_exp.evaluate import evaluate
    from alexnet_exp.loading import read_checkpoint, refuse_another_network
    from alexnet_exp.runs.contents import read_result
    from alexnet_exp.schema import Trainer

    own = isinstance(config.data, UserClass) and not issubclass(config.data.cls, ImageData)
    if own and given.split != "test":
        raise UserError(
            f"eval: --split {given.split} needs a data module that subclasses ImageData; {config.data.target} does not"
        )
    logs.configure(None)
    tested = read_result(path).get("tested") or config.test.checkpoint.value
    file = checkpoint_path(path, given.ckpt or tested)
    content = read_checkpoint(file)
    if getattr(config.model, "weights", None) is not None:
        config.model.weights = None  # the checkpoint has them; the file that they started from may be gone
    experiment = build(config)
    refuse_another_network(file, content[CARD]["model"], experiment.card["model"], path)
    experiment.module.load_state_dict(content["state_dict"])
    experiment.data.prepare_data()
    experiment.data.setup("fit")
    if isinstance(experiment.data, ImageData) and getattr(experiment.data.source, given.split) is None:
        raise UserError(f"eval: the data of {path} has no {given.split} images")
    precision = read_result(path).get("precision", "auto")
    if precision.startswith("16") and chosen(Trainer(gpus=given.gpus))[0] == "cpu":
        precision = "auto"  # a GPU's float16 is evaluated in float32 where there is none
    placement = place(Trainer(gpus=given.gpus, precision=precision))
    metrics, _ = evaluate(experiment, placement, given.split)
    if sys.stdout.isatty():
        for key, value in metrics.items():
            print(f"{key:<12}{value:.4f}")
    else:
        print(json.dumps({"run": str(path), "checkpoint": file.stem, "metrics": metrics}))
    return 0
