"""Provides the layout of a network split into columns, a rank each, and what the ranks exchange. No torch here.

As on the two GPUs of 2012, a rank has one column's kernels of each convolution and an equal share of the units of each
fully connected layer. The next stages need only the output of their own column, until a stage with `columns: all`:
before it, the ranks exchange their outputs. columns.py builds the network by this layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from alexnet_exp.errors import NO_VALUE, Problem, Refused
from alexnet_exp.model.cost import Layer, layer_of
from alexnet_exp.model.shapes import Part, Shape, parts
from alexnet_exp.model.spec import Columns, Network, Norm

LEARNED_SLOTS = ("conv", "local", "fc")
# A stage's own modules, after its `first`. The exchange comes before all of them, so that padding is not exchanged.
CORE_SLOTS = ("pad", "flat", *LEARNED_SLOTS)
LOSS_STAGE = "loss"
"""The name for the exchange of the logits: the softmax is over all classes."""


@dataclass(frozen=True)
class Piece:
    """A module of the network on one rank: `before` and `after` are its shapes there, for one image.

    exchange: whether the ranks exchange its input before it, so that `before` is the whole layer's shape.
    """

    part: Part
    before: Shape
    after: Shape
    exchange: bool


@dataclass(frozen=True)
class Crossing:
    """The numbers exchanged between the ranks before a stage, for one image; `shape` is the whole layer's.

    forward: activations, sent by all ranks together, each to every other rank. backward: gradients, sent by each rank
    for the activations of the others.
    """

    stage: str
    shape: Shape
    forward: int
    backward: int


def layout(spec: Network) -> list[Piece]:
    """Returns the modules of a completed network on one rank, in order. Raises `Refused` where it cannot be split."""
    whole = parts(spec)
    problems = list(_problems(spec, whole))
    if problems:
        raise Refused(problems)
    found: list[Piece] = []
    split = False  # whether the next module's input is the rank's own column; the image is whole
    for part in whole:
        exchange = split and part.slot in CORE_SLOTS and part.stage.columns == Columns.all
        split = split and not exchange
        before = _own(part.before, spec) if split else part.before
        split = split or part.slot in LEARNED_SLOTS
        after = _own(part.after, spec) if split else part.after
        found.append(Piece(part, before, after, exchange))
    return found


def rank_layers(spec: Network) -> list[Layer]:
    """Returns the rows of one rank's layer table, the same on all ranks; each exchange has a row of kind `exchange`."""
    found: list[Layer] = []
    alone = replace(spec, groups=1)  # within its column a rank's network has no columns
    for piece in layout(spec):
        stage = piece.part.stage_name
        if piece.exchange:
            found.append(Layer(f"{stage}.exchange", "exchange", piece.part.before))
        found.append(layer_of(replace(piece.part, before=piece.before, after=piece.after), alone))
    return [*found, Layer(f"{LOSS_STAGE}.exchange", "exchange", (int(spec.num_classes or 0),))]


def crossings(spec: Network) -> list[Crossing]:
    """Returns the exchanges of the ranks, in order; the logits last.

    Every rank computes the loss of all logits and so has their gradients: backward of the logits is 0.
    """
    found = []
    for piece in layout(spec):
        if piece.exchange:
            crossing = math.prod(piece.part.before) * (spec.groups - 1)
            found.append(Crossing(piece.part.stage_name, piece.part.before, crossing, crossing))
    classes = int(spec.num_classes or 0)
    return [*found, Crossing(LOSS_STAGE, (classes,), classes * (spec.groups - 1), 0)]


def _own(shape: Shape, spec: Network) -> Shape:
    return shape[0] // spec.groups, *shape[1:]


def _problems(spec: Network, whole: list[Part]) -> Iterator[Problem]:
    """Yields why a network cannot be split: no columns, an uneven number of units, parameters for the whole image."""
    if spec.groups < 2:
        yield Problem("groups", spec.groups, "the network has no columns; write model=paper, or model.groups=2")
        return
    learned = [part for part in whole if part.slot in LEARNED_SLOTS]
    first, last = learned[0], learned[-1]
    if first.stage.columns == Columns.own:
        instead = "the input of the first stage is the image, which has no columns; write all"
        yield Problem(f"stages.{first.stage_name}.columns", first.stage.columns, instead)
    if spec.norm == Norm.bn and any(part.slot == "norm" for part in whole[: whole.index(first)]):
        instead = "batch norm of the image belongs to no column; move norm to the stage's then"
        yield Problem(f"stages.{first.stage_name}.first", first.stage.first, instead)
    for part in learned:
        out = part.after[0]
        if out % spec.groups:
            key = "num_classes" if part is last else f"stages.{part.stage_name}.out"
            # With a width, the number of units is not the value in the configuration.
            as_written = part is last or spec.width == 1
            instead = f"{out} units cannot be split evenly over {spec.groups} columns"
            instead += "" if as_written else "; choose another model.width"
            yield Problem(key, out if as_written else NO_VALUE, instead)
