"""The locally connected layer equals a loop over its pixels: values, gradients, initial values and export."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alexnet_exp.model.locally_connected import LocallyConnected2d
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.spec import Network, Stage
from tests.model.by_hand import by_the_pixel

NetworkOf = Callable[..., Network]


def layer_and_maps(
    size: tuple[int, int], kernel: int, stride: int, padding: int, batch: int = 2
) -> tuple[LocallyConnected2d, Tensor]:
    torch.manual_seed(0)
    layer = LocallyConnected2d(4, 3, kernel, size, stride, padding).double()
    sides = [(side - 1) * stride + kernel - 2 * padding for side in size]
    return layer, torch.randn(batch, 4, *sides, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((6, 6), 3, 1, 1), ((3, 5), 3, 2, 0), ((4, 2), 1, 1, 0), ((4, 4), 5, 2, 2)],
)
def test_it_is_a_convolution_with_separate_weights_at_every_pixel(
    size: tuple[int, int], kernel: int, stride: int, padding: int
) -> None:
    layer, maps = layer_and_maps(size, kernel, stride, padding)
    ours, theirs = layer(maps), by_the_pixel(layer, maps)
    assert ours.shape == (2, 3, *size)
    torch.testing.assert_close(ours, theirs)
    inputs = [maps, layer.weight, layer.bias]
    for our, their in zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(our, their)


def test_with_equal_weights_at_every_pixel_it_is_a_convolution() -> None:
    layer, maps = layer_and_maps((5, 7), 3, 1, 1)
    conv = torch.nn.Conv2d(4, 3, 3, padding=1).double()
    with torch.no_grad():
        layer.weight.copy_(conv.weight.permute(2, 3, 1, 0))
        assert conv.bias is not None
        layer.bias.copy_(conv.bias)
    torch.testing.assert_close(layer(maps), conv(maps))


def test_a_pixels_weights_affect_only_that_pixel() -> None:
    layer, maps = layer_and_maps((4, 4), 3, 1, 1)
    before = layer(maps)
    with torch.no_grad():
        layer.weight[1, 2] += 1
        layer.bias[3, 0] += 1
    changed = (layer(maps) - before).abs().amax(dim=(0, 1)) > 0
    assert changed.nonzero().tolist() == [[1, 2], [3, 0]]


def test_autocast_computes_and_returns_its_dtype() -> None:
    layer, maps = LocallyConnected2d(4, 3, 3, (6, 6), 1, 1), torch.randn(2, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(maps)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(maps), rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_it_can_be_exported(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    layer = LocallyConnected2d(4, 3, 3, (4, 4), 1, 1).eval()
    file = tmp_path / "local.onnx"
    batch = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        layer, (torch.randn(2, 4, 4, 4),), file, input_names=["maps"], dynamic_shapes=batch, dynamo=True, verbose=False
    )
    maps = torch.randn(5, 4, 4, 4)
    (theirs,) = onnxruntime.InferenceSession(str(file)).run(None, {"maps": maps.numpy()})
    torch.testing.assert_close(torch.from_numpy(theirs), layer(maps).detach())


@pytest.mark.parametrize(("init", "std"), [("glorot", math.sqrt(2 / (40 * 9 + 32 * 9))), ("he", math.sqrt(2 / 360))])
def test_a_unit_is_initialized_as_in_a_convolution(network_of: NetworkOf, init: str, std: float) -> None:
    """The fans are what one unit sees and feeds, not what all pixels' weights together do."""
    torch.manual_seed(0)
    stages = ["stages.local3.std=null", "stages.local3.bias=null", "stages.conv2.out=40"]
    local = AlexNet(network_of("cuda_convnet_13pct", f"init={init}", *stages)).local3.local
    assert local.weight.std().item() == pytest.approx(std, rel=0.01)
    assert (local.bias == 0).all()


def test_the_default_initialization_is_that_of_torchs_convolution() -> None:
    torch.manual_seed(0)
    local, conv = LocallyConnected2d(16, 32, 3, (5, 5)), torch.nn.Conv2d(16, 32, 3)
    assert local.weight.abs().max().item() == pytest.approx(conv.weight.abs().max().item(), rel=0.01)
    assert local.bias.abs().max().item() == pytest.approx(1 / 12, rel=0.01)


def test_parameters_are_named_by_stage(network_of: NetworkOf) -> None:
    network = AlexNet(network_of("cuda_convnet_13pct"))
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters() if name.startswith("local3")}
    assert shapes == {"local3.local.weight": (6, 6, 3, 3, 64, 32), "local3.local.bias": (6, 6, 32)}


def test_four_pads_are_read_as_a_convolutions(network_of: NetworkOf) -> None:
    network = AlexNet(network_of("cuda_convnet_13pct", "stages.local3.pad=[0,2,1,0]"))
    assert list(network.local3._modules) == ["pad", "local", "act"]
    assert network.local3(torch.randn(2, 64, 6, 6)).shape == (2, 32, 5, 6)


def test_stages_are_not_local_by_default() -> None:
    assert Stage(out=4, kernel=3).local is False
