"""A run's network and preprocessing again, from its checkpoint alone: for `predict`, `export`, and from Python."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_exp.config.schema import Config
from alexnet_exp.config.user_class import TARGET, UserClass
from alexnet_exp.config.validate import typed
from alexnet_exp.data.augment import center_crop, to_network_input
from alexnet_exp.data.decode import read_image
from alexnet_exp.errors import UserError
from alexnet_exp.model.preprocess import Preprocess
from alexnet_exp.model.spec import Ends, Network
from alexnet_exp.paths import OUTPUTS
from alexnet_exp.runs.lookup import checkpoint_path, find
from alexnet_exp.runs.reader import read_config
from alexnet_exp.training.build import Experiment, build, build_network
from alexnet_exp.training.checkpoints.format import CARD, inference_weights, read_checkpoint, refuse_another_network

BATCH = 32  # images that `predict` holds at a time


class Classifier(nn.Module):
    """A trained network that takes bytes: uint8 [N, C, H, W] of `input_size` pixels a side, to logits [N, classes].

    `classes`: the names, in the order of the logits. `predict` takes image files of any size. A network that was
    trained on floats of a user's data module takes such floats (`dtype`), and no image files.
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
        """The images that a batch must have, in words."""
        name = str(self.dtype).removeprefix("torch.")
        return f"{name} [N, {', '.join(map(str, self.shape))}]"

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes]; raises `UserError` for images of another type, or with other channels."""
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
        return UserError(f"{self.source}: takes {self.takes}, and got {given}")

    def predict(self, paths: str | Path | Sequence[str | Path]) -> Tensor:
        """Class probabilities [N, classes] of image files, or of one, cropped as in the run's own test.

        The images are read and classified in batches of 32. Raises `UserError` as `each` does.
        """
        paths = [paths] if isinstance(paths, str | Path) else paths
        found = list(self.each(paths))
        return torch.stack(found) if found else torch.empty(0, len(self.classes))

    def each(self, paths: Sequence[str | Path]) -> Iterator[Tensor]:
        """Class probabilities [classes] of one image file after another; one batch of images is in memory at a time.

        Raises `UserError` where the network was trained on floats: only the user's data module knows how to make them.
        """
        if self.dtype.is_floating_point:
            told = f"was trained on floats of {self.data}, which image files would have to become as they did there"
            raise UserError(f"{self.source}: {told}; in Python, alexnet_exp.load(RUN)(images) takes such images")
        if self.shape[1] != self.shape[2]:
            told = "image files are cut to squares, and its images were none"
            raise UserError(
                f"{self.source}: takes {self.takes}: {told}; alexnet_exp.load(RUN)(images) takes such images"
            )
        for start in range(0, len(paths), BATCH):
            yield from self._batch(paths[start : start + BATCH])

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
    """The network of `run` (a folder, `last`, or a unique prefix) in evaluation mode, on the CPU.

    `checkpoint`: best (last where there is no best), last, or a checkpoint's file. Raises `UserError` when it is not
    there, damaged, or of something else.
    """
    folder = find(str(run), outputs, trained=True)
    path = checkpoint_path(folder, checkpoint)
    content = read_checkpoint(path)
    card = content[CARD]
    model = read_config(folder).get("model")
    if not isinstance(model, Mapping):
        raise UserError(f"{folder / '.hydra' / 'config.yaml'}: not the configuration of a run: it has no model")
    refuse_another_network(path, card["model"], model, folder)
    if card["input_size"] is None:
        raise UserError(f"{path}: does not say the size of its images; load it by a program of your own")
    network, preprocess = _network(card, path)
    classifier = Classifier(network, preprocess, card, path)
    try:
        classifier.load_state_dict(inference_weights(content))
    except RuntimeError as error:
        first = textwrap.shorten(str(error).splitlines()[-1], 120, placeholder=" ...")
        raise UserError(f"{path}: its weights are not of the network it names ({first})") from None
    return classifier.eval()


def rebuilt(config: Config) -> Experiment:
    """A run's experiment built again from its configuration, its data not open yet; a checkpoint gives the weights."""
    if getattr(config.model, "weights", None) is not None:
        config.model.weights = None  # the checkpoint has them; the file that they started from may be gone
    return build(config)


def _grey(images: Tensor) -> Tensor:
    """RGB [N, 3, H, W] to its luma [N, 1, H, W] (ITU-R BT.601), both uint8."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).round().to(torch.uint8)


def _network(card: dict[str, Any], path: Path) -> tuple[nn.Module, Preprocess]:
    """The network of a card that was checked, with weights of its own; raises `UserError` where there can be none."""
    ends, node = Ends(card["input_size"], card["in_channels"], len(card["classes"]), 1.0), dict(card["model"])
    if TARGET in node:
        return build_network(UserClass("model", node, "model"), ends)
    node["weights"] = None  # they are in the checkpoint; the file they came from may be gone
    try:
        return build_network(typed(Network, node, "model"), ends)
    # of a card that was changed: settings that are none, and sizes that no memory holds
    except (UserError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        first = textwrap.shorten((str(error).splitlines() or [type(error).__name__])[0], 120, placeholder=" ...")
        raise UserError(f"{path}: its network cannot be built ({first})") from None
