"""Tests of the checks that need open data."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from alexnet_exp.config.compose import compose
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import Refused
from alexnet_exp.model.whitening import whitening_filters
from alexnet_exp.training.build import build, open_data, prepare
from alexnet_exp.training.datamodule import ImageData
from tests.conftest import TINY


@pytest.fixture
def unsplittable(tmp_path: Path) -> tuple[str, ...]:
    """A folder of two classes, one of a single image, as the data of a small network."""
    for name, shade in (("cat/1", 10), ("cat/2", 90), ("dog/1", 200)):
        file = tmp_path / "photos" / "train" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (shade,) * 3).save(file)
    own = (f"data.root={tmp_path / 'photos'}", f"data.cache={tmp_path / 'cache'}", "data.size=64")
    return ("data=folder", *own, "model.width=0.02", "trainer=cpu")


@pytest.mark.parametrize(
    ("overrides", "key", "instead"),
    [
        (("callbacks=early_stopping",), "callbacks.early_stopping.monitor=val/top1", "train/top1"),
        (("schedule=plateau",), "schedule.monitor=val/loss", "train/loss"),
    ],
)
def test_monitoring_an_impossible_validation_is_rejected(
    unsplittable: tuple[str, ...], overrides: tuple[str, ...], key: str, instead: str
) -> None:
    experiment = build(validate(compose([*unsplittable, *overrides])))
    with pytest.raises(Refused) as refused:
        prepare(experiment)
    reason = "the run has no validation: a class has one image only, too few to split"
    assert str(refused.value) == f"{key}: {reason}; monitor {instead}"


@pytest.mark.parametrize(
    ("setting", "replicas", "told"),
    [
        ("limit_train_batches=0.3", 1, "is less than one of the 3 train batches; write a number of batches, such as 1"),
        ("limit_val_batches=0.1", 1, "is less than one of the 5 val batches; write a number of batches, such as 1"),
        ("limit_test_batches=0.01", 1, "is less than one of the 12 test batches; write a number of batches, such as 1"),
        ("overfit_batches=0.3", 1, "is less than one of the 3 train batches; write a number of batches, such as 1"),
        (
            "val_check_interval=4",
            1,
            "an epoch has 3 batches; write at most 3, or trainer.check_val_every_n_epoch=null to count them "
            "over all epochs",
        ),
        ("limit_train_batches=0.4", 1, None),
        ("val_check_interval=3", 1, None),
        ("val_check_interval=3", 2, None),
    ],
)
def test_fractions_below_a_batch_and_intervals_beyond_the_epoch_are_rejected(
    setting: str, replicas: int, told: str | None
) -> None:
    experiment = build(validate(compose([*TINY, f"trainer.{setting}"])))
    if told is None:
        prepare(experiment, replicas)
        return
    with pytest.raises(Refused) as refused:
        prepare(experiment, replicas)
    assert str(refused.value) == f"trainer.{setting}: {told}"


@pytest.mark.parametrize(
    ("model", "needs"),
    [
        (["model=fast", "model.width=0.05"], True),
        (["model=bn", "model.stages.fc6.then=[norm,act,drop]"], True),
        (["model=bn"], False),
        (["model=lrn"], False),
        (["model=none"], False),
    ],
)
def test_which_networks_need_two_images_in_a_batch(model: list[str], needs: bool) -> None:
    experiment = build(validate(compose([*TINY, *model])))
    prepare(experiment)
    assert isinstance(experiment.data, ImageData)
    assert experiment.data.least == (2 if needs else 1)


def test_early_stopping_on_training_loss_needs_no_validation(unsplittable: tuple[str, ...]) -> None:
    early = ("callbacks=early_stopping", "callbacks.early_stopping.monitor=train/loss")
    prepare(build(validate(compose([*unsplittable, *early]))))


@pytest.mark.parametrize("writable", [True, False])
def test_user_data_is_prepared_by_one_process_at_a_time(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    if not writable:
        cache.write_text("no folder can be made here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    together, inside, most, done = threading.Barrier(3), [], [], []

    class Theirs(pl.LightningDataModule):
        def prepare_data(self) -> None:
            inside.append(self)
            time.sleep(0.1)
            most.append(len(inside))
            inside.remove(self)

        def setup(self, stage: str) -> None:
            done.append(stage)

    def opened(_: int) -> None:
        together.wait()
        open_data(Theirs())

    with ThreadPoolExecutor(3) as pool:  # the lock is a file's that each opens for itself: threads are as processes
        list(pool.map(opened, range(3)))
    assert done == ["fit"] * 3
    assert len(most) == 3
    if writable:
        assert max(most) == 1
        assert list((cache / "alexnet_exp").iterdir()) == []


def test_prepare_whitens_the_first_layer_from_evenly_spaced_training_images() -> None:
    whitened = ("model.stages.conv1.whiten=true", "model.stages.conv1.out=16", "model.width=1")
    experiment = build(validate(compose([*TINY, *whitened])))
    prepare(experiment)
    assert isinstance(experiment.data, ImageData)
    train = experiment.data.split("train")
    images = experiment.module.preprocess(experiment.data.centred(train.images(torch.arange(len(train)))))
    filters, biases = whitening_filters(images, 3)
    conv = experiment.network.conv1.conv
    assert torch.equal(conv.weight, filters[:16])
    assert torch.equal(conv.bias, biases[:16])
