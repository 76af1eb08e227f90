"""The data rooms on real images: CIFAR-10 re-encoded as JPEG, and ImageNet photographs as published.

They lie beside the project where it is developed (the environment variable names the folder) and are not part of it.
"""

from __future__ import annotations

import multiprocessing
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_exp.__main__ import main
from alexnet_exp.data.images import read_image
from alexnet_exp.data.source import open_source
from alexnet_exp.data.spec import Folder, Val
from alexnet_exp.data.split import Resident, Streamed

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


def test_cifar_as_a_folder_is_held_in_memory_and_decoded_once(cifar: Path, tmp_path: Path) -> None:
    spec = Folder(root=str(cifar), cache=str(tmp_path), val=Val.test)
    first, again = open_source(spec, seed=1), open_source(spec, seed=2)
    assert isinstance(first.train, Resident)
    assert (len(first.train), len(first.test or ())) == (50_000, 10_000)
    assert first.train.labels.bincount().tolist() == [5_000] * 10
    assert first.fingerprint == again.fingerprint
    measured = first.train.statistics()
    # what is published of the official pixels: 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7; JPEG moves them a little
    np.testing.assert_allclose(measured.channel_mean.numpy(), [125.3, 123.0, 113.9], atol=0.5)
    np.testing.assert_allclose(measured.channel_std.numpy(), [63.0, 62.1, 66.7], atol=1.0)


def test_every_photograph_is_read_as_pil_reads_it(photographs: Path) -> None:
    files = sorted(photographs.rglob("*.JPEG"))
    assert len(files) == 200
    worst = []
    for file in files[::8]:
        ours = read_image(file, 256).numpy()
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        scale = 256 / min(upright.size)
        resized = upright.resize([max(256, round(side * scale)) for side in upright.size], Image.Resampling.BILINEAR)
        left, top = ((side - 256) // 2 for side in resized.size)
        theirs = np.asarray(resized.crop((left, top, left + 256, top + 256))).transpose(2, 0, 1)
        worst.append(np.abs(ours.astype(int) - theirs.astype(int)).mean())
    assert np.median(worst) < 1.5, worst


def test_photographs_are_streamed_and_trained_on(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(Folder(root=str(photographs)), seed=1)
    assert isinstance(source.train, Streamed)
    assert len(source.classes) == 200
    monkeypatch.chdir(tmp_path)
    small = ["model=lrn", "model.width=0.125", "data.batch_size=16", "data.workers=2"]
    assert main(["check", "data=folder", f"data.root={photographs}", "data.val=none", *small]) == 0
    assert capsys.readouterr().out.startswith("ok: AlexNet")
    assert not multiprocessing.active_children(), "the workers are left, in the middle of an epoch"
