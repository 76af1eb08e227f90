"""Builds data module, network with preprocessing, and LightningModule from a validated configuration.

Every command that needs them builds them here, so that no two commands can differ.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from alexnet_exp.atomic import best_effort_lock
from alexnet_exp.config.contradictions import training_metric, validation_monitors
from alexnet_exp.config.resolve import data_info_of, resolve_network
from alexnet_exp.config.schema import LIMITS, Config
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.data.loader import EpochPlan
from alexnet_exp.errors import Problem, Refused, UserError
from alexnet_exp.model.completion import Ends, notes
from alexnet_exp.model.cost import layers, totals
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.preprocess import Preprocess, measure_statistics
from alexnet_exp.model.shapes import parts
from alexnet_exp.model.spec import Input, Network, Norm
from alexnet_exp.model.weights import load_weights
from alexnet_exp.model.whitening import IMAGES, whiten, whitened_layer
from alexnet_exp.paths import OUTPUTS, cache_folder
from alexnet_exp.runs.lookup import weights_file
from alexnet_exp.seeds import derive
from alexnet_exp.training.batch_checks import ExpectedBatch, first_batches, first_images
from alexnet_exp.training.checkpoints.format import add_images, add_sizes, new_card
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.module import AlexNetModule

log = logging.getLogger(__name__)

# Parameters per training image from which a smaller network is suggested; CIFAR-10's network has about a thousand.
MOST_PARAMETERS_PER_IMAGE = 10_000


@dataclass
class Experiment:
    """The parts of a run. card: what a checkpoint needs to be used without its run, as plain containers."""

    config: Config
    data: pl.LightningDataModule
    module: pl.LightningModule
    spec: Network | UserClass
    card: dict[str, Any]

    @property
    def network(self) -> nn.Module:
        network = getattr(self.module, "network", self.module)
        assert isinstance(network, nn.Module)
        return network

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of the network, forward, per image; None for a user's network or LightningModule."""
        if isinstance(self.spec, Network) and isinstance(self.module, AlexNetModule):
            return totals(layers(self.spec)).multiply_adds
        return None


def build(config: Config) -> Experiment:
    """Builds an experiment without the trainer. Reads `model.weights`, but not the images of the data."""
    torch.manual_seed(derive(config.seed, "weights"))
    spec, ends, classes = resolve_network(config)
    size = ends.input_size if isinstance(spec, UserClass) else spec.input_size
    channels = ends.in_channels if isinstance(spec, UserClass) else int(spec.in_channels or 0)
    if isinstance(config.data, UserClass):
        data = config.data.build(seed=config.seed, input_size=size, in_channels=channels)
    else:
        assert size is not None  # the shipped data sources define it
        data = ImageData(config.data, input_size=size, in_channels=channels, seed=config.seed)
    network, preprocess = build_network(spec, ends)
    card = new_card(plain_node(spec), classes, size, channels)
    _add_sizes(card, config)
    module = build_module(config, network, preprocess, len(classes))
    return Experiment(config, data, module, spec, card)


def _add_sizes(card: dict[str, Any], config: Config) -> None:
    """Adds the side of the stored images and of the crop to the card; unknown where the input size is."""
    known, input_size = data_info_of(config), card["input_size"]
    if input_size is not None:
        size = known.size if known else input_size
        add_sizes(card, size, getattr(config.data, "crop", None) or min(size, input_size))


def build_network(spec: Network | UserClass, ends: Ends) -> tuple[nn.Module, Preprocess]:
    """Returns the network and its preprocessing, which a user's network defines in a class attribute `input`."""
    if isinstance(spec, UserClass):
        network = spec.build(num_classes=ends.num_classes, in_channels=ends.in_channels, input_size=ends.input_size)
        # Without an input size, only preprocessing without per-pixel means is possible.
        return network, Preprocess(getattr(spec.cls, "input", Input()), ends.in_channels, ends.input_size or 1)
    network = AlexNet(spec)
    preprocess = Preprocess(spec.input, int(spec.in_channels or 0), int(spec.input_size or 0))
    if spec.weights:
        load_weights(network, weights_file(spec.weights, OUTPUTS))
    return network, preprocess


def build_module(config: Config, network: nn.Module, preprocess: Preprocess, classes: int) -> pl.LightningModule:
    """Returns our LightningModule with the network, or the user's, which may accept the same arguments."""
    parts: dict[str, Any] = {"network": network, "preprocess": preprocess, "loss": config.loss, "seed": config.seed}
    parts |= {"optim": config.optim, "schedule": config.schedule}
    if config.module is not None:
        module = config.module.build(**parts)
        assert isinstance(module, pl.LightningModule)
        return module
    return AlexNetModule(channels_last=bool(config.trainer.channels_last), classes=classes, **parts)


