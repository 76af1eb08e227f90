"""Provides an estimate of the memory that training a network takes, from its layer table. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_exp.model.cost import Layer

FLOAT_BYTES = 4
INDEX_BYTES = 8  # max pooling saves the index of each maximum as int64
MASK_BYTES = 1  # dropout saves a byte for each element

# Kinds whose backward pass reads their input, and kinds whose backward pass reads their output.
NEEDS_INPUT = {"conv", "fc", "bn", "lrn", "pool", "mapnorm"}
NEEDS_OUTPUT = {"relu", "tanh", "sigmoid"}


@dataclass(frozen=True)
class Memory:
    """Bytes used while training in float32: for each image of a batch, and independent of the batch."""

    per_image: int
    fixed: int

    def at(self, batch: int) -> int:
        """Returns bytes at a batch size, without torch's own memory and the workspaces of convolutions."""
        return self.fixed + batch * self.per_image


def training_memory(table: Sequence[Layer], states: int) -> Memory:
    """Returns the memory of training: activations saved for backward, weights, gradients and optimizer state.

    `states`: optimizer values for each weight, 1 for SGD with momentum and 2 for Adam.
    """
    saved = sum(saved_bytes(layer, after) for layer, after in zip(table, [*table[1:], None], strict=True))
    parameters = sum(layer.trainable_parameters for layer in table)
    stored = sum(layer.parameters for layer in table)
    return Memory(per_image=saved, fixed=FLOAT_BYTES * (stored + parameters * (1 + states)))


def saved_bytes(layer: Layer, after: Layer | None) -> int:
    """Returns the bytes for each image that are saved of a layer for the backward pass; `after` is the next layer.

    The output, if the backward pass of this or of the next layer reads it, counted once. A locally connected layer
    saves every window of its input.
    """
    size, saved = math.prod(layer.shape), 0
    if layer.kind in NEEDS_OUTPUT or after is None or after.kind in NEEDS_INPUT:
        saved += FLOAT_BYTES * size
    if layer.kind == "local":
        saved += FLOAT_BYTES * layer.multiply_adds // layer.shape[0]
    return saved + {"pool": INDEX_BYTES * size, "drop": MASK_BYTES * size}.get(layer.kind, 0)
