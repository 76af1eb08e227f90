"""Splits: their images, statistics against numpy, and fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_exp.data import split as split_module
from alexnet_exp.data.split import ResidentSplit, StreamedSplit, fingerprint

PIXELS = torch.randint(0, 256, (10, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 3


@pytest.fixture
def streamed(tmp_path: Path, make_images: Callable[..., Path]) -> StreamedSplit:
    folder = make_images(tmp_path / "images", {"a": 4, "b": 3}, (8, 8))
    return StreamedSplit([str(p) for p in sorted(folder.rglob("*.png"))], torch.tensor([0] * 4 + [1] * 3), 8)


def test_selection_of_a_resident_split_shares_its_pixels() -> None:
    whole = ResidentSplit(PIXELS, LABELS)
    part = whole.select(torch.tensor([7, 2, 5])).select(torch.tensor([2, 0]))
    assert part.array.data_ptr() == PIXELS.data_ptr()
    assert (len(part), part.labels.tolist(), part.shape) == (2, [2, 1], (3, 4, 5))
    assert torch.equal(part.images(torch.tensor([1, 0, 1])), PIXELS[[7, 5, 7]])


def test_with_array_uses_another_copy_of_the_pixels() -> None:
    part = ResidentSplit(PIXELS, LABELS).select(torch.tensor([7, 2]))
    moved = part.with_array(255 - PIXELS)
    assert torch.equal(moved.images(torch.arange(2)), 255 - PIXELS[[7, 2]])
    assert moved.labels.tolist() == [1, 2]


def test_streamed_images_equal_the_files(streamed: StreamedSplit) -> None:
    part = streamed.select(torch.tensor([6, 0]))
    expected = np.stack([np.array(Image.open(streamed.paths[i])).transpose(2, 0, 1) for i in (0, 6)])
    assert np.array_equal(part.images(torch.tensor([1, 0])), expected)
    assert (part.labels.tolist(), part.shape) == ([1, 0], (3, 8, 8))


@pytest.mark.parametrize("rows", [list(range(10)), [3, 1, 4]])
def test_statistics_equal_numpy(rows: list[int]) -> None:
    exact = PIXELS.numpy()[rows].astype(np.float64)
    moments = ResidentSplit(PIXELS, LABELS).select(torch.tensor(rows)).statistics()
    assert np.allclose(moments.channel_mean, exact.mean((0, 2, 3)))
    assert np.allclose(moments.channel_std, exact.std((0, 2, 3)))
    assert np.allclose(moments.pixel_mean, exact.mean(0))
    assert {m.dtype for m in moments} == {torch.float32}


def test_statistics_of_more_than_one_chunk() -> None:
    large = torch.randint(0, 256, (70, 3, 300, 300), dtype=torch.uint8)
    moments = ResidentSplit(large, torch.zeros(70, dtype=torch.int64)).statistics()
    assert np.allclose(moments.channel_std, large.numpy().astype(np.float64).std((0, 2, 3)))


def test_statistics_of_files_come_from_evenly_spaced_ones(
    streamed: StreamedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = streamed.images(torch.arange(7)).double()
    assert np.allclose(streamed.statistics().pixel_mean, whole.mean(0))
    monkeypatch.setattr(split_module, "STATISTICS_SAMPLE", 3)
    assert np.allclose(streamed.statistics().pixel_mean, whole[[0, 3, 6]].mean(0))


def test_fingerprint_differs_for_different_data() -> None:
    base = fingerprint(ResidentSplit(PIXELS, LABELS), ResidentSplit(PIXELS, LABELS))
    assert base == fingerprint(
        ResidentSplit(PIXELS.clone(), LABELS.clone()), ResidentSplit(PIXELS.clone(), LABELS.clone())
    )
    changed = PIXELS.clone()
    changed[9, 2, 3, 4] ^= 1
    others = {
        fingerprint(ResidentSplit(changed, LABELS), ResidentSplit(PIXELS, LABELS)),
        fingerprint(ResidentSplit(PIXELS, LABELS), ResidentSplit(changed, LABELS)),
        fingerprint(ResidentSplit(PIXELS, LABELS.flip(0)), ResidentSplit(PIXELS, LABELS)),
        fingerprint(ResidentSplit(PIXELS.view(10, 3, 5, 4), LABELS), ResidentSplit(PIXELS, LABELS)),
        fingerprint(ResidentSplit(PIXELS, LABELS), None),
    }
    assert len(others | {base}) == 6


def test_fingerprint_of_files_uses_names_and_sizes(streamed: StreamedSplit, tmp_path: Path) -> None:
    before = fingerprint(streamed, None)
    (tmp_path / "images").rename(tmp_path / "moved")
    paths = [path.replace("/images/", "/moved/") for path in streamed.paths]
    moved = StreamedSplit(paths, streamed.labels, 8)
    assert fingerprint(moved, None) == before
    with Path(paths[0]).open("ab") as file:
        file.write(b"\0")
    assert fingerprint(StreamedSplit(paths, streamed.labels, 8), None) != before
    assert fingerprint(moved, None) == before, "of the files at the time of listing"
