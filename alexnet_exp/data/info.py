"""Provides classes, channels and sizes of a data source before any image is loaded. Does not import torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from alexnet_exp.data.formats import open_picture
from alexnet_exp.data.image_files import FolderLayout, find_layout, list_files, reject_heic_name
from alexnet_exp.data.imagenet import class_names, find_imagenet
from alexnet_exp.data.spec import Cifar10, Cifar100, Data, Digits, Folder, ImageNet, Random
from alexnet_exp.errors import Problem, Refused, UserError, nearest_name, one_line

# Images up to this side are decoded once and kept in memory; larger ones are read from their files in every epoch.
RESIDENT_SIDE_PIXELS = 64
DEFAULT_SIDE_PIXELS = 256  # stored side of larger images
SAMPLED_HEADERS = 32  # files per split whose size is read
MOST_REPORTED_FILES = 20  # unreadable files in one error message

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class DataInfo:
    """What a network is built from.

    size: side of the stored images in pixels. input_size, width: the values of a network that leaves them null.
    note: remark for the log.
    """

    classes: list[str]
    channels: int
    size: int
    input_size: int
    width: float = 1.0
    note: str = ""


# Example for error messages: the facts of a user's data module, as a line of its YAML.
DATA_INFO_EXAMPLE = "facts: {classes: 10, channels: 3, size: 32}"


def parse_data_info(node: Any, key: str) -> DataInfo:
    """Returns the info in a mapping of `classes` (a number or a list of names), `channels` and `size` (pixels).

    Raises `Refused`, with settings under `key`, for anything else.
    """
    known = ("classes", "channels", "size")
    if not isinstance(node, Mapping):
        raise Refused([Problem(key, node, f"must be a group of settings, such as {DATA_INFO_EXAMPLE}")])
    problems = []
    for name in map(str, node):
        if name not in known:
            near = nearest_name(name, known)
            advice = f"did you mean {near}?" if near else f"the settings are {', '.join(known)}"
            problems.append(Problem(f"{key}.{name}", node[name], f"unknown setting; {advice}"))
    classes, channels, size = (node.get(name) for name in known)
    named = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    count = len(classes) if named else classes  # type: ignore[arg-type]
    if not _is_integer(count, 2):
        problems.append(Problem(f"{key}.classes", classes, "must be a number of at least 2, or a list of names"))
    for name, value in (("channels", channels), ("size", size)):
        if not _is_integer(value, 1):
            problems.append(Problem(f"{key}.{name}", value, "must be a whole number of at least 1"))
    if problems:
        raise Refused(problems)
    names = list(classes) if named else [str(index) for index in range(count)]  # type: ignore[arg-type]
    return DataInfo(names, channels, size, size)  # type: ignore[arg-type]


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def data_info(spec: Data) -> DataInfo:
    """Returns the info of the source of `spec`. It may list a folder and read the headers of some images.

    Raises UserError, one line, for an unusable folder or a crop larger than the images.
    """
    width, note = 1.0, ""
    if isinstance(spec, Digits):
        classes, channels, size = [str(digit) for digit in range(10)], 1, spec.size
        width, note = 0.25, "a quarter of AlexNet's width is enough for 1,797 digits"
    elif isinstance(spec, Cifar10):
        classes, channels, size = CIFAR10_CLASSES, 3, 32
    elif isinstance(spec, Cifar100):
        classes, channels, size = CIFAR100_NAMES.split(), 3, 32
    elif isinstance(spec, Random):
        classes, channels, size = [str(label) for label in range(spec.classes)], spec.channels, spec.size
    elif isinstance(spec, ImageNet):
        classes, channels, size = class_names(spec, find_imagenet(spec)), 3, spec.size
    elif isinstance(spec, Folder):
        layout = find_layout(spec.root)
        classes, channels, size = layout.classes, 3, stored_side(spec, layout)
        note = "" if layout.test else "no test folder, so no test images"
    else:
        raise TypeError(f"{type(spec).__name__} is not one of the sources in data/spec.py")
    check_crop(spec, size)
    return DataInfo(list(classes), channels, size, spec.crop or _default_input(size, spec), width, note)


def check_crop(spec: Data, size: int) -> None:
    """Raises UserError if `spec.crop` is larger than `size`, the stored side in pixels."""
    if spec.crop is not None and spec.crop > size:
        raise UserError(f"data.crop={spec.crop}: the images are stored at {size}x{size}; write at most {size}")


def stored_side(spec: Folder, layout: FolderLayout) -> int:
    """Returns the stored side of a folder's images in pixels (see `Folder.size`), by the headers of some images."""
    if spec.size is not None:
        return spec.size
    try:
        sizes = {_image_size(path) for path in _sample_paths(layout.train, layout)}
    except UserError as first:
        _raise_unreadable(layout, first)
    side = min(next(iter(sizes)))
    return side if len(sizes) == 1 and side <= RESIDENT_SIDE_PIXELS else DEFAULT_SIDE_PIXELS


def _sample_paths(folder: Path, layout: FolderLayout) -> list[Path]:
    """Returns the paths of about `SAMPLED_HEADERS` evenly spaced images of a split; of all if there are few."""
    names = list_files(folder, layout.classes).names
    return [folder / name for name in names[:: max(1, len(names) // SAMPLED_HEADERS)]]


def _raise_unreadable(layout: FolderLayout, first: UserError) -> NoReturn:
    """Raises one UserError with a line for each unreadable image among the sampled ones of all splits."""
    lines = []
    for folder in (layout.train, layout.val, layout.test):
        for path in _sample_paths(folder, layout) if folder else ():
            try:
                _image_size(path, whole=True)
            except UserError as error:
                lines.append(str(error))
    raise UserError("\n".join(lines[:MOST_REPORTED_FILES]) or str(first)) from first


def _default_input(size: int, spec: Data) -> int:
    """Returns the input size for stored side `size`: 7/8 of it (224 of 256, as in the paper), small images whole."""
    return size if size <= RESIDENT_SIDE_PIXELS or isinstance(spec, Random) else size * 7 // 8


def _image_size(path: Path, whole: bool = False) -> tuple[int, int]:
    """Returns width and height by the header. whole: decodes the pixels too, because a file may be truncated."""
    from PIL import Image

    reject_heic_name(path)
    try:
        # Pillow warns from half of its pixel limit on
        with warnings.catch_warnings(action="ignore"), open_picture(path) as image:
            if whole:
                image.load()
            return image.size
    except Image.DecompressionBombError as error:
        many = str(error).partition(",")[0]  # "Image size (N pixels) exceeds limit of M pixels"
        raise UserError(f"{one_line(path)}: {many}; reduce its size or remove it") from error
    # Pillow raises many types for a damaged header
    except Exception as error:
        raise UserError(f"{one_line(path)}: unreadable image; replace or remove it") from error
