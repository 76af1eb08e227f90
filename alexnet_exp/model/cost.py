"""Provides the parameters, multiply-adds and activations of a network, layer by layer. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from alexnet_exp.model.shapes import Part, Shape, parts
from alexnet_exp.model.spec import Columns, Network, Norm


@dataclass(frozen=True)
class Layer:
    """One module's row of the layer table.

    `shape` is its output for one image: (channels, height, width), or (features,) once flattened. `multiply_adds` and
    `activations` are counted as the paper counts them: those of convolutions and fully connected layers (and locally
    connected ones).
    """

    name: str
    kind: str
    shape: Shape
    parameters: int = 0
    trainable_parameters: int = 0
    multiply_adds: int = 0
    activations: int = 0


@dataclass(frozen=True)
class Totals:
    """A whole network's counts, forward, for one image.

    `parameters` are what Keras counts: with batch norm's running means and variances, which are stored and not
    trained. `activations` are the paper's neurons: the outputs of the convolutions and fully connected layers.
    """

    parameters: int
    trainable_parameters: int
    multiply_adds: int
    activations: int


def layers(spec: Network) -> list[Layer]:
    """Returns the rows of a completed network, in order, named as its modules. Raises `Refused` as `parts` does."""
    return [layer_of(part, spec) for part in parts(spec)]


def totals(table: Iterable[Layer]) -> Totals:
    """Returns the sums over the rows of `layers(spec)`."""
    rows = list(table)
    return Totals(
        parameters=sum(layer.parameters for layer in rows),
        trainable_parameters=sum(layer.trainable_parameters for layer in rows),
        multiply_adds=sum(layer.multiply_adds for layer in rows),
        activations=sum(layer.activations for layer in rows),
    )


def layer_of(part: Part, spec: Network) -> Layer:
    """Returns the row of one module."""
    if part.slot in ("conv", "local", "fc"):
        return _learned(part, spec)
    if part.slot == "norm" and spec.norm == Norm.bn:
        # A scale and a shift for each map; its running mean and variance are stored beside them.
        maps = part.after[0]
        return Layer(part.name, "bn", part.after, parameters=4 * maps, trainable_parameters=2 * maps)
    kind = {"norm": str(spec.norm), "act": str(spec.activation)}.get(part.slot, part.slot)
    return Layer(part.name, kind, part.after)


def _learned(part: Part, spec: Network) -> Layer:
    """Returns the row of a learned layer: a convolution reuses each weight at every pixel, the others do not."""
    stage, out, pixels = part.stage, part.after[0], math.prod(part.after[1:])
    groups = spec.groups if stage.columns == Columns.own else 1
    weights = out * part.before[0] // groups * (stage.kernel or 1) ** 2
    parameters = (weights + out) * (pixels if part.slot == "local" else 1)
    return Layer(
        part.name,
        part.slot,
        part.after,
        parameters=parameters,
        trainable_parameters=out if stage.whiten else parameters,
        multiply_adds=weights * pixels,
        activations=math.prod(part.after),
    )
