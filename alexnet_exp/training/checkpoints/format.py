"""Provides the format of a checkpoint: its keys, reading one, and checking that it is one of a run."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alexnet_exp.config.user_class import TARGET
from alexnet_exp.data.decode import MOST_PIXELS
from alexnet_exp.errors import UserError
from alexnet_exp.model.weights import read_file
from alexnet_exp.runs import checksum
from alexnet_exp.runs.folder import flatten

CARD = "alexnet_exp"  # key of the checkpoint's card: what a program needs to use the network without the run
CARD_FORMAT = 1
STANDING = "alexnet_exp_standing"  # key of the training state that Lightning does not save
MOST_CHANNELS = 1 << 16
LARGEST_SIDE = math.isqrt(MOST_PIXELS)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours as plain containers and tensors; refuses a damaged file and one of another program."""
    checksum.verify(path)
    content = read_file(path)
    card = content.get(CARD)
    if not isinstance(card, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path}: not a checkpoint of a run; weights alone are loaded by model.weights=FILE")
    if card.get("format") != CARD_FORMAT:
        raise UserError(f"{path}: format {card.get('format')}, this version reads {CARD_FORMAT}")
    wrong = [key for key, right in _card_checks(card) if not right]
    if wrong:
        value = textwrap.shorten(repr(card.get(wrong[0])), 60, placeholder="...")
        raise UserError(f"{path}: no checkpoint of a run has {wrong[0]} {value}; the file is damaged or was changed")
    if not all(isinstance(key, str) for key in content["state_dict"]):
        raise UserError(f"{path}: no checkpoint of a run has weights without names; the file is damaged or was changed")
    return content


def _card_checks(card: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Each entry of a checkpoint's card, and whether it can be right: sizes get as far as native code."""
    model, classes, size = card.get("model"), card.get("classes"), card.get("input_size")
    yield "model", isinstance(model, dict) and all(isinstance(key, str) for key in model)
    yield (
        "classes",
        isinstance(classes, list) and bool(classes) and all(isinstance(each, str | int) for each in classes),
    )
    yield "in_channels", _is_size(card.get("in_channels"), MOST_CHANNELS)
    own = isinstance(model, dict) and TARGET in model
    unknown = own and size is None  # of a network and data of the user's
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

    What `ours` leaves open (null) came from the data, and `weights` says only where training began.
    """
    there, here = flatten(theirs), flatten(ours)
    for key in sorted((there.keys() | here.keys()) - {"weights"}):
        if here.get(key) is not None and there.get(key) != here[key]:
            said = f"model.{key} is {there.get(key)} there and {here[key]} here"
            raise UserError(f"{file}: a checkpoint of another network than that of {run}: {said}")
