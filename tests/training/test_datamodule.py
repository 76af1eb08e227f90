"""Tests of the data module with Lightning's Trainer: the images that the network gets, also in a resumed run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from alexnet_exp.data.spec import Data, Decode, Digits, Folder, ImageNet, Random, Val
from alexnet_exp.data.split import ResidentSplit, Source
from alexnet_exp.errors import UserError
from alexnet_exp.training.datamodule import ImageData

SMALL: dict[str, Any] = {"size": 8, "channels": 1, "classes": 2, "n": 40, "batch_size": 16}


class Recorder(pl.LightningModule):
    """Trains nothing; keeps what it is given."""

    def __init__(self, stop_at: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[tuple[int, int, Tensor, Tensor]]] = {"train": [], "val": [], "test": []}
        self.stop_at = stop_at

    def keep(self, split: str, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.seen[split].append((self.current_epoch, batch_idx, batch[0].clone(), batch[1].clone()))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if (self.current_epoch, batch_idx) == self.stop_at:
            raise KeyError("stopped here")
        self.keep("train", batch, batch_idx)
        return self.weight.sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.keep("val", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.keep("test", batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "enable_checkpointing": False}
    return pl.Trainer(default_root_dir=folder, **(quiet | settings))


def opened(spec: Data, input_size: int = 8, in_channels: int = 1, seed: int = 1) -> ImageData:
    data = ImageData(spec, input_size, in_channels, seed)
    data.setup()
    return data


def test_epoch_has_every_training_image_once_in_a_new_order(tmp_path: Path) -> None:
    spec, module = Random(**SMALL), Recorder()
    data = ImageData(spec, 8, 1, seed=1)
    trainer(tmp_path).fit(module, datamodule=data)
    train = data.source.train
    stored = train.images(torch.arange(len(train)))
    epochs = [torch.cat([images for at, _, images, _ in module.seen["train"] if at == epoch]) for epoch in (0, 1)]
    assert {batch[2].dtype for batch in module.seen["train"]} == {torch.uint8}
    for images in epochs:
        assert sorted(images.flatten(1).tolist()) == sorted(stored.flatten(1).tolist())
    assert not torch.equal(*epochs)


def test_evaluation_uses_the_central_crop_of_every_image_in_order(tmp_path: Path) -> None:
    data, module = ImageData(Random(**SMALL, crop=6, pad=2, mirror=True), 6, 3, seed=1), Recorder()
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    test = data.source.test
    assert test is not None
    images = torch.cat([images for _, _, images, _ in module.seen["test"]])
    expected = test.images(torch.arange(len(test)))[:, :, 1:7, 1:7]
    assert torch.equal(images, torch.cat([expected] * 3, 1))
    assert torch.cat([labels for *_, labels in module.seen["test"]]).tolist() == test.labels.tolist()


def test_augmentation_is_a_function_of_seed_epoch_batch_and_rank() -> None:
    data = opened(Random(**SMALL, pad=2, mirror=True))
    images = data.source.train.images(torch.arange(16))

    def crops(epoch: int, batch: int, seed: int = 1) -> tuple[int, ...]:
        data.seed = seed
        return tuple(data.augment(images, epoch, batch).flatten().tolist())

    drawn = [crops(0, 0), crops(0, 1), crops(1, 0), crops(0, 0, seed=2)]
    assert len(set(drawn)) == 4
    torch.manual_seed(5)
    assert crops(0, 0) == drawn[0]


@pytest.mark.parametrize("random_crop", [True, False])
def test_alternating_mirrors_mirror_each_image_in_every_second_epoch(tmp_path: Path, random_crop: bool) -> None:
    spec, module = Random(**SMALL, mirror=True, mirror_alternately=True, random_crop=random_crop), Recorder()
    data = ImageData(spec, 8, 1, seed=3)
    trainer(tmp_path, max_epochs=3).fit(module, datamodule=data)
    train = data.source.train
    stored = train.images(torch.arange(len(train)))
    seen: list[dict[int, bool]] = [{}, {}, {}]
    for epoch, _, images, _ in module.seen["train"]:
        for image in images:
            same = (stored == image).flatten(1).all(1)
            mirrored = (stored.flip(3) == image).flatten(1).all(1)
            assert int(same.sum() + mirrored.sum()) == 1
            seen[epoch][int((same | mirrored).nonzero())] = bool(mirrored.any())
    first = seen[0]
    assert len(first) == len(train)
    assert 0.2 < sum(first.values()) / len(first) < 0.8
    assert seen[1] == {image: not flipped for image, flipped in first.items()}
    assert seen[2] == first


def test_without_random_crops_training_uses_the_central_crop() -> None:
    data = opened(Random(**SMALL, crop=6, pad=2, random_crop=False), input_size=6)
    images = data.source.train.images(torch.arange(16))
    assert torch.equal(data.augment(images, 0, 0), images[:, :, 1:7, 1:7])
    assert torch.equal(data.centred(images), images[:, :, 1:7, 1:7])


def test_augmentation_depends_on_the_batch_number(tmp_path: Path) -> None:
    spec, module = Random(**SMALL, pad=2, mirror=True), Recorder()
    data = ImageData(spec, 8, 1, seed=3)
    trainer(tmp_path).fit(module, datamodule=data)
    plain = opened(spec, seed=3)
    for epoch, batch, images, _ in module.seen["train"]:
        if epoch == 0:
            raw = list(plain.train_dataloader())[batch][0]
            assert torch.equal(images, plain.augment(raw, 0, batch))


def test_resume_in_mid_epoch_continues_with_the_same_batches(tmp_path: Path) -> None:
    spec = Random(**SMALL, pad=2, mirror=True)
    whole = Recorder()
    trainer(tmp_path, max_epochs=3).fit(whole, datamodule=ImageData(spec, 8, 1, 1))

    cut = Recorder(stop_at=(1, 2))
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="mid", every_n_train_steps=1, save_top_k=1)
    with pytest.raises(KeyError, match="stopped here"):
        trainer(tmp_path, max_epochs=3, enable_checkpointing=True, callbacks=[saving]).fit(
            cut, datamodule=ImageData(spec, 8, 1, 1)
        )
    rest = Recorder()
    trainer(tmp_path, max_epochs=3).fit(
        rest, datamodule=ImageData(spec, 8, 1, 1), ckpt_path=tmp_path / "mid.ckpt", weights_only=True
    )
    joined = cut.seen["train"] + rest.seen["train"]
    assert len(rest.seen["train"]) < len(whole.seen["train"]) == len(joined)
    for (*at, images, labels), (*wanted_at, wanted, wanted_labels) in zip(joined, whole.seen["train"], strict=True):
        assert at == wanted_at
        assert torch.equal(images, wanted)
        assert torch.equal(labels, wanted_labels)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*not resumable")
@pytest.mark.parametrize("stop_at", [(0, 0), (0, 3), (1, 2), (1, 5)])
def test_resume_in_mid_epoch_with_workers_and_accumulation(
    tmp_path: Path, make_folder: Callable[..., Path], stop_at: tuple[int, int]
) -> None:
    root = str(make_folder(tmp_path, each=7))
    spec = Folder(root=root, size=66, batch_size=2, decode=Decode.always, workers=2, val=Val.none, mirror=True)

    def data() -> ImageData:
        return ImageData(spec, 60, 3, seed=1)

    settings: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 2}
    whole = Recorder()
    trainer(tmp_path, **settings).fit(whole, datamodule=data())
    assert len(whole.seen["train"]) == 2 * 7
    cut = Recorder(stop_at=stop_at)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="mid", every_n_train_steps=1, save_top_k=1)
    with pytest.raises(KeyError, match="stopped here"):
        trainer(tmp_path, enable_checkpointing=True, callbacks=[saving], **settings).fit(cut, datamodule=data())
    file = tmp_path / "mid.ckpt"
    rest = Recorder()
    trainer(tmp_path, **settings).fit(
        rest, datamodule=data(), ckpt_path=file if file.exists() else None, weights_only=True
    )
    # the last save was at the last step; what came after it is done again
    again = len(whole.seen["train"]) - len(rest.seen["train"])
    joined = cut.seen["train"][:again] + rest.seen["train"]
    assert again >= len(cut.seen["train"]) - 1
    for (*at, images, labels), (*wanted_at, wanted, wanted_labels) in zip(joined, whole.seen["train"], strict=True):
        assert at == wanted_at
        assert torch.equal(images, wanted)
        assert torch.equal(labels, wanted_labels)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_resume_in_mid_epoch_continues_each_ranks_share(
    tmp_path: Path, make_folder: Callable[..., Path], workers: int, batch: int
) -> None:
    root = str(make_folder(tmp_path, each=8))
    spec = Folder(root=root, size=66, batch_size=4, decode=Decode.always, workers=workers, val=Val.none)
    for rank in range(2):
        data = ImageData(spec, 60, 3, seed=1)
        data.trainer = as_rank(rank, 2, epoch=3)
        data.setup()
        whole = list(data.train_dataloader())
        data.trainer.fit_loop.epoch_loop.batch_progress.current.ready = batch  # type: ignore[union-attr]
        rest = list(data.train_dataloader())
        data.teardown()
        assert len(whole) == 4
        assert len(rest) == 4 - batch
        for got, wanted in zip(rest, whole[batch:], strict=True):
            assert torch.equal(got[0], wanted[0])
            assert torch.equal(got[1], wanted[1])


def test_overfit_batches_uses_the_same_images_in_every_epoch(tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, overfit_batches=1).fit(module, datamodule=ImageData(Random(**SMALL), 8, 1, 1))
    (_, _, first, _), (_, _, second, _) = module.seen["train"]
    assert torch.equal(first, second)


def as_rank(rank: int, world: int, epoch: int = 0) -> Any:
    """What the data module asks of a trainer, as one of several ranks: no processes are needed for it."""
    progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)))
    return SimpleNamespace(
        global_rank=rank,
        world_size=world,
        current_epoch=epoch,
        training=True,
        overfit_batches=0,
        fit_loop=SimpleNamespace(epoch_loop=progress),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_every_global_batch(world: int) -> None:
    # 33 training images in batches of 16: the last one joins the batch before
    spec = Random(**SMALL | {"n": 37}, val_fraction=0.1)
    ranks = []
    for rank in range(world):
        data = ImageData(spec, 8, 1, seed=1)
        data.trainer = as_rank(rank, world)
        data.setup()
        ranks.append(data)
    source = ranks[0].source
    assert len(source.train) == 33
    for split, loaders in (
        (source.train, [data.train_dataloader() for data in ranks]),
        (source.val, [data.loader("val") for data in ranks]),
    ):
        assert split is not None
        shares = [[images for images, _ in loader] for loader in loaders]
        seen = torch.cat([images for share in shares for images in share])
        assert sorted(seen.flatten(1).tolist()) == sorted(split.images(torch.arange(len(split))).flatten(1).tolist())
        assert len({len(share) for share in shares}) == 1
        if split is source.train:
            sizes = [sum(map(len, batch)) for batch in zip(*shares, strict=True)]
            assert sizes == [16, 17] == [ranks[0].global_size("train", batch) for batch in (0, 1)]


def test_ranks_and_epochs_augment_differently() -> None:
    data = opened(Random(**SMALL, pad=2, mirror=True))
    images, labels = data.source.train.images(torch.arange(16)), torch.zeros(16)
    drawn = set()
    for rank, epoch in ((0, 0), (1, 0), (0, 1)):
        data.trainer = as_rank(rank, 2, epoch)
        drawn.add(tuple(data.on_after_batch_transfer((images, labels), 0)[0].flatten().tolist()))
    assert len(drawn) == 3


def test_fewer_training_images_than_ranks_are_rejected() -> None:
    data = opened(Random(**SMALL | {"n": 8}, subset=2, val=Val.none))
    data.trainer = as_rank(0, 3)
    with pytest.raises(UserError, match="2 training images are too few for 3 processes"):
        data.train_dataloader()


def test_grey_images_fit_a_larger_colour_network() -> None:
    data = opened(Digits(), input_size=48, in_channels=3)
    images, labels = data.on_after_batch_transfer(next(iter(data.loader("test"))), 0)
    assert (images.shape, images.dtype, labels.dtype) == ((128, 3, 48, 48), torch.uint8, torch.int64)
    raw = data.loader("test").split.images(torch.tensor([0]))[0, 0].numpy()
    enlarged = np.array(Image.fromarray(raw).resize((48, 48), Image.Resampling.BILINEAR))
    assert (images[0, 1].int() - torch.from_numpy(enlarged).int()).abs().max() <= 1


def test_statistics_are_of_the_cropped_training_images() -> None:
    data = opened(Random(**SMALL, crop=6), input_size=6, in_channels=3)
    train = data.source.train.images(torch.arange(len(data.source.train))).numpy().astype(np.float64)
    statistics = data.statistics({"pixel"})
    assert statistics is not None
    assert statistics.channel_mean is not None
    assert statistics.channel_std is not None
    assert statistics.pixel_mean is not None
    assert np.allclose(statistics.channel_mean, [train.mean()] * 3)
    assert np.allclose(statistics.channel_std, [train.std()] * 3)
    assert np.allclose(statistics.pixel_mean, np.repeat(train.mean(0)[:, 1:7, 1:7], 3, 0), rtol=1e-5)
    assert data.statistics(set()) is None


@pytest.mark.parametrize(
    ("settings", "input_size", "crop"), [({}, 8, 8), ({}, 6, 6), ({}, 20, 8), ({"crop": 5}, 20, 5), ({"pad": 2}, 8, 8)]
)
def test_the_crop_is_the_networks_input_where_it_fits(settings: dict[str, int], input_size: int, crop: int) -> None:
    data = opened(Random(**SMALL | settings), input_size)
    assert data.crop == crop
    images, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape == (16, 1, input_size, input_size)


def test_data_that_does_not_match_the_network_is_rejected() -> None:
    with pytest.raises(UserError, match=r"model\.in_channels=1: the images have 3"):
        opened(Random(**SMALL | {"channels": 3}), in_channels=1)
    with pytest.raises(UserError, match=r"data\.crop=9: the images are stored at 8x8"):
        opened(Random(**SMALL, crop=9))


def test_missing_split_is_an_error(tmp_path: Path, make_folder: Callable[[Path], Path]) -> None:
    data = opened(Folder(root=str(make_folder(tmp_path)), cache=str(tmp_path / "cache")), in_channels=3)
    with pytest.raises(UserError, match=r"data=folder: has no test images"):
        data.test_dataloader()


def test_a_run_without_validation(tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, max_epochs=1).fit(module, datamodule=ImageData(Random(**SMALL, val=Val.none), 8, 1, 1))
    assert module.seen["val"] == []
    assert sum(len(labels) for *_, labels in module.seen["train"]) == 40


@pytest.fixture
def make_folder() -> Callable[..., Path]:
    def make(root: Path, each: int = 3) -> Path:
        for i, name in enumerate(("cat", "dog")):
            (root / "images" / name).mkdir(parents=True)
            for j in range(each):
                Image.new("RGB", (70, 70), (i * 100, j * 30, 0)).save(root / "images" / name / f"{j}.png")
        return root / "images"

    return make


def test_a_streamed_folder_trains(tmp_path: Path, make_folder: Callable[[Path], Path]) -> None:
    spec = Folder(root=str(make_folder(tmp_path)), size=66, batch_size=4, decode=Decode.always, workers=0)
    module = Recorder()
    data = ImageData(spec, 60, 3, seed=1)
    trainer(tmp_path, max_epochs=1).fit(module, datamodule=data)
    colours = sorted(tuple(image[:2, 0, 0].tolist()) for _, _, images, _ in module.seen["train"] for image in images)
    assert colours == sorted(tuple(i[:2, 0, 0].tolist()) for i in data.source.train.images(torch.arange(4)))
    assert module.seen["train"][0][2].shape == (4, 3, 60, 60)


def test_2012_facts_of_the_images(tmp_path: Path) -> None:
    """Short side to 256, the centre 256x256; 224 crops of it and mirrors; the central crop of the mean image."""
    random = np.random.default_rng(0)
    stored = []
    for i, (width, height) in enumerate(((300, 280), (512, 256), (256, 400), (700, 600))):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
        for part in ("train", "val"):
            (tmp_path / part / f"n{i % 2}").mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / part / f"n{i % 2}" / f"{i}.png")
        scale = 256 / min(width, height)
        resized = picture.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
        left, top = (resized.width - 256) // 2, (resized.height - 256) // 2
        stored.append(np.array(resized.crop((left, top, left + 256, top + 256))).transpose(2, 0, 1))
    spec = ImageNet(root=str(tmp_path), val=Val.none, cache=str(tmp_path / "cache"))
    data = opened(spec, input_size=224, in_channels=3)
    train = data.source.train
    images = train.images(torch.arange(4))
    expected = torch.from_numpy(np.stack([stored[i] for i in (0, 2, 1, 3)])).int()  # by class, then by name
    assert (images.int() - expected).abs().max() <= 1

    statistics = data.statistics({"pixel"})
    assert statistics is not None
    assert statistics.pixel_mean is not None
    mean = images.double().mean(0)[:, 16:240, 16:240]
    torch.testing.assert_close(statistics.pixel_mean.double(), mean, atol=1e-4, rtol=0)
    assert torch.equal(data.centred(images), images[:, :, 16:240, 16:240])

    many = images[:1].expand(64, -1, -1, -1)
    flipped = 0
    for crop in data.augment(many, 0, 0):
        found = [
            turned
            for turned, whole in ((False, images[0]), (True, images[0].flip(2)))
            # of all 33 x 33 places those whose first pixels agree, then the whole square
            for top, left in (whole.unfold(1, 224, 1).unfold(2, 224, 1)[:, :, :, 0, :6] == crop[:, None, None, 0, :6])
            .all(3)
            .all(0)
            .nonzero()
            .tolist()
            if torch.equal(whole[:, top : top + 224, left : left + 224], crop)
        ]
        assert found
        flipped += found[0]
    assert 16 <= flipped <= 48  # half of 64, 4 standard deviations


def test_workers_end_with_training(tmp_path: Path, make_folder: Callable[[Path], Path]) -> None:
    spec = Folder(root=str(make_folder(tmp_path)), size=66, batch_size=2, decode=Decode.always, workers=1)
    before = set(multiprocessing.active_children())
    kept = trainer(tmp_path, max_epochs=1, limit_train_batches=1)  # it keeps the loader, in the middle of an epoch
    kept.fit(Recorder(), datamodule=ImageData(spec, 60, 3, seed=1))
    assert set(multiprocessing.active_children()) <= before


def test_describe_prints_counts_sizes_and_validation() -> None:
    line = opened(Digits(), input_size=32).describe()
    assert "\n" not in line
    for said in ("1,295 train", "142 val", "360 test", "10 classes", "32x32x1", "crop 32", "by seed 1"):
        assert said in line
    assert "resized to 48" in opened(Digits(), input_size=48).describe()


def test_a_users_source_needs_one_method() -> None:
    class Mine(ImageData):
        def open(self) -> Source:
            split = ResidentSplit(torch.full((5, 1, 8, 8), 7, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0]))
            return Source(split, None, split, ["odd", "even"], "mine")

    data = Mine(Data(batch_size=2), 8, 1, 1)
    data.setup()
    assert (data.classes, data.fingerprint, len(data.train_dataloader())) == (["odd", "even"], "mine", 3)
    assert data.global_size("train", 2) == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_indices_of_all_ranks_are_each_image_once(world: int) -> None:
    data = opened(Random(**SMALL))
    found = []
    for rank in range(world):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
        indices = data.indices("train")
        data.trainer.current_epoch, data.trainer.overfit_batches = 0, 0  # type: ignore[union-attr]
        data.trainer.strategy = SimpleNamespace(root_device=torch.device("cpu"))  # type: ignore[union-attr]
        labels = torch.cat([labels for _, labels in data.loader("train")])
        assert torch.equal(labels, data.source.train.labels[indices])
        found.append(indices)
    assert sorted(torch.cat(found).tolist()) == list(range(len(data.source.train)))


def test_shuffled_loader_has_each_image_once_in_epoch_order() -> None:
    data = opened(Random(**SMALL))
    train = data.source.train
    images = torch.cat([images for images, _ in data.loader("train", shuffle=True)])
    everything = train.images(torch.arange(len(train)))
    assert not torch.equal(images, everything)
    assert sorted(map(repr, images.tolist())) == sorted(map(repr, everything.tolist()))
    again = torch.cat([images for images, _ in data.loader("train", shuffle=True)])
    assert torch.equal(again, images), "always from the beginning"


def test_another_split_can_be_tested_on() -> None:
    data = opened(Random(**SMALL))
    data.test_on = "val"
    assert data.source.val is not None
    assert torch.equal(torch.cat([labels for _, labels in data.test_dataloader()]), data.source.val.labels)