def lay_out(experiment: Experiment, channels_last: bool) -> None:
    """Converts the network to that memory layout where the LightningModule is ours: a user's decides itself."""
    if isinstance(experiment.module, AlexNetModule):
        experiment.module.lay_out(channels_last)


def prepare(experiment: Experiment, replicas: int = 1) -> None:
    """Opens the data and fits the network's preprocessing to the statistics of its training images.

    Logs the main facts of both. Raises `Refused` where a setting monitors validation and the data has no validation
    images, or where the data has fewer batches than a setting needs. replicas: the processes that share a batch.
    """
    if isinstance(experiment.spec, Network) and experiment.spec.width != 1 and _is_width_open(experiment.config):
        log.info(f"width {experiment.spec.width:g}, as the data suggests; model.width=1 is the full network")
    for note in notes(experiment.spec) if isinstance(experiment.spec, Network) else []:
        log.info(note)
    data = experiment.data
    open_data(data)
    if experiment.config.test.run:
        refuse_views(experiment, experiment.config.test.views, "test.views=")
    preprocess = getattr(experiment.module, "preprocess", None)
    if isinstance(data, ImageData):
        for line in data.describe().splitlines():
            log.info(line)
        if hint := _too_large(experiment.spec, len(data.source.train)):
            log.info(hint)
        for key in LIMITS:
            limit = getattr(experiment.config.trainer, key)
            if limit and not (isinstance(limit, float) and limit == 1):
                log.info(f"trainer.{key}={limit}: only this part of the images is used")
        if data.source.val is None:
            _refuse_validation_monitors(experiment.config, data.source.val_from)
        data.least = 2 if _needs_two_images(experiment) else 1
        _refuse_lengths(experiment.config, data, replicas)
    if not isinstance(data, ImageData) and isinstance(preprocess, Preprocess) and _gives_floats(experiment):
        preprocess.disable()
    elif isinstance(preprocess, Preprocess) and preprocess.needs:
        ours = data.statistics(preprocess.needs) if isinstance(data, ImageData) else None
        preprocess.fit(ours or measure_statistics(data.train_dataloader()))
    layer = whitened_layer(experiment.network)
    if layer is not None and isinstance(preprocess, Preprocess) and not getattr(experiment.spec, "weights", None):
        whiten(layer, preprocess(_sample(data)))


def _sample(data: pl.LightningDataModule) -> Tensor:
    """Returns up to `whitening.IMAGES` training images as in an evaluation, evenly spaced; of a user's data the first.

    uint8, or the floats of a user's data: [N, C, H, W].
    """
    if isinstance(data, ImageData):
        train = data.split("train")
        return data.centred(train.images(torch.linspace(0, len(train) - 1, min(len(train), IMAGES)).long()))
    batches: list[Tensor] = []
    for images, *_ in data.train_dataloader():
        batches.append(images)
        if sum(map(len, batches)) >= IMAGES:
            break
    return torch.cat(batches)[:IMAGES]


def _too_large(spec: Network | UserClass, images: int) -> str:
    """Returns a hint where a network of full width, without trained weights, has too many parameters per image."""
    if not isinstance(spec, Network) or spec.width != 1 or spec.weights:
        return ""
    parameters = totals(layers(spec)).parameters
    if parameters <= MOST_PARAMETERS_PER_IMAGE * images:
        return ""
    few = f"{parameters / 1e6:.0f} million parameters for {images:,} training images"
    return f"{few}; model.width=0.25 is a smaller network, model.weights=RUN starts from trained weights"


def _gives_floats(experiment: Experiment) -> bool:
    """Returns whether a user's data module scales its images itself; logs their form.

    Checks its first batches, and adds their form to the card. A user's LightningModule may take any batches: they are
    not checked.
    """
    config, card = experiment.config, experiment.card
    if not isinstance(experiment.module, AlexNetModule):
        images = first_images(experiment.data)
        if images is None or not images.is_floating_point():
            return False
        log.info("the data module returns floats: used unchanged, the network's `input` is not applied")
        add_images(card, "float32", list(images.shape[1:]), config.data.target)
        return True
    splits = ("train", "val", "test") if config.test.run else ("train", "val")
    seen = first_batches(experiment.data, _expected(experiment), splits)
    log.info(seen.describe(len(card["classes"])))
    add_images(card, "float32" if seen.floats else "uint8", list(seen.shape), config.data.target)
    if card["input_size"] is None:
        card["input_size"] = seen.shape[1]
        _add_sizes(card, config)
    return seen.floats


def _expected(experiment: Experiment) -> ExpectedBatch:
    card, own = experiment.card, isinstance(experiment.spec, UserClass)
    return ExpectedBatch(card["in_channels"], card["input_size"], len(card["classes"]), own)


