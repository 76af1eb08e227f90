"""Validation and test images of every kind of source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from alexnet_exp.data.source import open_source
from alexnet_exp.data.spec import Decode, Digits, Folder, Random, Val
from alexnet_exp.data.split import Source, Split, StreamedSplit
from alexnet_exp.errors import UserError

MakeImages = Callable[..., Path]


def pixels(split: Split | None) -> set[bytes]:
    """Returns the bytes of each image, to compare images."""
    assert split is not None
    return {image.numpy().tobytes() for image in split.images(torch.arange(len(split)))}


def folder(root: Path, seed: int = 1, **settings: object) -> Source:
    return open_source(Folder(root=str(root), **settings), seed)  # type: ignore[arg-type]


def test_digits_equal_those_of_scikit_learn() -> None:
    source = open_source(Digits(size=8), seed=1)
    assert source.val is not None
    assert source.test is not None
    assert (len(source.train) + len(source.val), len(source.test)) == (1437, 360)
    # before the split, as sets of (pixels, label)
    data, targets = load_digits(return_X_y=True)
    wanted = sorted(
        (np.round(d * 255 / 16).astype(np.uint8).tobytes(), int(t)) for d, t in zip(data, targets, strict=True)
    )
    got = [
        (image.numpy().tobytes(), int(label))
        for split in (source.train, source.val, source.test)
        for image, label in zip(split.images(torch.arange(len(split))), split.labels, strict=True)
    ]
    assert sorted(got) == wanted
    assert source.test.images(torch.tensor([0])).max() == 255


def test_digits_are_resized_and_the_test_set_is_stratified() -> None:
    source = open_source(Digits(), seed=1)
    assert source.train.shape == (1, 32, 32)
    assert source.test is not None
    per_class = torch.bincount(source.test.labels)
    assert 35 <= per_class.min() <= per_class.max() <= 37


def test_seed_affects_only_the_validation_split() -> None:
    one, again, two = (open_source(Digits(size=8), seed) for seed in (1, 1, 2))
    assert pixels(one.val) == pixels(again.val) != pixels(two.val)
    assert pixels(one.train).isdisjoint(pixels(one.val))
    assert pixels(one.test) == pixels(two.test)
    assert one.fingerprint == two.fingerprint != open_source(Digits(size=9), 1).fingerprint


def test_validation_split_is_stratified() -> None:
    source = open_source(Digits(size=8, val_fraction=0.25), seed=1)
    assert source.val is not None
    train, val = torch.bincount(source.train.labels), torch.bincount(source.val.labels)
    assert ((val / (train + val)) - 0.25).abs().max() < 0.01


def test_validation_on_the_test_set_or_none() -> None:
    tutorial = open_source(Digits(size=8, val=Val.test), seed=1)
    assert (len(tutorial.train), tutorial.val) == (1437, tutorial.test)
    none = open_source(Digits(size=8, val=Val.none), seed=1)
    assert (len(none.train), none.val) == (1437, None)


def test_subset_of_the_training_images_is_stratified() -> None:
    whole, part = (open_source(Digits(size=8, subset=subset), seed=1) for subset in (None, 100))
    assert len(part.train) == 100
    assert pixels(part.train) <= pixels(whole.train)
    assert pixels(part.val) == pixels(whole.val)
    assert set(torch.bincount(part.train.labels).tolist()) <= {9, 10, 11}
    assert any("subset of 100" in note for note in part.notes)


def test_random_source_is_deterministic() -> None:
    spec = Random(size=6, channels=1, classes=3, n=16)
    one, two = open_source(spec, seed=1), open_source(spec, seed=2)
    assert one.fingerprint == two.fingerprint
    assert one.train.shape == (1, 6, 6)
    assert one.test is not None
    assert len(one.test) == 2


def test_folder_of_classes_has_validation_and_no_test_set(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 10, "dog": 20})
    source = folder(tmp_path)
    assert source.val is not None
    assert torch.bincount(source.val.labels).tolist() == [1, 2]
    assert torch.bincount(source.train.labels).tolist() == [9, 18]
    assert source.test is None
    assert "no test folder, so no test images" in source.notes
    with pytest.raises(UserError, match=r"data\.val=test: the data has no test images"):
        folder(tmp_path, val=Val.test)


def test_class_with_one_image_prevents_validation(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 5, "dog": 1})
    source = folder(tmp_path)
    assert (source.val, len(source.train)) == (None, 6)
    assert "one image only" in source.val_from


def test_val_and_test_folders_are_used(tmp_path: Path, make_images: MakeImages) -> None:
    for seed, (part, count) in enumerate({"train": 4, "val": 3, "test": 2}.items()):
        make_images(tmp_path / part, {"cat": count, "dog": count}, seed=seed)
    source = folder(tmp_path)
    assert [len(split or []) for split in (source.train, source.val, source.test)] == [8, 6, 4]
    assert source.val_from == "the val folder"
    assert folder(tmp_path, val=Val.none).val is None
    tutorial = folder(tmp_path, val=Val.test)
    assert pixels(tutorial.val) == pixels(source.test)


def test_val_folder_is_the_test_set_with_val_test(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {"cat": 2, "dog": 2})
    make_images(tmp_path / "val", {"cat": 1, "dog": 1}, seed=1)
    source = folder(tmp_path)
    assert source.test is None
    assert any("data.val=test uses val/ as test set" in note for note in source.notes)
    both = folder(tmp_path, val=Val.test)
    assert pixels(both.test) == pixels(both.val) == pixels(source.val)


@pytest.mark.parametrize("header", [False, True])
def test_error_names_unreadable_files_of_all_splits(tmp_path: Path, make_images: MakeImages, header: bool) -> None:
    """Also if the first of them is found while the headers are read for the size."""
    for seed, part in enumerate(("train", "valid", "test")):
        make_images(tmp_path / part, {"cat": 4, "dog": 4}, seed=seed)
    cut = tmp_path / "test" / "dog" / "002.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    (tmp_path / "valid" / "cat" / "001.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    bad = ["valid/cat/001.png", "test/dog/002.png"]
    if header:
        (tmp_path / "train" / "cat" / "000.png").write_bytes(b"broken")
        bad = ["train/cat/000.png", *bad]
    with pytest.raises(UserError) as error:
        folder(tmp_path)
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [str(tmp_path / name) for name in bad]


def test_log_names_the_validation_folder(tmp_path: Path, make_images: MakeImages) -> None:
    for part in ("train", "Valid"):
        make_images(tmp_path / part, {"cat": 2, "dog": 2})
    source = folder(tmp_path)
    assert source.val_from == "the Valid folder"
    assert any("data.val=test uses Valid/ as test set" in note for note in source.notes)


def test_large_images_are_streamed_and_an_unreadable_one_is_named(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"cat": 3, "dog": 3}, (70, 80))
    source = folder(tmp_path, size=66, decode=Decode.always)
    assert isinstance(source.train, StreamedSplit)
    assert source.train.images(torch.tensor([0, 1])).shape == (2, 3, 66, 66)
    (tmp_path / "cat" / "000.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"cat.000\.png: unreadable image"):
        folder(tmp_path, size=66, decode=Decode.always, val=Val.none).train.images(torch.tensor([0]))
