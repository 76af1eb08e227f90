"""Random images in place of data that is not there: a speed can be measured all the same, and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_exp.config.schema import Config
from alexnet_exp.data.cifar import is_available
from alexnet_exp.data.info import data_info
from alexnet_exp.data.spec import Cifar, Data, ImageNet

BYTES = 64 << 20  # of the images that are made
IMAGENET_CLASSES = 1000


def stand_in(config: Config, container: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The composed configuration with random images of the data's shape, and a line that says so.

    As it is, and an empty line, where the data is there, and where it does not tell its shape before it is.
    """
    spec = config.data
    if isinstance(spec, Cifar) and not is_available(spec):
        known = data_info(spec)
        size, classes, crop = known.size, len(known.classes), spec.crop
    elif isinstance(spec, ImageNet) and not (spec.root and Path(spec.root).is_dir()):
        size, classes, crop = spec.size, IMAGENET_CLASSES, spec.crop or spec.size * 7 // 8
    else:
        return dict(container), ""
    kept = {key: value for key, value in container["data"].items() if key in Data.__dataclass_fields__}
    made = {
        "name": "random",
        "size": size,
        "channels": 3,
        "classes": classes,
        "n": max(64, min(50_000, BYTES // (3 * size * size))),
        "crop": crop,
        "subset": None,
        "val": "test" if spec.has_val else "none",  # what monitors the validation finds one
        "pca": "none" if str(spec.pca) == "none" else "imagenet",  # nothing is fitted to noise
    }
    decoding = ", so decoding is not measured" if isinstance(spec, ImageNet) else ""
    line = f"data={spec.name} is not here: random images of {size}x{size} in its place, from memory{decoding}"
    return {**container, "data": kept | made}, line