def refuse_other_images(experiment: Experiment, card: Mapping[str, Any], run: Path) -> None:
    """Raises `UserError` where the test images of a user's data module have another type than those in `card`.

    The network scales bytes and not floats: only the type that it was trained on is correct. The card of a run of an
    earlier version does not have the type.
    """
    then = card.get("images")
    if then is None or not isinstance(experiment.module, AlexNetModule) or isinstance(experiment.data, ImageData):
        return
    seen = first_batches(experiment.data, _expected(experiment), ("test",))
    now = "float32" if seen.floats else "uint8"
    if now != then["dtype"]:
        name = type(experiment.data).__name__
        raise UserError(
            f"{run}: was trained on {then['dtype']} images, and {name} returns {now} now; return {then['dtype']}"
        )


def _needs_two_images(experiment: Experiment) -> bool:
    """Returns whether a batch norm has one value per map and image, and so no statistics in a batch of one image."""
    if any(isinstance(module, nn.BatchNorm1d) for module in experiment.network.modules()):
        return True
    spec = experiment.spec
    if not isinstance(spec, Network) or spec.norm is not Norm.bn:
        return False
    return any(part.slot == "norm" and math.prod(part.before[1:]) == 1 for part in parts(spec))


def _refuse_lengths(config: Config, data: ImageData, replicas: int) -> None:
    """Raises `Refused` for fractions of an epoch below one batch, and for validations after its end."""
    trainer, source, problems = config.trainer, data.source, []
    batches = {}
    for split, images in (("train", source.train), ("val", source.val), ("test", source.test)):
        if images is None or (split == "test" and not config.test.run):
            continue
        least = data.least if split == "train" else 1
        batches[split] = there = len(EpochPlan(len(images), data.spec.batch_size, 0, replicas, least))
        for key in (f"limit_{split}_batches", *(["overfit_batches"] if split == "train" else [])):
            limit = getattr(trainer, key)
            if isinstance(limit, float) and limit > 0 and int(there * limit) == 0:
                reason = f"is less than one of the {there} {split} batches; write a number of batches, such as 1"
                problems.append(Problem(f"trainer.{key}", limit, reason))
    often, limit = trainer.val_check_interval, trainer.limit_train_batches
    epoch = batches["train"]
    if limit is not None and not trainer.fast_dev_run:
        epoch = min(epoch, limit) if isinstance(limit, int) else int(epoch * limit)
    validates = "val" in batches and trainer.limit_val_batches != 0 and trainer.check_val_every_n_epoch is not None
    if validates and isinstance(often, int) and not trainer.fast_dev_run and often > epoch > 0:
        reason = f"an epoch has {epoch} batches; write at most {epoch}"
        reason += ", or trainer.check_val_every_n_epoch=null to count them over all epochs"
        problems.append(Problem("trainer.val_check_interval", often, reason))
    if problems:
        raise Refused(problems)


def open_data(data: pl.LightningDataModule) -> None:
    """Prepares the data and sets it up for training, like Lightning, but before a trainer exists.

    Lightning calls `prepare_data` in one process per machine, and the others wait. Here every rank and every job of a
    sweep calls it, one after the other: the first one downloads, the others find the files.
    """
    if is_overridden("prepare_data", data):
        kind = type(data)
        with best_effort_lock(cache_folder() / f"{kind.__module__}.{kind.__qualname__}.lock"):
            data.prepare_data()
    data.setup("fit")


def refuse_views(experiment: Experiment, views: int, setting: str) -> None:
    """Raises `UserError` for `setting` where a test with so many views of an image is impossible. The data is open."""
    data, module = experiment.data, experiment.module
    if views == 1:
        return
    if not isinstance(data, ImageData):
        raise UserError(
            f"{setting}{views}: needs a data module that subclasses ImageData; {type(data).__name__} does not; write 1"
        )
    if getattr(type(module), "test_step", None) is not AlexNetModule.test_step:
        raise UserError(f"{setting}{views}: the test_step of {type(module).__name__} uses one view; write 1")
    side = min(data.source.train.shape[1:])
    if views > 2 and side - data.crop < 2:
        one = f"a crop of {data.crop} has only one view in images stored at {side}x{side}; "
        raise UserError(f"{setting}{views}: {one}train with data.crop={side * 7 // 8}, or write 1")


def _is_width_open(config: Config) -> bool:
    return isinstance(config.model, Network) and config.model.width is None


def _refuse_validation_monitors(config: Config, val_from: str) -> None:
    reason = val_from.removeprefix("none: ") or "the data has none"
    problems = [
        Problem(key, monitor, f"the run has no validation: {reason}; monitor {training_metric(monitor)}")
        for key, monitor in validation_monitors(config)
    ]
    if problems:
        raise Refused(problems)


def plain_node(spec: Any) -> dict[str, Any]:
    """Returns a node's settings as plain containers, enums as strings, for a checkpoint."""
    if isinstance(spec, UserClass):
        return {"_target_": spec.target, **spec.arguments}
    plain = _plain(spec)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    """Returns what OmegaConf makes of a structured configuration, in a hundredth of the time."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
