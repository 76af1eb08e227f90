"""Small image folders for the tests of data sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolates the tests from the user's home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KERAS_HOME", raising=False)


@pytest.fixture
def make_images() -> Callable[..., Path]:
    """`make_images(folder, {"cat": 3, "dog": 2}, size=(32, 32))`: lossless PNGs of noise, one folder per class."""

    def make(folder: Path, counts: dict[str, int], size: tuple[int, int] = (32, 32), seed: int = 0) -> Path:
        random = np.random.default_rng(seed)
        for name, count in counts.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{i:03}.png")
        return folder

    return make
