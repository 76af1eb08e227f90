"""`plot RUN`: what a run learned and what it makes of images, as PNG; `plot schedule [overrides]` before a run.

Every picture is drawn for itself: what one of them lacks (data that is gone, a layer, predictions) is said in a line,
and the others are drawn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_exp.cli.arguments import PROGRAM
from alexnet_exp.cli.parser import Parser, output_folder, with_overrides
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import UserError, one_line, suggest_name
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.folder import has_checkpoint
from alexnet_exp.runs.lookup import find
from alexnet_exp.runs.predictions import TEST_FILE, read_predictions
from alexnet_exp.runs.reader import read_metrics, read_result
from alexnet_exp.runs.start import config_of
from alexnet_exp.sanitize import escape_controls

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alexnet_exp.inference.classifier import Classifier
    from alexnet_exp.inference.neighbours import Examples
    from alexnet_exp.training.datamodule import ImageData

EXAMPLES = 8
TOP = 5
ROWS, NEAREST = 5, 6  # as in the paper
MOST_LISTED = 32  # images; more make no picture
# Training images that are searched for neighbours, unless --train-images says how many. Those that are read from files
# are some hundred times as many pixels.
SEARCHED, SEARCHED_FILES = 50_000, 5_000
WORD_AFTER = 10.0  # seconds of searching after which a stderr that is no terminal is told how long it will take


def run(arguments: list[str]) -> int:
    """Writes the pictures and prints their paths."""
    if arguments[:1] == ["schedule"]:
        return _schedule(arguments[1:])
    parser = Parser(
        "plot",
        "What a run learned and what it makes of images, as PNG; or a schedule, before a run.",
        usage=f"{PROGRAM} plot [flags] RUN\n       {PROGRAM} plot schedule [KEY=VALUE ...] [--out FILE]",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, last, or the unique beginning of its path")
    parser.add_argument("--only", metavar="NAME,NAME", help=f"of {', '.join(PICTURES)}; default: all there can be")
    parser.add_argument("--out", metavar="FOLDER", help="default: the run's folder plots/")
    parser.add_argument("--ckpt", default="best", metavar="best|last|FILE", help="whose network is drawn")
    parser.add_argument(
        "--split", choices=("test", "val", "train"), help="where predictions and neighbours take images from"
    )
    parser.add_argument(
        "--images", metavar="N,N", help=f"which images of it, counted from 0; default: {EXAMPLES} drawn by --seed"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws the images; default 0")
    parser.add_argument(
        "--train-images",
        type=int,
        metavar="N",
        help=f"searched for neighbours; default: up to {SEARCHED:,}, or {SEARCHED_FILES:,} that are read from files",
    )
    given = parser.parse_args(arguments)
    wanted = _pictures(given.only)
    if given.train_images is not None and given.train_images < 1:
        raise UserError(f"plot: --train-images {given.train_images}: must be at least 1")
    listed = _indices(given.images)
    path = find(given.run, outputs_folder(), trained=True)
    folder = output_folder(Path(given.out) if given.out else path / "plots")
    job = _Job(path, folder, given.ckpt, given.split, listed, given.seed, given.train_images)
    missing: dict[str, list[str]] = {}
    failed = []
    for name in wanted:
        try:
            print(one_line(PICTURES[name](job)), flush=True)
        except _MissingError as why:
            missing.setdefault(str(why), []).append(name)
        except UserError as error:
            failed.append(str(error))
    if missing and not failed and not given.only and sum(map(len, missing.values())) == len(wanted):
        raise UserError(f"plot: {path} has nothing to draw yet: no epoch has ended")
    told = [f"plot: {path}: no {' and '.join(names)}: {why}" for why, names in missing.items()]
    if failed or (told and given.only):
        raise UserError("\n".join(dict.fromkeys([*failed, *told])))
    for line in told:
        print(escape_controls(line), file=sys.stderr)
    return 0


class _MissingError(UserError):
    """A picture that this run cannot have, and why: an error only where it was asked for by name."""


@dataclass
class _Job:
    """The run to be drawn. What several pictures need is made once, and only if one needs it."""

    run: Path
    folder: Path
    checkpoint: str
    asked: str | None
    listed: list[int] | None
    seed: int
    train_images: int | None

    @cached_property
    def result(self) -> dict[str, Any]:
        return read_result(self.run)

    @cached_property
    def title(self) -> str:
        """Model, data and seed, as they were chosen: `bn on digits, seed 1`."""
        choices, config = self.result.get("choices") or {}, self.result.get("config") or {}
        model, data = choices.get("model"), choices.get("data")
        chosen = f"{model} on {data}, " if model and data else ""
        return one_line(f"{chosen}seed {config.get('seed')}" if "seed" in config else str(self.run))

    @cached_property
    def origin(self) -> str:
        """What a caption says of the run: `bn on digits, seed 1 (demo/2026-11-24_10-00-00-000000)`."""
        return f"{self.title} ({one_line(f'{self.run.parent.name}/{self.run.name}')})"

    @cached_property
    def classifier(self) -> Classifier:
        """The run's network, on the best device there is."""
        if self.checkpoint in ("best", "last") and not has_checkpoint(self.run):
            raise _MissingError("the run has no checkpoint")

        from alexnet_exp.config.schema import Trainer
        from alexnet_exp.inference.classifier import load
        from alexnet_exp.training.devices import chosen

        return load(self.run, self.checkpoint).to(chosen(Trainer())[0])

    @cached_property
    def data(self) -> ImageData:
        """The run's images; where they are gone, the pictures that need them are missing."""
        from alexnet_exp.inference.classifier import rebuilt
        from alexnet_exp.training.build import open_data
        from alexnet_exp.training.datamodule import ImageData

        config = validate(config_of(self.run))
        try:
            data = rebuilt(config).data
            if not isinstance(data, ImageData):
                raise _MissingError(f"{type(data).__name__} is no subclass of ImageData, whose images can be asked for")
            open_data(data)
        except UserError as error:
            raise _MissingError(str(error)) from None
        return data

    @cached_property
    def split(self) -> str:
        """Where the examples come from: the test images, or where there are none the validation images."""
        there = [name for name in ("test", "val", "train") if getattr(self.data.source, name) is not None]
        split = self.asked or there[0]
        if split == "train" and self.asked is None:
            raise _MissingError("there are no test or validation images; --split train draws training images")
        if split not in there:
            raise _MissingError(f"there are no {split} images; write --split {' or '.join(there)}")
        return split

    @cached_property
    def examples(self) -> Examples:
        import torch

        from alexnet_exp.inference.neighbours import classify, draw

        if self.listed is None:
            return draw(self.classifier, self.data, self.split, EXAMPLES, self.seed)
        found = classify(self.classifier, self.data, self.split, torch.tensor(self.listed))
        return replace(found, how=f"numbers {', '.join(map(str, self.listed))}")

    def said(self, examples: Examples) -> str:
        """Of which split the examples are, how they were chosen, and how the network names them."""
        kind = {"test": "test", "val": "validation", "train": "training"}[self.split]
        count, right = len(examples.indices), int(examples.right.sum())
        return f"{count} {kind} images ({examples.how}), {right} correct, {count - right} wrong"


