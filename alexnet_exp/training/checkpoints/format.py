"""Provides the format of a checkpoint: its keys, writing and reading one, and checking that it is a run's and whole.

A checkpoint is Lightning's (`state_dict`, `optimizer_states`, `loops`, `callbacks`, `global_step`), with four keys of
our own: the card, the state of the run, and what `AlexNetModule` knows of the epoch that is in progress and of the
schedule. Every value is a plain container or a tensor, so that it is read with `weights_only=True`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Timer

from alexnet_exp.atomic import atomic_write
from alexnet_exp.config.user_class import TARGET_KEY
from alexnet_exp.data.decode import MOST_IMAGE_PIXELS
from alexnet_exp.errors import UserError
from alexnet_exp.model.weights import NETWORK_PREFIX, read_file
from alexnet_exp.runs import checksum
from alexnet_exp.runs.disk_errors import UnwritableError, is_lost
from alexnet_exp.runs.folder import flatten

# Our keys. They never change: files have them.
CARD = "alexnet_exp"  # what a program needs to use the network without the run
CARD_FORMAT = 1
RUN_STATE = "alexnet_exp_standing"  # the training state that Lightning does not save
CHECKPOINTS_CALLBACK = "Checkpoints"  # Lightning saves a callback's state under the name of its class
HALF_EPOCH = "half_epoch"
HISTORY = "schedule_history"

# Lightning's keys.
WEIGHTS = "state_dict"
WEIGHT_KEYS = (WEIGHTS, "current_model_state")  # the second where `WEIGHTS` is an average of the weights
OPTIMIZERS = "optimizer_states"
STEP = "global_step"
TIMER = Timer().state_key  # the state of the Timer that Lightning adds for `trainer.max_time`

NEWEST_FIRST = (
    "last",
    "previous",
    "best",
)  # the names of a run's checkpoints, in the order in which resuming tries them
UNFINISHED = "next"  # the name while a checkpoint is being saved
LEFTOVER_PATTERNS = (".*.partial", f"{UNFINISHED}.ckpt")  # of a process that was killed while it saved

MOST_CHANNELS = 1 << 16
LARGEST_SIDE = math.isqrt(MOST_IMAGE_PIXELS)


# --- writing


class NotSavedError(OSError):
    """The checkpoint does not fit on the disk; the message is the reason."""


class FlushedIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, flushes it, renames it: a crash leaves the old one or the new.

    Raises `NotSavedError` where the disk is full, and leaves no part behind; `UnwritableError` where the folder is
    gone.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        try:
            target.parent.mkdir(exist_ok=True)
            with atomic_write(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch's writer reports an interruption as a file that it could not finish
            stop = error.__context__
            if isinstance(stop, KeyboardInterrupt | SystemExit):
                raise stop from None
            if isinstance(error, OSError) and is_lost(error):
                raise UnwritableError(target.parent.parent, f"{target.parent.name}/{target.name}", error) from None
            if not _is_disk(error):
                raise
            raise NotSavedError(disk_reason(error)) from error


def _is_disk(error: Exception) -> bool:
    """Returns whether saving failed at the disk: torch's zip writer raises its own RuntimeError after a short write."""
    return isinstance(error, OSError) or "inline_container" in str(error) or "PytorchStreamWriter" in str(error)


def disk_reason(error: BaseException) -> str:
    """Returns why a file could not be written, in the system's words where it has some."""
    cause = error if isinstance(error, OSError) else error.__context__
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else "only a part was written"


def new_card(model: Mapping[str, Any], classes: list[Any], input_size: int | None, in_channels: int) -> dict[str, Any]:
    """Returns a checkpoint's card; the sizes and the images are added to it when they are known."""
    return {
        "format": CARD_FORMAT,
        "model": model,
        "classes": classes,
        "input_size": input_size,
        "in_channels": in_channels,
    }


def add_sizes(card: dict[str, Any], stored_size: int, crop: int) -> None:
    """Adds the side at which the data stores its images, and the side of the square that is cut out of them."""
    card |= {"stored_size": stored_size, "crop": crop}


def add_images(card: dict[str, Any], dtype: str, shape: list[int], source: str) -> None:
    """Adds what the data module `source` of the user gives: images of this `dtype` and `shape` [C, H, W]."""
    card["images"] = {"dtype": dtype, "shape": shape, "source": source}


def close_epoch(checkpoint: dict[str, Any]) -> None:
    """Makes Lightning's counters those after an epoch, in a checkpoint that is saved in the epoch's last hook.

    With the counters of that moment a run resumes correctly where a number of epochs ends the training, but where a
    number of steps does, it would end that epoch a second time.
    """
    for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
        counts["completed"] = counts["processed"]


