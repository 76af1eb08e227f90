"""The whitened first layer against covariances computed by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet_exp.errors import Refused
from alexnet_exp.model.cost import layers, totals
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.spec import Network, Stage
from alexnet_exp.model.whitening import whiten, whitened_layer, whitening_filters


def smooth_images(count: int = 40) -> torch.Tensor:
    """Images whose neighbouring pixels and channels are correlated, with a mean that is not 0."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    return smooth + 0.7 * smooth.mean(1, keepdim=True) + 0.3 * noise + 0.5


def network(**stage: object) -> AlexNet:
    stages = {"conv1": Stage(**{"out": 10, "kernel": 3, "then": ["act"], "whiten": True} | stage), "fc2": Stage()}
    return AlexNet(Network(stages=stages, width=1.0, input_size=12, in_channels=3, num_classes=2))


def outputs(images: torch.Tensor, filters: torch.Tensor, biases: torch.Tensor) -> np.ndarray:
    maps = torch.nn.functional.conv2d(images.double(), filters.double(), biases.double())
    return maps.transpose(0, 1).flatten(1).numpy()


@pytest.mark.parametrize("kernel", [2, 3])
def test_outputs_have_mean_zero_and_the_identity_as_covariance(kernel: int) -> None:
    images = smooth_images()
    filters, biases = whitening_filters(images, kernel)
    assert filters.shape == (2 * 3 * kernel**2, 3, kernel, kernel)
    assert torch.equal(filters[1::2], -filters[::2])
    found = outputs(images, filters[::2], biases[::2])
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-4)
    # The constant that is added to each variance lowers those of the smallest components.
    windows = outputs(images, torch.eye(3 * kernel**2).view(-1, 3, kernel, kernel), torch.zeros(3 * kernel**2))
    variances = np.sort(np.linalg.eigvalsh(np.cov(windows)))[::-1]
    shrunk = variances / (variances + 5e-4 * variances.mean())
    np.testing.assert_allclose(np.cov(found), np.diag(shrunk), atol=2e-3)


def test_the_layer_gets_the_largest_components_and_is_not_trained() -> None:
    net, images = network(pad=[1]), smooth_images()
    layer = whitened_layer(net)
    assert layer is net.conv1.conv
    whiten(layer, images)
    filters, biases = whitening_filters(images, 3)
    assert torch.equal(layer.weight, filters[:10])
    assert torch.equal(layer.bias, biases[:10])
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad
    trained = sum(each.numel() for each in net.parameters() if each.requires_grad)
    assert totals(layers(net.spec)).trainable_parameters == trained
    assert whitened_layer(network(whiten=False)) is None


def test_constant_images_give_finite_filters() -> None:
    filters, biases = whitening_filters(torch.ones(4, 3, 5, 5), 3)
    assert filters.isfinite().all()
    assert biases.isfinite().all()


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"conv1": Stage(out=55, kernel=3, whiten=True)}, "stages.conv1.out=55: must be at most 54"),
        (
            {"conv1": Stage(out=4, kernel=3), "conv2": Stage(out=4, kernel=3, whiten=True)},
            "stages.conv2.whiten=true: only the first stage can whiten",
        ),
        ({"conv1": Stage(out=4, kernel=3, whiten=True, local=True)}, "whiten=true: needs a convolution"),
        ({"fc1": Stage(out=4, whiten=True)}, "stages.fc1.whiten=true: only convolutions have this setting"),
    ],
)
def test_settings_that_cannot_whiten_are_rejected(stages: dict[str, Stage | None], said: str) -> None:
    with pytest.raises(Refused) as refused:
        Network(stages=stages | {"fc9": Stage()}, in_channels=3)
    assert said in str(refused.value)
