"""Preprocessing from bytes to the network's input: scale, mean and std, by hand and compared with torchvision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from alexnet_exp.model.preprocess import Preprocess, Statistics
from alexnet_exp.model.spec import Input, Network, Scale

NetworkOf = Callable[..., Network]


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def statistics(channels: int, side: int) -> Statistics:
    pixels = images(50, channels, side, side).float()
    return Statistics(pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3)), pixels.mean(dim=0))


def test_torchvisions_input(variant: NetworkOf) -> None:
    preprocess = Preprocess(variant("torchvision").input, channels=3, size=32)
    batch = images(4, 3, 32, 32)
    reference = transforms.normalize(
        transforms.to_dtype(batch, torch.float32, scale=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    assert preprocess.needs == set()
    torch.testing.assert_close(preprocess(batch), reference)


def test_the_tutorials_input_is_only_divided_by_255(variant: NetworkOf) -> None:
    batch = images(2, 3, 32, 32)
    scaled = Preprocess(variant("tutorial").input, channels=3, size=32)(batch)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, batch.float() / 255)


@pytest.mark.parametrize("name", ["paper", "code", "cuda_convnet_26pct", "cuda_convnet_18pct"])
def test_the_papers_input_keeps_its_range(variant: NetworkOf, name: str) -> None:
    preprocess = Preprocess(variant(name).input, channels=3, size=32)
    measured = statistics(3, 32)
    assert preprocess.needs == {"pixel"}
    preprocess.fit(measured)
    batch = images(2, 3, 32, 32)
    torch.testing.assert_close(preprocess(batch), batch.float() - measured.pixel_mean)


@pytest.mark.parametrize("name", ["bn", "lrn", "none"])
def test_standardized_variants_have_mean_0_and_std_1(variant: NetworkOf, name: str) -> None:
    preprocess = Preprocess(variant(name).input, channels=3, size=32)
    assert preprocess.needs == {"channel"}
    preprocess.fit(statistics(3, 32))
    seen = preprocess(images(50, 3, 32, 32))
    torch.testing.assert_close(seen.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", Scale)
def test_measured_statistics_do_not_depend_on_the_scale(scale: Scale) -> None:
    preprocess = Preprocess(Input(scale, mean="channel", std="channel"), channels=1, size=8)
    preprocess.fit(statistics(1, 8))
    assert preprocess(images(50, 1, 8, 8)).std().item() == pytest.approx(1, abs=1e-4)


def test_a_mean_of_numbers_is_on_the_scaled_range() -> None:
    white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    assert Preprocess(Input(Scale.unit, mean=[0.25]), 1, 2)(white).unique().item() == pytest.approx(0.75)
    assert Preprocess(Input(Scale.bytes, mean=[25], std=[2]), 1, 2)(white).unique().item() == pytest.approx(115)


def test_the_state_dict_includes_mean_and_std() -> None:
    fitted, empty = (Preprocess(Input(mean="pixel", std="channel"), channels=3, size=8) for _ in range(2))
    fitted.fit(statistics(3, 8))
    assert {key: tuple(value.shape) for key, value in fitted.state_dict().items()} == {
        "mean": (3, 8, 8),
        "std": (3, 1, 1),
    }
    empty.load_state_dict(fitted.state_dict())
    assert torch.equal(empty(images(2, 3, 8, 8)), fitted(images(2, 3, 8, 8)))


def test_statistics_that_were_not_measured_raise() -> None:
    assert Preprocess(Input(mean="channel"), channels=1, size=4)(images(1, 1, 4, 4)).isnan().all()
    with pytest.raises(ValueError, match=r"input\.mean=pixel was not measured"):
        Preprocess(Input(mean="pixel"), channels=1, size=4).fit(Statistics(channel_mean=torch.zeros(1)))


def test_a_per_pixel_mean_is_cropped_at_its_centre() -> None:
    preprocess = Preprocess(Input(Scale.bytes, mean="pixel"), channels=3, size=6)
    measured = statistics(3, 10)
    preprocess.fit(measured)
    assert measured.pixel_mean is not None
    assert torch.equal(preprocess.mean, measured.pixel_mean[:, 2:8, 2:8])


def test_a_smaller_per_pixel_mean_is_enlarged() -> None:
    preprocess = Preprocess(Input(mean="pixel"), channels=1, size=8)
    preprocess.fit(Statistics(pixel_mean=torch.tensor([[[0.0, 100.0], [0.0, 100.0]]])))
    assert preprocess.mean.shape == (1, 8, 8)
    assert (preprocess.mean[0, 0].diff() >= 0).all()
    assert (preprocess.mean.min(), preprocess.mean.max()) == (0, 100)


def test_gray_statistics_are_repeated_for_three_channels() -> None:
    preprocess = Preprocess(Input(mean="pixel", std="channel"), channels=3, size=8)
    preprocess.fit(statistics(1, 8))
    seen = preprocess(images(2, 1, 8, 8).expand(2, 3, 8, 8))
    assert torch.equal(seen[:, 0], seen[:, 2])


def test_a_channel_without_contrast_stays_finite() -> None:
    preprocess = Preprocess(Input(mean="channel", std="channel"), channels=2, size=4)
    preprocess.fit(Statistics(channel_mean=torch.tensor([7.0, 100.0]), channel_std=torch.tensor([0.0, 50.0])))
    batch = torch.full((1, 2, 4, 4), 7, dtype=torch.uint8)
    assert (preprocess(batch)[0, 0] == 0).all()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("mean", "std"), [("channel", "channel"), ("pixel", "none"), ("pixel", "channel"), ("none", "channel")]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("last", [False, True])
def test_kernel_and_operators_return_the_same_bits(
    mean: str, std: str, channels: int, dtype: torch.dtype, last: bool
) -> None:
    preprocess = Preprocess(Input(mean=mean, std=std), channels, 13)
    preprocess.fit(statistics(channels, 13))
    batch = images(37, channels, 15, 13)[:, :, 1:14]  # a view, as a central crop is
    expected = (batch.float() - preprocess.mean) / preprocess.std
    got = preprocess(batch, dtype, channels_last=last)
    assert got.dtype == dtype
    assert torch.equal(got, expected.to(dtype))
    assert got.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert torch.equal(preprocess(batch.float(), dtype), expected.to(dtype)), "floats, as colour noise gives them"


@pytest.mark.usefixtures("way")
def test_statistics_are_nan_until_they_are_measured() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert Preprocess(Input(mean="channel"), 3, 8)(images(2, 3, 8, 8), dtype).isnan().all()


def test_it_can_be_exported() -> None:
    preprocess = Preprocess(Input(mean=[0.4, 0.5, 0.6], std=[0.2, 0.2, 0.3]), 3, 8)
    batch = images(2, 3, 8, 8)
    graph = torch.export.export(preprocess, (batch,))
    assert torch.equal(graph.module()(batch), preprocess(batch))
