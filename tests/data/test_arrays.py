"""Cached arrays: read if intact, created again otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_exp.data.arrays import Arrays, map_arrays

NAMES = ("images", "labels")


@pytest.fixture
def make() -> Callable[[], Arrays]:
    made: list[Arrays] = []

    def once_more() -> Arrays:
        made.append({"images": np.arange(1000, dtype=np.uint8).reshape(10, 100), "labels": np.arange(10)})
        return made[-1]

    once_more.made = made  # type: ignore[attr-defined]
    return once_more


def read(folder: Path, make: Callable[[], Arrays]) -> int:
    """Reads the arrays, checks them, and returns how often they have been created."""
    arrays, note = map_arrays(folder, "stem", NAMES, make)
    assert note == ""
    assert np.array_equal(arrays["images"], np.arange(1000, dtype=np.uint8).reshape(10, 100))
    assert np.array_equal(arrays["labels"], np.arange(10))
    return len(make.made)  # type: ignore[attr-defined]


def test_arrays_are_created_once_as_plain_npy_files(tmp_path: Path, make: Callable[[], Arrays]) -> None:
    assert [read(tmp_path, make) for _ in range(3)] == [1, 1, 1]
    assert np.array_equal(np.load(tmp_path / "stem-labels.npy"), np.arange(10))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [0, 20, 128, 150, -5, -1])
def test_flipped_bit_is_detected(tmp_path: Path, make: Callable[[], Arrays], name: str, at: int) -> None:
    read(tmp_path, make)
    path = tmp_path / f"stem-{name}.npy"
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)
    assert read(tmp_path, make) == 2


@pytest.mark.parametrize("left", [0, 3, 100, 130, -5, -4, -1])
def test_truncated_file_is_detected(tmp_path: Path, make: Callable[[], Arrays], left: int) -> None:
    read(tmp_path, make)
    path = tmp_path / "stem-images.npy"
    path.write_bytes(path.read_bytes()[:left])
    assert read(tmp_path, make) == 2


def test_read_only_folder_is_reported(tmp_path: Path, make: Callable[[], Arrays]) -> None:
    (tmp_path / "file").touch()
    arrays, note = map_arrays(tmp_path / "file", "stem", NAMES, make)
    assert "is not writable" in note
    assert np.array_equal(arrays["labels"], np.arange(10))
