"""The colour noise, against numpy and loops over single images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_exp.data import colour
from alexnet_exp.data.colour import IMAGENET_COLOUR, add_colour_noise, fit_colour, load_colour
from alexnet_exp.data.spec import Cifar10, Digits, Folder, Pca, PcaReading, Random
from alexnet_exp.data.split import ResidentSplit, StreamedSplit
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.model.preprocess import Preprocess, Statistics
from alexnet_exp.model.spec import Input
from alexnet_exp.training.datamodule import ImageData

SHAPE = (40, 3, 6, 5)
IMAGES = torch.randint(0, 256, SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def resident(pixels: Tensor = IMAGES) -> ResidentSplit:
    return ResidentSplit(pixels, torch.zeros(len(pixels), dtype=torch.int64))


def coloured(seed: int = 0) -> Tensor:
    """Returns images with correlated channels, like photographs."""
    random = np.random.default_rng(seed)
    grey, tint = random.normal(128, 45, (60, 1, 8, 8)), random.normal(0, 12, (60, 3, 8, 8))
    return torch.from_numpy((grey + tint * np.array([2.0, 1.0, 0.5])[:, None, None]).clip(0, 255).astype(np.uint8))


def test_facts_constants_of_imagenet() -> None:
    assert IMAGENET_COLOUR.std == [121.780, 37.094, 19.721]
    assert IMAGENET_COLOUR.vectors[0] == [-0.5635, -0.5762, -0.5920]  # almost grey: R, G and B are similar
    vectors = np.array(IMAGENET_COLOUR.vectors)
    assert np.allclose(vectors @ vectors.T, np.eye(3), atol=2e-4)


@pytest.mark.parametrize("reading", PcaReading)
def test_facts_every_image_gets_one_colour(reading: PcaReading) -> None:
    mean = IMAGES.float().mean(0)
    noisy = add_colour_noise(IMAGES, IMAGENET_COLOUR, 0.1, mean if reading is PcaReading.code else None, seeded())
    draws = torch.randn((40, 3), generator=seeded()).numpy()
    strength = [121.780, 37.094, 19.721] if reading is PcaReading.code else [121.780**2, 37.094**2, 19.721**2]
    for i in range(40):
        added = np.zeros(3)
        for k in range(3):
            added += 0.1 * draws[i, k] * strength[k] * np.array(IMAGENET_COLOUR.vectors[k])
        expected = IMAGES[i].numpy() + added[:, None, None]
        if reading is PcaReading.code:  # the original subtracts the mean image, adds the noise, divides by 1.1
            expected = (IMAGES[i].numpy() - mean.numpy() + added[:, None, None]) / 1.1 + mean.numpy()
        np.testing.assert_allclose(noisy[i].numpy(), expected, rtol=1e-4, atol=1e-3)
    assert noisy.dtype == torch.float32


def test_noise_has_the_covariance_of_the_components() -> None:
    black = torch.zeros((20_000, 3, 1, 1), dtype=torch.uint8)
    noisy = add_colour_noise(black, IMAGENET_COLOUR, 0.1, torch.zeros(3, 1, 1), seeded())[:, :, 0, 0].numpy() * 1.1
    vectors, std = np.array(IMAGENET_COLOUR.vectors), np.array(IMAGENET_COLOUR.std)
    expected = (vectors.T * (0.1 * std) ** 2) @ vectors
    assert np.allclose(np.cov(noisy.T), expected, atol=0.03 * expected.max())
    assert np.allclose(noisy.mean(0), 0, atol=0.3)  # 4 standard deviations


def reference(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns eigenvalues, largest first, and components as rows, of all pixels of images [N, 3, H, W]."""
    values, vectors = np.linalg.eigh(np.cov(pixels.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64), bias=True))
    return values[::-1], vectors.T[::-1]


def test_fitted_components_equal_numpy() -> None:
    images = coloured()
    found, (values, vectors) = fit_colour(resident(images)), reference(images.numpy())
    np.testing.assert_allclose(np.square(found.std), values, rtol=1e-9)
    for mine, theirs in zip(np.array(found.vectors), vectors, strict=True):
        np.testing.assert_allclose(mine * np.sign(mine @ theirs), theirs, atol=1e-9)
        assert mine[np.abs(mine).argmax()] > 0, "the sign is a rule, not what the solver happened to return"
    assert found.std[0] > 3 * found.std[1], "of which the first is about grey"