@dataclass(frozen=True)
class ModuleState:
    """What `AlexNetModule` adds to a checkpoint.

    history: of the metric that `schedule=plateau` monitors. metrics: of the epoch in progress. tallies: the state of
    each rank's `Tally` in it. A checkpoint of an earlier version may have none of them.
    """

    history: list[float]
    metrics: dict[str, float]
    tallies: list[Mapping[str, Any]]

    def add_to(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[HALF_EPOCH] = {"metrics": self.metrics, "tallies": self.tallies}
        checkpoint[HISTORY] = self.history

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> ModuleState:
        half = checkpoint.get(HALF_EPOCH) or {"metrics": {}, "tallies": []}
        return cls(list(checkpoint.get(HISTORY, [])), dict(half["metrics"]), list(half["tallies"]))


# --- reading


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns a checkpoint of a run as plain containers and tensors, on the CPU.

    Raises `UserError` for a damaged file, and for one of another program.
    """
    checksum.verify(path)
    content = read_file(path)
    card = content.get(CARD)
    if not isinstance(card, dict) or not isinstance(content.get(WEIGHTS), dict):
        raise UserError(f"{path}: not a checkpoint of a run; weights alone are loaded by model.weights=FILE")
    if card.get("format") != CARD_FORMAT:
        raise UserError(f"{path}: checkpoint format {card.get('format')}, this version reads {CARD_FORMAT}")
    wrong = [key for key, right in _card_checks(card) if not right]
    if wrong:
        value = textwrap.shorten(repr(card.get(wrong[0])), 60, placeholder="...")
        raise UserError(f"{path}: invalid {wrong[0]} {value}; the file is damaged or was changed")
    if not all(isinstance(key, str) for key in content[WEIGHTS]):
        raise UserError(f"{path}: invalid weights, without names; the file is damaged or was changed")
    return content


def inference_weights(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weights of the network and its preprocessing, without what a LightningModule may have beside them."""
    return {key: value for key, value in content[WEIGHTS].items() if key.startswith((NETWORK_PREFIX, "preprocess."))}


def _card_checks(card: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yields each entry of a card, and whether it is valid: native code is called with these sizes."""
    model, classes, size = card.get("model"), card.get("classes"), card.get("input_size")
    yield "model", isinstance(model, dict) and all(isinstance(key, str) for key in model)
    yield (
        "classes",
        isinstance(classes, list) and bool(classes) and all(isinstance(each, str | int) for each in classes),
    )
    yield "in_channels", _is_size(card.get("in_channels"), MOST_CHANNELS)
    own = isinstance(model, dict) and TARGET_KEY in model
    unknown = own and size is None  # both network and data are the user's
    yield "input_size", unknown or _is_size(size)
    stored: Any = card.get("stored_size")
    yield "stored_size", unknown or _is_size(stored)
    yield "crop", unknown or (_is_size(stored) and _is_size(card.get("crop"), stored))
    if isinstance(model, dict) and isinstance(classes, list) and not own:
        ends = {"input_size": size, "in_channels": card.get("in_channels"), "num_classes": len(classes)}
        yield "model", all(model.get(key) in (None, value) for key, value in ends.items())
    images = card.get("images")
    if images is not None:
        shape = images.get("shape") if isinstance(images, dict) else None
        sizes = isinstance(shape, list) and len(shape) == 3 and all(_is_size(side, MOST_CHANNELS) for side in shape)
        yield "images", sizes and images.get("dtype") in ("uint8", "float32") and isinstance(images.get("source"), str)


def _is_size(value: Any, most: int = LARGEST_SIDE) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def refuse_another_network(file: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], run: Path) -> None:
    """Raises `UserError` where a checkpoint's network `theirs` contradicts the settings `ours` of the run.

    What `ours` leaves open (null) came from the data, and `weights` is only where training began. A setting that a
    stage of the checkpoint does not have is newer than the checkpoint, and has its default.
    """
    there, here = flatten(theirs), flatten(ours)
    groups = {key.rpartition(".")[0] for key in there}
    for key in sorted((there.keys() | here.keys()) - {"weights"}):
        newer = key not in there and key.rpartition(".")[0] in groups
        if here.get(key) is not None and there.get(key) != here[key] and not newer:
            values = f"model.{key}={there.get(key)} in the checkpoint, {here[key]} in the run"
            raise UserError(f"{file}: a checkpoint of another network than that of {run}: {values}")


# --- resuming


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to resume from: after `step` optimizer steps, `epoch` epochs and `batch` batches of the next one.

    model: the settings of its network. fingerprint: of the data that it was trained on; None where that has none.
    seconds: of training, that count against `trainer.max_time`; None without one. state: the conditions of the training
    beside its settings, such as the number of threads.
    """

    path: Path
    step: int
    epoch: int
    batch: int
    model: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    seconds: float | None = None
    state: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        batch = f", batch {self.batch} of the next" if self.batch else ""
        return f"{self.path.name}: step {self.step}, epoch {self.epoch} done{batch}"

    @classmethod
    def of(cls, path: Path, content: Mapping[str, Any]) -> ResumePoint:
        """Raises `UserError` where the checkpoint of these contents has not got the state of a training."""
        try:
            loop = content["loops"]["fit_loop"]
            epoch = int(loop["epoch_progress"]["current"]["processed"])
            between = content[RUN_STATE]["between_epochs"]
            batch = 0 if between else int(loop["epoch_loop.batch_progress"]["current"]["ready"])
            callbacks = content.get("callbacks", {})
            fingerprint = callbacks.get(CHECKPOINTS_CALLBACK, {}).get("fingerprint")
            seconds = float(callbacks[TIMER]["time_elapsed"]["train"]) if TIMER in callbacks else None
            step, model = int(content[STEP]), content[CARD]["model"]
            return cls(path, step, epoch, batch, model, fingerprint, seconds, content[RUN_STATE])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not a checkpoint that training can be resumed from ({error!r})") from None

    def weights(self) -> dict[str, Any]:
        """Returns what validation and test use: the averaged weights, where the weights are averaged."""
        weights: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)[WEIGHTS]
        return weights
