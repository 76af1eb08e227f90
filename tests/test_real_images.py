"""The data package on real images: CIFAR-10 re-encoded as JPEG, and ImageNet photographs as published.

They lie beside the project where it is developed (the environment variable names the folder) and are not part of it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_exp.__main__ import main
from alexnet_exp.data.decode import read_image
from alexnet_exp.data.source import open_source
from alexnet_exp.data.spec import Decode, Folder, ImageNet, Val
from alexnet_exp.data.split import ResidentSplit, StreamedSplit
from tests import devkit

FOLDER = os.environ.get("ALEXNET_EXP_SHARED", "")

pytestmark = pytest.mark.slow


def unpacked(name: str, folder: Path) -> Path:
    archive = Path(FOLDER) / name
    if not FOLDER or not archive.exists():
        pytest.skip(f"{name} is not here: ALEXNET_EXP_SHARED names the folder that has it")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("cifar10-jpeg.tar", tmp_path_factory.mktemp("cifar"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("imagenet-samples.tar", tmp_path_factory.mktemp("imagenet")) / "imagenet-samples"


def test_cifar_folder_is_resident_and_decoded_once(cifar: Path, tmp_path: Path) -> None:
    spec = Folder(root=str(cifar), cache=str(tmp_path), val=Val.test)
    first, again = open_source(spec, seed=1), open_source(spec, seed=2)
    assert isinstance(first.train, ResidentSplit)
    assert (len(first.train), len(first.test or ())) == (50_000, 10_000)
    assert first.train.labels.bincount().tolist() == [5_000] * 10
    assert first.fingerprint == again.fingerprint
    measured = first.train.statistics()
    # published values of the official pixels: 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7; JPEG changes them slightly
    np.testing.assert_allclose(measured.channel_mean.numpy(), [125.3, 123.0, 113.9], atol=0.5)
    np.testing.assert_allclose(measured.channel_std.numpy(), [63.0, 62.1, 66.7], atol=1.0)


def test_photographs_equal_pillow(photographs: Path) -> None:
    files = sorted(photographs.rglob("*.JPEG"))
    assert len(files) == 200
    largest, mean = 0, 0.0
    for file in files:
        ours = read_image(file, 256).numpy().astype(int)
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        sides = [side * 256 // min(upright.size) for side in upright.size]
        resized = upright.resize(sides, Image.Resampling.BILINEAR)
        left, top = (round((side - 256) / 2) for side in resized.size)
        theirs = np.asarray(resized.crop((left, top, left + 256, top + 256))).transpose(2, 0, 1)
        difference = np.abs(ours - theirs.astype(int))
        largest, mean = max(largest, difference.max()), max(mean, difference.mean())
    # on 0..255; the mean of the photograph with the largest difference
    assert largest <= 1
    assert mean < 0.02


def test_photographs_are_streamed_and_trained_on(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(Folder(root=str(photographs), decode=Decode.always), seed=1)
    assert isinstance(source.train, StreamedSplit)
    assert len(source.classes) == 200
    monkeypatch.chdir(tmp_path)
    small = ["model=lrn", "model.width=0.125", "data.batch_size=16", "data.workers=2", "data.decode=always"]
    assert main(["check", "data=folder", f"data.root={photographs}", "data.val=none", *small]) == 0
    assert capsys.readouterr().out.startswith("ok: AlexNet")
    assert not multiprocessing.active_children(), "the workers are left, in the middle of an epoch"


@pytest.fixture(scope="module")
def imagenet(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs in ImageNet's layout: train/WNID/*, a flat val/ of the same ones, and a matching devkit.

    The kit's IDs and the numbers of the validation images are in an order of their own, as the official ones are.
    """
    root = tmp_path_factory.mktemp("root")
    files = {file.parent.name: file for file in photographs.rglob("*.JPEG")}
    wnids = sorted(files)
    by_id, by_number = random.Random(1).sample(wnids, len(wnids)), random.Random(2).sample(wnids, len(wnids))
    (root / "val").mkdir()
    for number, wnid in enumerate(by_number, 1):
        (root / "train" / wnid).mkdir(parents=True)
        shutil.copy(files[wnid], root / "train" / wnid)
        shutil.copy(files[wnid], root / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    words = [(wnid, files[wnid].stem.partition("_")[2].replace("_", " ")) for wnid in by_id]
    labels = devkit.truth([by_id.index(wnid) + 1 for wnid in by_number])
    devkit.as_folder(root, devkit.meta(words, images=1), labels)
    return root


def test_flat_val_folder_gets_the_labels_of_its_photographs(imagenet: Path) -> None:
    source = open_source(ImageNet(root=str(imagenet), size=64, decode=Decode.always), seed=1)
    assert isinstance(source.train, StreamedSplit)
    assert isinstance(source.test, StreamedSplit)
    trained = {
        Path(path).read_bytes(): int(label) for path, label in zip(source.train.paths, source.train.labels, strict=True)
    }
    tested = {
        Path(path).read_bytes(): int(label) for path, label in zip(source.test.paths, source.test.labels, strict=True)
    }
    # val/ has the same photographs with other names: equal bytes, equal labels
    assert len(trained) == 200
    assert trained == tested


def test_imagenet_end_to_end(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small experiment=imagenet_paper: training, test on ten views, evaluation, prediction for a photograph."""
    monkeypatch.chdir(tmp_path)
    small = ["model.num_classes=200", "model.width=0.05", "data.batch_size=50", "trainer.max_epochs=1", "trainer=cpu"]
    assert main(["experiment=imagenet_paper", f"data.root={imagenet}", f"data.cache={tmp_path}", *small]) == 0
    trained = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["eval", trained["run"]]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["views"] == 10
    assert again["metrics"] == {key: value for key, value in trained["metrics"].items() if key.startswith("test/")}
    assert again["centre"]["test/loss"] != again["metrics"]["test/loss"]
    photograph = next((imagenet / "train" / "n01494475").iterdir())
    assert main(["predict", trained["run"], str(photograph), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    names = [answer["class"] for answer in json.loads(line)["top"]]
    words = {folder.name: next(folder.iterdir()).stem.partition("_")[2] for folder in (imagenet / "train").iterdir()}
    assert len(names) == 5
    assert all(name == f"{name[:9]} {words[name[:9]].replace('_', ' ')}" for name in names)
