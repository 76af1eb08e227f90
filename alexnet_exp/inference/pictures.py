"""Draws the pictures of a run: learning curves, confusion matrix, filters, predictions, nearest training images.

Each picture is drawn independently: if a run lacks the data for one, `MissingPictureError` gives the reason.
torch is imported only by the pictures that need it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_exp.config.validate import validate
from alexnet_exp.errors import UserError, one_line
from alexnet_exp.runs.folder import has_checkpoint
from alexnet_exp.runs.predictions import TEST_FILE, read_predictions
from alexnet_exp.runs.reader import read_metrics, read_result
from alexnet_exp.runs.start import config_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alexnet_exp.inference.classifier import Classifier
    from alexnet_exp.inference.neighbours import Examples
    from alexnet_exp.training.datamodule import ImageData

EXAMPLES = 8
TOP_CLASSES = 5
NEIGHBOUR_ROWS, NEIGHBOURS_PER_ROW = 5, 6  # as in the paper's Figure 4
# Training images searched for neighbours by default. An image file has some hundred times the pixels of an array's
# image.
SEARCHED_ARRAYS, SEARCHED_FILES = 50_000, 5_000
PROGRESS_AFTER_SECONDS = 10.0  # without a terminal, the remaining time is printed after this many seconds


class MissingPictureError(UserError):
    """The run lacks the data for a picture. It is an error only if the picture was requested by name."""


@dataclass
class PlotJob:
    """A run to draw pictures of. Data that several pictures share is loaded once, when first needed.

    folder: of the PNG files. checkpoint: best, last or a file. split: test, val or train; None: the default. indices:
    of the images to draw; None: drawn with `seed`. train_images: the number to search for neighbours; None: the
    default.
    """

    run: Path
    folder: Path
    checkpoint: str
    requested_split: str | None
    indices: list[int] | None
    seed: int
    train_images: int | None

    @cached_property
    def result(self) -> dict[str, Any]:
        return read_result(self.run)

    @cached_property
    def title(self) -> str:
        """Model, data and seed: `bn on digits, seed 1`."""
        choices, config = self.result.get("choices") or {}, self.result.get("config") or {}
        model, data = choices.get("model"), choices.get("data")
        chosen = f"{model} on {data}, " if model and data else ""
        return one_line(f"{chosen}seed {config.get('seed')}" if "seed" in config else str(self.run))

    @cached_property
    def origin(self) -> str:
        """The run in a caption: `bn on digits, seed 1 (demo/2026-11-24_10-00-00-000000)`."""
        return f"{self.title} ({one_line(f'{self.run.parent.name}/{self.run.name}')})"

    @cached_property
    def classifier(self) -> Classifier:
        """The run's network on the fastest available device."""
        if self.checkpoint in ("best", "last") and not has_checkpoint(self.run):
            raise MissingPictureError("the run has no checkpoint")

        from alexnet_exp.config.schema import Trainer
        from alexnet_exp.inference.classifier import load
        from alexnet_exp.training.devices import select_devices

        return load(self.run, self.checkpoint).to(select_devices(Trainer())[0])

    @cached_property
    def data(self) -> ImageData:
        """The run's images. Raises MissingPictureError if they cannot be read."""
        from alexnet_exp.inference.classifier import rebuilt
        from alexnet_exp.training.build import open_data
        from alexnet_exp.training.datamodule import ImageData

        config = validate(config_of(self.run))
        try:
            data = rebuilt(config).data
            if not isinstance(data, ImageData):
                raise MissingPictureError(f"{type(data).__name__} is not a subclass of ImageData")
            open_data(data)
        except UserError as error:
            raise MissingPictureError(str(error)) from None
        return data

    @cached_property
    def split(self) -> str:
        """The split of the examples: the requested one, else test, else val."""
        there = [name for name in ("test", "val", "train") if getattr(self.data.source, name) is not None]
        split = self.requested_split or there[0]
        if split == "train" and self.requested_split is None:
            raise MissingPictureError("there are no test or validation images; use --split train for training images")
        if split not in there:
            raise MissingPictureError(f"there are no {split} images; use --split {' or '.join(there)}")
        return split

    @cached_property
    def examples(self) -> Examples:
        import torch

        from alexnet_exp.inference.neighbours import classify, draw

        if self.indices is None:
            return draw(self.classifier, self.data, self.split, EXAMPLES, self.seed)
        found = classify(self.classifier, self.data, self.split, torch.tensor(self.indices))
        return replace(found, how=f"numbers {', '.join(map(str, self.indices))}")

    def description(self, examples: Examples) -> str:
        """Returns the split of the examples, how they were drawn, and how many the network classifies correctly."""
        kind = {"test": "test", "val": "validation", "train": "training"}[self.split]
        count, right = len(examples.indices), int(examples.right.sum())
        return f"{count} {kind} images ({examples.how}), {right} correct, {count - right} wrong"


