"""`plot RUN`: curves, confusion matrix and first-layer filters as PNG; `plot schedule [overrides]` before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexnet_exp.commands.parser import Parser, output_folder, with_overrides
from alexnet_exp.extend import UserClass
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs.contents import read_metrics, read_result
from alexnet_exp.runs.find import find
from alexnet_exp.settings import UserError
from alexnet_exp.validate import validate


def run(arguments: list[str]) -> int:
    """Writes the pictures and prints their paths."""
    if arguments[:1] == ["schedule"]:
        return _schedule(arguments[1:])
    parser = Parser("plot", "A run's curves, confusion matrix and filters as PNG; or: plot schedule [overrides].")
    parser.add_argument("run", metavar="RUN", help="a run's folder, last, or the unique beginning of its path")
    parser.add_argument("--out", metavar="FOLDER", help="default: the run's folder plots/")
    parser.add_argument("--ckpt", default="best", metavar="best|last|FILE", help="whose filters are drawn")
    given = parser.parse_args(arguments)
    path = find(given.run, OUTPUTS)
    folder = output_folder(Path(given.out) if given.out else path / "plots")
    made = [_curves(path, folder), _confusion(path, folder), _filters(path, folder, given.ckpt)]
    for file in filter(None, made):
        print(file)
    if not any(made):
        raise UserError(f"plot: {path} has nothing to draw yet: no epoch has ended")
    return 0


def _curves(run: Path, folder: Path) -> Path | None:
    from alexnet_exp.plots.curves import learning_curves

    rows = read_metrics(run)
    if not rows:
        return None
    file = folder / "learning_curves.png"
    learning_curves(rows, file, title=f"{run.parent.name}/{run.name}")
    return file


def _confusion(run: Path, folder: Path) -> Path | None:
    import numpy as np

    from alexnet_exp.plots.confusion import confusion_matrix

    saved = run / "predictions" / "test.npz"
    if not saved.exists():
        return None
    with np.load(saved, allow_pickle=False) as arrays:
        labels, probabilities = arrays["labels"], arrays["probabilities"]
        predictions = probabilities.argmax(1)
        if "classes" in arrays:
            predictions = arrays["classes"][np.arange(len(labels)), predictions]
    classes = read_result(run).get("class_names") or [str(index) for index in range(int(labels.max()) + 1)]
    file = folder / "confusion_matrix.png"
    confusion_matrix(labels, predictions, classes, file)
    return file


def _filters(run: Path, folder: Path, checkpoint: str) -> Path | None:
    from alexnet_exp.loading import load
    from alexnet_exp.plots.filters import filters

    if not any((run / "checkpoints").glob("*.ckpt")):
        return None
    classifier = load(run, checkpoint)
    weight, columns = _first_convolution(classifier.network)
    if weight is None:
        return None
    file = folder / "filters.png"
    filters(weight.numpy(), file, columns=columns)
    return file


def _first_convolution(network: Any) -> tuple[Any, int]:
    """The first layer's kernels, and in how many columns the network that follows splits them."""
    from torch import nn

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        return None, 1
    return convolutions[0].weight.detach(), max(convolution.groups for convolution in convolutions)


def _schedule(arguments: list[str]) -> int:
    parser = with_overrides("plot schedule", "The learning rate of a run before it is run.")
    parser.add_argument("--out", metavar="FILE", default="schedule.png")
    given = parser.parse_args(arguments)

    from alexnet_exp.config import compose
    from alexnet_exp.optim.schedules import curve
    from alexnet_exp.optim.spec import Plateau, Schedule
    from alexnet_exp.plots.curves import schedule

    config = validate(compose(given.overrides, given.config_dir))
    if isinstance(config.schedule, Plateau):
        raise UserError("plot schedule: plateau follows the validation, so it cannot be drawn before the run")
    if not isinstance(config.schedule, Schedule):
        raise UserError("plot schedule: draws the shipped schedules; one of your own is known only while it runs")
    epochs = config.trainer.max_epochs
    if epochs is None:
        raise UserError("plot schedule: needs the run's length in epochs; write trainer.max_epochs=10")
    steps = 100  # an epoch's own number is not needed: every schedule is a function of the part of the run that is over
    base = config.optim.arguments.get("lr", 1.0) if isinstance(config.optim, UserClass) else config.optim.lr
    rates = [base * factor for factor in curve(config.schedule, epochs, steps)]
    schedule(rates, Path(given.out), steps_per_epoch=steps)
    print(given.out)
    return 0
