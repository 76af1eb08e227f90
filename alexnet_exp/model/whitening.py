"""Provides the whitening of a network's first layer: filters that are computed from training images, not trained.

Source: the first layer of airbench (Jordan, 2024, arXiv:2404.00498, section 3.2), after Page (2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alexnet_exp.model.network import AlexNet

IMAGES = 5000  # evenly spaced training images that the filters are computed from
# Added to the variance along each principal component, as a part of their mean: components below it are noise.
EPS = 5e-4


def whitening_filters(images: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Returns filters [2 * C * kernel^2, C, kernel, kernel] and their biases for images [N, C, H, W] of floats.

    Over all windows of the images, the outputs of the even filters have mean 0 and variance 1, and are uncorrelated:
    they are the principal components of the windows, in falling order of variance, each divided by its standard
    deviation. Each odd filter is the negative of the one before it, since a ReLU passes only one sign.
    """
    channels = images.shape[1]
    size = channels * kernel * kernel
    total, products, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
    for chunk in torch.split(images.float(), 250):
        windows = nn.functional.unfold(chunk, kernel).transpose(1, 2).reshape(-1, size)
        count += len(windows)
        total += windows.sum(0, dtype=torch.float64).cpu()
        products += (windows.T @ windows).double().cpu()
    mean = total / count
    variances, components = torch.linalg.eigh(products / count - mean[:, None] * mean)
    variances, components = variances.flip(0).clamp(min=0), components.flip(1).T
    scaled = components / (variances + EPS * variances.mean() + torch.finfo(torch.float32).tiny).sqrt()[:, None]
    filters = torch.stack([scaled, -scaled], 1).flatten(0, 1)
    return filters.float().view(-1, channels, kernel, kernel), (-filters @ mean).float()


def whitened_layer(network: nn.Module) -> nn.Conv2d | None:
    """Returns the convolution of `network` with `whiten: true`; None where it has none."""
    if not isinstance(network, AlexNet):
        return None
    name, stage = next(iter(network.spec.present.items()))
    if not stage.whiten:
        return None
    layer = network.get_submodule(f"{name}.conv")
    assert isinstance(layer, nn.Conv2d)
    return layer


@torch.no_grad()
def whiten(layer: nn.Conv2d, images: Tensor) -> None:
    """Sets the weights and biases of `layer` to the first of the `whitening_filters` of `images`, the layer's input."""
    filters, biases = whitening_filters(images, layer.kernel_size[0])
    layer.weight.copy_(filters[: layer.out_channels])
    assert layer.bias is not None
    layer.bias.copy_(biases[: layer.out_channels])