def _curves(job: _Job) -> Path:
    from alexnet_exp.plots.curves import learning_curves

    rows = read_metrics(job.run)
    if not rows:
        raise _MissingError("no epoch has ended")
    file = job.folder / "learning_curves.png"
    learning_curves(rows, file, job.origin, _tested(job.result))
    return file


def _tested(result: Mapping[str, Any]) -> float | None:
    """The epoch whose checkpoint was tested, where the run says so and has a test."""
    epoch = {"best": result.get("best_epoch"), "last": result.get("epochs")}.get(str(result.get("tested")))
    return epoch if isinstance(epoch, int) else None


def _confusion(job: _Job) -> Path:
    from alexnet_exp.plots.confusion import confusion_matrix

    saved = job.run / TEST_FILE
    if not saved.exists():
        raise _MissingError("the run kept no predictions of test images")
    kept = read_predictions(saved)
    guesses = kept.guesses(1)[:, 0]
    classes = job.result.get("class_names")
    most = int(max(kept.labels.max(), guesses.max()))
    if not isinstance(classes, list) or not classes:
        classes = list(range(most + 1))
    if most >= len(classes):
        raise UserError(f"{saved}: of a class {most}, and the run has {len(classes)}")
    file = job.folder / "confusion_matrix.png"
    confusion_matrix(kept.labels, guesses, list(map(str, classes)), file, job.origin)
    return file


