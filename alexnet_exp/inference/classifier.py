"""Loads the network and the preprocessing of a run from its checkpoint."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_exp.config.nodes import read_node
from alexnet_exp.config.schema import Config
from alexnet_exp.config.user_class import TARGET_KEY, UserClass
from alexnet_exp.data.augment import center_crop, to_network_input
from alexnet_exp.data.decode import read_image
from alexnet_exp.errors import UserError
from alexnet_exp.model.completion import Ends
from alexnet_exp.model.preprocess import Preprocess
from alexnet_exp.model.spec import Network
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs.lookup import checkpoint_path, find
from alexnet_exp.runs.reader import read_config
from alexnet_exp.training.build import Experiment, build, build_network
from alexnet_exp.training.checkpoints.format import CARD, inference_weights, read_checkpoint, refuse_another_network

BATCH_SIZE = 32  # images that `predict` has in memory at a time


class Classifier(nn.Module):
    """A trained network: images uint8 [N, C, H, W] of `input_size` pixels a side to logits [N, classes].

    `classes`: the names, in the order of the logits. `predict` takes image files of any size. A network that was
    trained on the floats of a user's data module takes such floats (`dtype`) and no image files.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, card: dict[str, Any], source: Path):
        super().__init__()
        self.network, self.preprocess = network, preprocess
        self.classes: list[str] = list(card["classes"])
        self.input_size, self.in_channels = int(card["input_size"]), int(card["in_channels"])
        self.stored_size, self.crop = int(card["stored_size"]), int(card["crop"])
        given = card.get("images") or {}
        self.dtype = torch.float32 if given.get("dtype") == "float32" else torch.uint8
        self.data: str = given.get("source", "")
        square = (self.in_channels, self.input_size, self.input_size)
        self.shape: tuple[int, ...] = tuple(map(int, given.get("shape", square)))
        self.source = source

    def __repr__(self) -> str:
        return f"Classifier({type(self.network).__name__} of {self.source}: {self.takes}, {len(self.classes)} classes)"

    @property
    def takes(self) -> str:
        """The type and shape of a batch of images, as text."""
        name = str(self.dtype).removeprefix("torch.")
        return f"{name} [N, {', '.join(map(str, self.shape))}]"

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [N, classes]. Raises UserError for images of another type or shape."""
        typed = images.dtype == self.dtype or (self.dtype.is_floating_point and images.is_floating_point())
        if not typed or images.ndim != 4 or images.shape[1] != self.in_channels:
            raise self._refuse(images)
        try:
            logits: Tensor = self.network(self.preprocess(images))
        except RuntimeError as error:
            if tuple(images.shape[1:]) == self.shape:
                raise
            raise self._refuse(images) from error
        return logits

    def _refuse(self, images: Tensor) -> UserError:
        given = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        return UserError(f"{self.source}: needs images {self.takes}; got {given}")

    def predict(self, paths: str | Path | Sequence[str | Path]) -> Tensor:
        """Returns class probabilities [N, classes] of one or more image files, cropped as in the run's test.

        Images are read and classified in batches of 32. Raises UserError as `each` does.
        """
        paths = [paths] if isinstance(paths, str | Path) else paths
        found = list(self.each(paths))
        return torch.stack(found) if found else torch.empty(0, len(self.classes))

    def each(self, paths: Sequence[str | Path]) -> Iterator[Tensor]:
        """Yields class probabilities [classes] of each image file, with one batch of images in memory at a time.

        Raises UserError if the network was trained on floats, which only the user's data module can make.
        """
        if self.dtype.is_floating_point:
            reason = f"was trained on floats of {self.data} and cannot read image files"
            raise UserError(f"{self.source}: {reason}; in Python use alexnet_exp.load(RUN)(images)")
        if self.shape[1] != self.shape[2]:
            reason = f"needs images {self.takes}, but image files are cropped to squares"
            raise UserError(f"{self.source}: {reason}; in Python use alexnet_exp.load(RUN)(images)")
        for start in range(0, len(paths), BATCH_SIZE):
            yield from self._batch(paths[start : start + BATCH_SIZE])

    @torch.inference_mode()
    def _batch(self, paths: Sequence[str | Path]) -> Tensor:
        device = next(self.parameters()).device
        images = torch.stack([read_image(Path(path), self.stored_size, advice="leave it out") for path in paths])
        if self.in_channels == 1:
            images = _grey(images)
        images = to_network_input(center_crop(images, self.crop), self.in_channels, self.input_size)
        probabilities: Tensor = self(images.to(device)).softmax(1).cpu()
        return probabilities


def load(run: str | Path, checkpoint: str = "best", outputs: Path = OUTPUTS) -> Classifier:
    """Returns the network of `run` (a folder, `last`, or a unique prefix) in evaluation mode, on the CPU.

    `checkpoint`: best (last if there is no best), last, or a file. Raises UserError if the checkpoint is missing,
    damaged, or not one of the run.
    """
    folder = find(str(run), outputs, trained=True)
    path = checkpoint_path(folder, checkpoint)
    content = read_checkpoint(path)
    card = content[CARD]
    model = read_config(folder).get("model")
    if not isinstance(model, Mapping):
        raise UserError(f"{folder / '.hydra' / 'config.yaml'}: not the configuration of a run: no model")
    refuse_another_network(path, card["model"], model, folder)
    if card["input_size"] is None:
        raise UserError(f"{path}: does not record the size of its images; load it with your own code")
    network, preprocess = _network(card, path)
    classifier = Classifier(network, preprocess, card, path)
    try:
        classifier.load_state_dict(inference_weights(content))
    except RuntimeError as error:
        first = textwrap.shorten(str(error).splitlines()[-1], 120, placeholder=" ...")
        raise UserError(f"{path}: its weights do not match its network ({first})") from None
    return classifier.eval()


def rebuilt(config: Config) -> Experiment:
    """Returns a run's experiment built from its configuration, without data and the weights of its checkpoint."""
    if getattr(config.model, "weights", None) is not None:
        config.model.weights = None  # the checkpoint has the weights; the initial file may not exist anymore
    return build(config)


def _grey(images: Tensor) -> Tensor:
    """Returns the luma [N, 1, H, W] of RGB [N, 3, H, W] by ITU-R BT.601, both uint8."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).round().to(torch.uint8)


def _network(card: dict[str, Any], path: Path) -> tuple[nn.Module, Preprocess]:
    """Returns the network of a checked card with initial weights. Raises UserError if it cannot be built."""
    ends, node = Ends(card["input_size"], card["in_channels"], len(card["classes"]), 1.0), dict(card["model"])
    if TARGET_KEY in node:
        return build_network(UserClass("model", node, "model"), ends)
    node["weights"] = None  # the checkpoint has the weights; the initial file may not exist anymore
    try:
        return build_network(read_node(Network, node, "model"), ends)
    # for a manipulated card: invalid settings, and sizes that do not fit in memory
    except (UserError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        first = textwrap.shorten((str(error).splitlines() or [type(error).__name__])[0], 120, placeholder=" ...")
        raise UserError(f"{path}: its network cannot be built ({first})") from None
