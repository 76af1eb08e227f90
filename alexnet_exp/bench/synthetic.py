"""Replaces data that are not on this machine with random images, so that speed can be measured without a download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_exp.config.schema import Config
from alexnet_exp.data.cifar import is_available
from alexnet_exp.data.info import data_info
from alexnet_exp.data.spec import Cifar, Data, ImageNet

MAX_BYTES = 64 << 20  # of the random images
IMAGENET_CLASSES = 1000


def stand_in(config: Config, container: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Returns the configuration with random images of the data's shape, and a line that reports it.

    If the data exist, or their shape is unknown without them, the configuration is unchanged and the line empty.
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
        "n": max(64, min(50_000, MAX_BYTES // (3 * size * size))),
        "crop": crop,
        "subset": None,
        "val": "test" if spec.has_val else "none",  # callbacks that monitor the validation set need one
        "pca": "none" if str(spec.pca) == "none" else "imagenet",  # no principal components of noise
    }
    decoding = ", so decoding is not measured" if isinstance(spec, ImageNet) else ""
    line = f"data={spec.name} is not on this machine; random images of {size}x{size} from memory replace it{decoding}"
    return {**container, "data": kept | made}, line