def _filters(job: _Job) -> Path:
    from alexnet_exp.plots.filters import filters

    weight, columns, layer = _first_convolution(job.classifier.network)
    if weight.shape[1] not in (1, 3):
        raise _MissingError(f"{layer} has {weight.shape[1]} input channels; 1 (grey) and 3 (colour) can be shown")
    file = job.folder / "filters.png"
    filters(weight.cpu().numpy(), file, columns=columns, layer=layer, run=job.origin)
    return file


def _first_convolution(network: nn.Module) -> tuple[Tensor, int, str]:
    """The first layer's kernels, in how many columns the network that follows splits them, and the layer's name."""
    from torch import nn

    layers = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    learned = [(name, layer) for name, layer in layers if getattr(layer, "weight", None) is not None]
    convolutions = [(name, layer) for name, layer in learned if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise _MissingError("the network has no convolution")
    name, first = convolutions[0]
    if learned[0][1] is not first:
        raise _MissingError(f"the first layer, {learned[0][0]}, is no convolution: it has weights for each place")
    columns = max(layer.groups for _, layer in convolutions)
    return first.weight.detach(), columns, name.removesuffix(".conv")


def _predictions(job: _Job) -> Path:
    from alexnet_exp.plots.images import predictions

    classes, examples = job.classifier.classes, job.examples
    probabilities, top = examples.probabilities.topk(min(TOP, len(classes)))
    caption = (
        f"The {top.shape[1]} most probable classes, the true one blue; above the bars what the image is. "
        f"{job.said(examples)}. Checkpoint {job.classifier.source.stem}, central crop. {job.origin}."
    )
    file = job.folder / "predictions.png"
    images, labels = _drawn(examples.images), examples.labels.numpy()
    predictions(images, labels, top.numpy(), probabilities.numpy(), classes, file, caption)
    return file


def _neighbours(job: _Job) -> Path:
    import torch

    from alexnet_exp.inference.neighbours import Features, nearest
    from alexnet_exp.plots.images import neighbours

    examples, train = job.examples, job.data.source.train
    if job.listed is None:
        examples = examples.first(ROWS)
    features = Features(job.classifier)
    searched, why = _searched(job)
    own = None
    if job.split == "train":
        places = {index: place for place, index in enumerate(searched.tolist())}
        own = torch.tensor([places.get(index, -1) for index in examples.indices.tolist()])
    # the module is this command's own: its loader then goes through the images that are searched, and no others
    job.data.source = replace(job.data.source, train=train.select(searched))
    try:
        batches = (job.data.centred(images) for images, _ in _told(job.data.loader("train"), len(searched)))
        found = nearest(features, examples.images, batches, NEAREST, own)
    finally:
        job.data.teardown()
        job.data.source = replace(job.data.source, train=train)
    if not found.places.shape[1]:
        raise _MissingError(
            "no distance is a finite number: the network's features are not, or no other image was searched"
        )
    indices = searched[found.places]
    near = job.data.centred(train.images(indices.flatten()))
    but_itself = "but itself, " if own is not None else ""
    given = f"{features.layer}, the last layer, is given{_stage_before(job.classifier.network, features.layer)}"
    caption = (
        f"{job.said(examples)}; and the nearest of {why}, {but_itself}those of another class framed. "
        f"Euclidean distance of the {features.size:,} features that {given}, in evaluation mode. "
        f"Checkpoint {job.classifier.source.stem}, central crop. {job.origin}."
    )
    file = job.folder / "neighbours.png"
    neighbours(
        _drawn(examples.images),
        examples.labels.numpy(),
        _drawn(near.reshape(*indices.shape, *near.shape[1:])),
        train.labels[indices].numpy(),
        found.distances.numpy(),
        job.classifier.classes,
        file,
        caption,
    )
    return file


def _searched(job: _Job) -> tuple[Tensor, str]:
    """Which training images are searched, evenly spaced where they are not all; and the same in words."""
    import torch

    from alexnet_exp.data.split import StreamedSplit

    train = job.data.source.train
    most = job.train_images or (SEARCHED_FILES if isinstance(train, StreamedSplit) else SEARCHED)
    if most >= len(train):
        return torch.arange(len(train)), f"the {len(train):,} training images"
    return torch.arange(most) * len(train) // most, f"{most:,} of {len(train):,} training images, evenly spaced"


def _stage_before(network: nn.Module, layer: str) -> str:
    """What the last layer's input is in a network of ours: what the stage before it puts out."""
    from alexnet_exp.model.network import AlexNet

    stages = [name for name, _ in network.named_children()] if isinstance(network, AlexNet) else []
    if layer not in stages[1:]:
        return ""
    return f" (what {stages[stages.index(layer) - 1]} puts out, activation and all)"


def _told(batches: Iterable[Any], images: int) -> Iterator[Any]:
    """The batches, while stderr is told how far they are: a bar on a terminal, else one line if it will take long."""
    from rich.console import Console
    from rich.progress import track

    doing = f"Searching {images:,} training images"
    if sys.stderr.isatty():
        yield from track(batches, doing, console=Console(stderr=True), transient=True)
        return
    first, start, seen, told = 0, 0.0, 0, False
    for batch in batches:
        yield batch
        seen += len(batch[0])
        if not first:  # it took the start of the reading processes too
            first, start = seen, time.monotonic()
        elif not told and seen < images and (spent := time.monotonic() - start) > WORD_AFTER:
            left = spent / (seen - first) * (images - seen)
            print(f"{doing}: about {left:.0f} s more; --train-images N searches fewer", file=sys.stderr, flush=True)
            told = True


def _drawn(images: Tensor) -> Any:
    """uint8 [..., C, H, W] as an array [..., H, W, 3]."""
    last = images.movedim(-3, -1)
    return last.expand(*last.shape[:-1], 3).cpu().numpy()


PICTURES: dict[str, Callable[[_Job], Path]] = {
    "curves": _curves,
    "confusion": _confusion,
    "filters": _filters,
    "predictions": _predictions,
    "neighbours": _neighbours,
}


def _pictures(only: str | None) -> list[str]:
    names = list(PICTURES) if only is None else only.split(",")
    for name in names:
        if name not in PICTURES:
            raise UserError(f"plot: --only {name}: no such picture; {suggest_name(name, PICTURES)}")
    return names


def _indices(images: str | None) -> list[int] | None:
    if images is None:
        return None
    try:
        listed = [int(word) for word in images.split(",")]
    except ValueError:
        raise UserError(f"plot: --images {images}: must be whole numbers, such as 3,17,20") from None
    if len(listed) > MOST_LISTED:
        raise UserError(f"plot: --images: {len(listed)} are too many for one picture; write at most {MOST_LISTED}")
    return listed


def _schedule(arguments: list[str]) -> int:
    parser = with_overrides("plot schedule", "The learning rate of a run before it is run.")
    parser.add_argument("--out", metavar="FILE", default="schedule.png")
    given = parser.parse_args(arguments)

    from alexnet_exp.config.compose import compose
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
    print(one_line(given.out))
    return 0