def test_fit_of_streamed_images_equals_resident_images(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    folder = make_images(tmp_path, {"a": 5}, (9, 9))
    split = StreamedSplit(
        [str(path) for path in sorted((folder / "a").iterdir())], torch.zeros(5, dtype=torch.int64), 9
    )
    values, _ = reference(split.images(torch.arange(5)).numpy())
    np.testing.assert_allclose(np.square(fit_colour(split).std), values, rtol=1e-9)


def test_colour_cache_is_read_and_recreated_if_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, split = tmp_path / "new", resident(coloured())
    first = load_colour(split, folder, "mine", 1)
    (file,) = folder.iterdir()
    for damage in (b"", b"[1, 2", b"null", b'{"std": [1, 2, 3]}', b'{"std": [1, 2, 3], "vectors": [[1, 2], [3]]}',
                   b'{"std": [1, 2, 3], "vectors": [[1, 1, 0], [0, 1, 0], [0, 0, 1]]}'):  # fmt: skip
        file.write_bytes(damage)
        assert load_colour(split, folder, "mine", 1) == first
        assert file.stat().st_size > 100, "written anew"
    monkeypatch.setattr(colour, "fit_colour", lambda _: pytest.fail("fitted again"))
    assert load_colour(split, folder, "mine", 1) == first
    with pytest.raises(pytest.fail.Exception):
        load_colour(split, folder, "mine", 2)
    assert len(list(folder.iterdir())) == 1


def test_read_only_colour_cache_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert load_colour(resident(coloured()), tmp_path / "file", "x") == fit_colour(resident(coloured()))


# --- the data module


SMALL: dict[str, Any] = {"size": 8, "channels": 3, "classes": 2, "n": 40, "batch_size": 16}


def opened(spec: Any, input_size: int = 6) -> ImageData:
    data = ImageData(spec, input_size, 3, 1)
    data.setup()
    return data


def test_noise_does_not_change_crops_and_mirrors() -> None:
    settings = SMALL | {"crop": 6, "mirror": True, "pad": 1}
    plain, noisy = opened(Random(**settings)), opened(Random(**settings, pca=Pca.imagenet, pca_reading="paper"))  # type: ignore[arg-type]
    images = plain.source.train.images(torch.arange(16))
    difference = noisy.augment(images, 0, 3) - plain.augment(images, 0, 3).float()
    assert difference.abs().max() > 1
    # one colour per image, the same for all pixels
    assert (difference - difference[:, :, :1, :1]).abs().max() < 0.01
    assert len({tuple(colour.tolist()) for colour in difference[:, :, 0, 0]}) == 16
    assert torch.equal(noisy.augment(images, 0, 3), noisy.augment(images, 0, 3))
    assert not torch.equal(noisy.augment(images, 0, 3), noisy.augment(images, 0, 4))
    assert torch.equal(noisy.centred(images), plain.centred(images)), "an evaluation has none"


def test_network_input_equals_the_image_of_the_2012_code() -> None:
    """Per-pixel mean, colour noise, division by 1.1: in the original's order, with the central crop of its mean."""
    data = opened(Random(**SMALL | {"crop": 6}, pca=Pca.imagenet, pca_std=0.1, random_crop=False))
    preprocess = Preprocess(Input(scale="bytes", mean="pixel"), 3, 6)  # type: ignore[arg-type]
    statistics = data.statistics({"pixel"})
    assert isinstance(statistics, Statistics)
    preprocess.fit(statistics)
    train = data.source.train.images(torch.arange(len(data.source.train))).double()
    images = data.source.train.images(torch.arange(16))
    got = preprocess(data.augment(images, 0, 0))
    from alexnet_exp.seeds import derive

    draws = torch.randn((16, 3), generator=seeded(derive(1, "augment", 0, 0, 0))).double() * 0.1
    noise = (draws * torch.tensor(IMAGENET_COLOUR.std)) @ torch.tensor(IMAGENET_COLOUR.vectors).double()
    expected = (images.double() - train.mean(0))[:, :, 1:7, 1:7] + noise[:, :, None, None]
    torch.testing.assert_close(got.double(), expected / 1.1, rtol=1e-4, atol=1e-3)


def test_colour_fit_uses_the_training_images_and_is_logged() -> None:
    data = opened(Random(**SMALL, pca=Pca.fit))
    values, _ = reference(data.source.train.images(torch.arange(len(data.source.train))).numpy())
    np.testing.assert_allclose(np.square(data.colour.std), values, rtol=1e-9)
    assert f"colour noise: components fitted to the training images, std {values[0] ** 0.5:.1f}" in data.describe()
    other = opened(Random(**SMALL, pca=Pca.fit, subset=8))
    assert other.colour != data.colour, "fewer images have components of their own in the cache"


@pytest.mark.parametrize("pca", [Pca.fit, Pca.imagenet])
def test_grey_images_are_rejected(pca: Pca) -> None:
    with pytest.raises(UserError, match=rf"^data\.pca={pca}: needs images of 3 channels, these have 1; write none$"):
        opened(Digits(pca=pca))


def test_invalid_colour_settings_are_rejected() -> None:
    assert (Cifar10().pca, Folder().pca_reading, Random().pca_std) == (Pca.none, PcaReading.code, 0.1)
    with pytest.raises(Refused, match="pca_std=0: must be greater than 0"):
        Cifar10(pca_std=0)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_precision_does_not_round_the_images(tmp_path: Path, precision: Any) -> None:
    import pytorch_lightning as pl

    class Keep(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.seen: list[Tensor] = []

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            self.seen.append(batch[0])
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    spec, module = Random(**SMALL, pca=Pca.fit, mirror=True), Keep()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1, precision=precision,
        enable_checkpointing=False, **quiet,
    )  # fmt: skip
    trainer.fit(module, datamodule=ImageData(spec, 8, 3, 1))
    alone = opened(spec, 8)
    raw = next(iter(alone.loader("train", shuffle=True)))[0]
    assert module.seen[0].dtype == torch.float32
    assert torch.equal(module.seen[0], alone.augment(raw, 0, 0))
