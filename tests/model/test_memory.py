"""The estimate of training memory is near what autograd saves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from alexnet_exp.model.cost import layers
from alexnet_exp.model.memory import training_memory
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.spec import Network

BATCH = 3


def kept_by_autograd(network: torch.nn.Module, images: torch.Tensor) -> int:
    """Bytes of distinct tensors that a forward pass saves for its backward pass, weights and the images apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers(), images]}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            saved[pointer] = tensor  # held, so that no later tensor gets the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        F.cross_entropy(network(images), torch.zeros(len(images), dtype=torch.long))
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@pytest.mark.parametrize("name", ["bn", "none", "lrn", "torchvision", "tutorial", "cuda_convnet_13pct", "lenet5"])
def test_the_estimate_is_within_a_fifth_of_the_memory_saved_by_autograd(
    name: str, network_of: Callable[..., Network]
) -> None:
    spec = network_of(name, "width=0.125", size=64)
    network = AlexNet(spec).train()
    images = torch.rand(BATCH, 3, spec.input_size or 0, spec.input_size or 0)
    measured = kept_by_autograd(network, images) / BATCH
    assert training_memory(layers(spec), states=2).per_image == pytest.approx(measured, rel=0.2)


def test_adam_has_two_values_for_each_weight(network_of: Callable[..., Network]) -> None:
    table = layers(network_of("paper"))
    assert training_memory(table, states=2).fixed == 4 * 4 * 60_965_224
    assert training_memory(table, states=1).at(0) == 4 * 3 * 60_965_224
