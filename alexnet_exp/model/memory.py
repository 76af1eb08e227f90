"""How much memory training a network takes, estimated from its layer table. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_exp.model.cost import Layer

FLOAT = 4  # bytes
INDEX = 8  # max pooling keeps where each maximum was, as int64
MASK = 1  # dropout keeps a byte an element

# Kinds whose backward pass reads their input, and kinds whose backward pass reads their output.
NEEDS_INPUT = {"conv", "fc", "bn", "lrn", "pool", "mapnorm"}
NEEDS_OUTPUT = {"relu", "tanh", "sigmoid"}


@dataclass(frozen=True)
class Memory:
    """Bytes held while training in float32: per image of a batch, and whatever the batch."""

    per_image: int
    fixed: int

    def at(self, batch: int) -> int:
        """Bytes at a batch size, without the framework's own and the workspaces of the convolutions."""
        return self.fixed + batch * self.per_image


def training_memory(table: Sequence[Layer], states: int) -> Memory:
    """What the backward pass keeps of each image, and weights, gradients and `states` optimizer values a weight.

    `states` is 1 for SGD with momentum and 2 for Adam.
    """
    kept = sum(kept_of(layer, after) for layer, after in zip(table, [*table[1:], None], strict=True))
    parameters = sum(layer.trainable_parameters for layer in table)
    stored = sum(layer.parameters for layer in table)
    return Memory(per_image=kept, fixed=FLOAT * (stored + parameters * (1 + states)))


def kept_of(layer: Layer, after: Layer | None) -> int:
    """Bytes an image that the backward pass keeps of a layer, which `after` comes behind.

    Its output if its own backward pass reads it or the next layer's does, counted once. A locally connected layer keeps
    every window of its input, laid out.
    """
    size, kept = math.prod(layer.shape), 0
    if layer.kind in NEEDS_OUTPUT or after is None or after.kind in NEEDS_INPUT:
        kept += FLOAT * size
    if layer.kind == "local":
        kept += FLOAT * layer.multiply_adds // layer.shape[0]
    return kept + {"pool": INDEX * size, "drop": MASK * size}.get(layer.kind, 0)
