"""CIFAR-10 for both sides: as words of our command line, and as the .npz file that the Keras script reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from alexnet_exp.config.compose import compose
from alexnet_exp.config.validate import validate
from alexnet_exp.data.source import open_source
from alexnet_exp.data.split import Source, Split
from alexnet_exp.errors import UserError
from benchmarks.rows import Missing


def overrides(cifar: Path | None) -> list[str]:
    """The images below `cifar` (train/CLASS/*, test/CLASS/*); without it those that the project downloads."""
    return ["data=cifar10"] if cifar is None else ["data=folder", f"data.root={cifar}"]


def opened(cifar: Path | None) -> Source:
    """All 50,000 training images and the test images. Raises `Missing` where they cannot be had."""
    config = validate(compose([*overrides(cifar), "data.val=none"]))
    try:
        return open_source(config.data, seed=1)
    except UserError as error:
        raise Missing(f"{error}; or --cifar FOLDER with train/CLASS/* and test/CLASS/*") from error


def npz(path: Path, cifar: Path | None) -> Path:
    """`path`, written if it is not there: x_train, y_train, x_test, y_test as keras.datasets would give them."""
    if not path.exists():
        source = opened(cifar)
        assert source.test is not None
        (x_train, y_train), (x_test, y_test) = _arrays(source.train), _arrays(source.test)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def _arrays(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 32, 32, 3], in a mixed order (a folder has one class after another), and int64 [N]."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    return split.images(order).permute(0, 2, 3, 1).numpy(), split.labels[order].numpy()