def _curves(job: PlotJob) -> Path:
    from alexnet_exp.plots.curves import learning_curves

    rows = read_metrics(job.run)
    if not rows:
        raise MissingPictureError("no epoch is complete")
    file = job.folder / "learning_curves.png"
    learning_curves(rows, file, job.origin, _tested(job.result))
    return file


def _tested(result: Mapping[str, Any]) -> float | None:
    """Returns the epoch of the tested checkpoint; None if the run was not tested."""
    epoch = {"best": result.get("best_epoch"), "last": result.get("epochs")}.get(str(result.get("tested")))
    return epoch if isinstance(epoch, int) else None


def _confusion(job: PlotJob) -> Path:
    from alexnet_exp.plots.confusion import confusion_matrix

    saved = job.run / TEST_FILE
    if not saved.exists():
        raise MissingPictureError("the run has no saved predictions of the test images")
    predicted = read_predictions(saved)
    guesses = predicted.guesses(1)[:, 0]
    classes = job.result.get("class_names")
    most = int(max(predicted.labels.max(), guesses.max()))
    if not isinstance(classes, list) or not classes:
        classes = list(range(most + 1))
    if most >= len(classes):
        raise UserError(f"{saved}: has class {most}, but the run has {len(classes)} classes")
    file = job.folder / "confusion_matrix.png"
    confusion_matrix(predicted.labels, guesses, list(map(str, classes)), file, job.origin)
    return file


def _filters(job: PlotJob) -> Path:
    from alexnet_exp.plots.filters import filters

    weight, columns, layer = _first_convolution(job.classifier.network)
    if weight.shape[1] not in (1, 3):
        raise MissingPictureError(f"{layer} has {weight.shape[1]} input channels; only 1 or 3 can be drawn")
    file = job.folder / "filters.png"
    filters(weight.cpu().numpy(), file, columns=columns, layer=layer, run=job.origin)
    return file


def _first_convolution(network: nn.Module) -> tuple[Tensor, int, str]:
    """Returns the kernels of the first layer, the number of columns of the network, and the name of the layer."""
    from torch import nn

    layers = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    learned = [(name, layer) for name, layer in layers if getattr(layer, "weight", None) is not None]
    convolutions = [(name, layer) for name, layer in learned if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise MissingPictureError("the network has no convolution")
    name, first = convolutions[0]
    if learned[0][1] is not first:
        raise MissingPictureError(f"the first layer, {learned[0][0]}, is not a convolution")
    columns = max(layer.groups for _, layer in convolutions)
    return first.weight.detach(), columns, name.removesuffix(".conv")


def _predictions(job: PlotJob) -> Path:
    from alexnet_exp.plots.images import predictions

    classes, examples = job.classifier.classes, job.examples
    probabilities, top = examples.probabilities.topk(min(TOP_CLASSES, len(classes)))
    caption = (
        f"The {top.shape[1]} most probable classes, the true one blue; the true class is printed above the bars. "
        f"{job.description(examples)}. Checkpoint {job.classifier.source.stem}, central crop. {job.origin}."
    )
    file = job.folder / "predictions.png"
    images, labels = _as_rgb(examples.images), examples.labels.numpy()
    predictions(images, labels, top.numpy(), probabilities.numpy(), classes, file, caption)
    return file


def _neighbours(job: PlotJob) -> Path:
    import torch

    from alexnet_exp.inference.neighbours import Features, nearest
    from alexnet_exp.plots.images import neighbours

    examples, train = job.examples, job.data.source.train
    if job.indices is None:
        examples = examples.first(NEIGHBOUR_ROWS)
    features = Features(job.classifier)
    searched, why = _searched(job)
    own = None
    if job.split == "train":
        places = {index: place for place, index in enumerate(searched.tolist())}
        own = torch.tensor([places.get(index, -1) for index in examples.indices.tolist()])
    # only this command uses the data module: its loader now yields the searched images alone
    job.data.source = replace(job.data.source, train=train.select(searched))
    try:
        batches = (job.data.centred(images) for images, _ in _with_progress(job.data.loader("train"), len(searched)))
        found = nearest(features, examples.images, batches, NEIGHBOURS_PER_ROW, own)
    finally:
        job.data.teardown()
        job.data.source = replace(job.data.source, train=train)
    if not found.places.shape[1]:
        raise MissingPictureError(
            "no distance is finite: the features of the network are not, or no other image was searched"
        )
    indices = searched[found.places]
    near = job.data.centred(train.images(indices.flatten()))
    except_itself = "except the image itself, " if own is not None else ""
    layer = f"{features.layer}, the last layer{_stage_before(job.classifier.network, features.layer)}"
    caption = (
        f"{job.description(examples)}; and the nearest of {why}, {except_itself}with a frame if the class differs. "
        f"Euclidean distance between the {features.size:,} inputs of {layer}, in evaluation mode. "
        f"Checkpoint {job.classifier.source.stem}, central crop. {job.origin}."
    )
    file = job.folder / "neighbours.png"
    neighbours(
        _as_rgb(examples.images),
        examples.labels.numpy(),
        _as_rgb(near.reshape(*indices.shape, *near.shape[1:])),
        train.labels[indices].numpy(),
        found.distances.numpy(),
        job.classifier.classes,
        file,
        caption,
    )
    return file


def _searched(job: PlotJob) -> tuple[Tensor, str]:
    """Returns the indices of the training images to search, evenly spaced, and their description."""
    import torch

    from alexnet_exp.data.split import StreamedSplit

    train = job.data.source.train
    most = job.train_images or (SEARCHED_FILES if isinstance(train, StreamedSplit) else SEARCHED_ARRAYS)
    if most >= len(train):
        return torch.arange(len(train)), f"the {len(train):,} training images"
    return torch.arange(most) * len(train) // most, f"{most:,} of {len(train):,} training images, evenly spaced"


def _stage_before(network: nn.Module, layer: str) -> str:
    """Returns which stage of an `AlexNet` produces the input of the last layer; empty for another network."""
    from alexnet_exp.model.network import AlexNet

    stages = [name for name, _ in network.named_children()] if isinstance(network, AlexNet) else []
    if layer not in stages[1:]:
        return ""
    return f" (the output of {stages[stages.index(layer) - 1]} after its activation)"


def _with_progress(batches: Iterable[Any], images: int) -> Iterator[Any]:
    """Yields the batches and prints progress to stderr: a bar on a terminal, else one line if it takes long."""
    from rich.console import Console
    from rich.progress import track

    doing = f"Searching {images:,} training images"
    if sys.stderr.isatty():
        yield from track(batches, doing, console=Console(stderr=True), transient=True)
        return
    first, start, seen, printed = 0, 0.0, 0, False
    for batch in batches:
        yield batch
        seen += len(batch[0])
        if not first:  # the first batch includes the start of the worker processes
            first, start = seen, time.monotonic()
        elif not printed and seen < images and (spent := time.monotonic() - start) > PROGRESS_AFTER_SECONDS:
            left = spent / (seen - first) * (images - seen)
            print(f"{doing}: about {left:.0f} s left; --train-images N searches fewer", file=sys.stderr, flush=True)
            printed = True


def _as_rgb(images: Tensor) -> Any:
    """Returns uint8 images [..., C, H, W] as an array [..., H, W, 3]."""
    last = images.movedim(-3, -1)
    return last.expand(*last.shape[:-1], 3).cpu().numpy()


PICTURES: dict[str, Callable[[PlotJob], Path]] = {
    "curves": _curves,
    "confusion": _confusion,
    "filters": _filters,
    "predictions": _predictions,
    "neighbours": _neighbours,
}
