"""A network cut into its columns, a rank each: what a rank holds and what crosses between them. No torch here.

The two GPUs of 2012: a rank has one column's kernels of each convolution and as great a part of the units of each fully
connected layer. What one column makes is all that the stages behind it need, until a stage sees all maps: before it
every rank gets what the others have. `columns` builds the network by the same layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from alexnet_exp.errors import NO_VALUE, Problem, Refused
from alexnet_exp.model.cost import Layer, layer_of
from alexnet_exp.model.shapes import Part, Shape, parts
from alexnet_exp.model.spec import Columns, Network, Norm

LEARNED = ("conv", "local", "fc")
# What a stage itself is made of, behind its `first`; the exchange comes before all of it: padding need not cross.
CORE = ("pad", "flat", *LEARNED)
LOSS = "loss"
"""Where the logits cross: the softmax is over all classes."""


@dataclass(frozen=True)
class Piece:
    """A module of the network as one rank has it: `before` and `after` are the shapes there, for one image.

    exchange: whether the ranks exchange what goes in, right before it, so that `before` is the whole.
    """

    part: Part
    before: Shape
    after: Shape
    exchange: bool


@dataclass(frozen=True)
class Crossing:
    """What crosses between the ranks before a stage, for one image: activations, of the whole layer's `shape`.

    forward: sent by all ranks together, each its own to every other one. backward: gradients, each rank those of the
    others' activations.
    """

    stage: str
    shape: Shape
    forward: int
    backward: int


def layout(spec: Network) -> list[Piece]:
    """The modules of a completed network, in order, as a rank has them. Raises `Refused` where it cannot be cut."""
    whole = parts(spec)
    problems = list(_problems(spec, whole))
    if problems:
        raise Refused(problems)
    found: list[Piece] = []
    split = False  # whether a rank has its own column alone of what comes next; the image it has whole
    for part in whole:
        exchange = split and part.slot in CORE and part.stage.columns == Columns.all
        split = split and not exchange
        before = _own(part.before, spec) if split else part.before
        split = split or part.slot in LEARNED
        after = _own(part.after, spec) if split else part.after
        found.append(Piece(part, before, after, exchange))
    return found


def layers(spec: Network) -> list[Layer]:
    """The rows of one rank's layer table; all ranks have the same. What was exchanged is a row of its own kind."""
    found: list[Layer] = []
    alone = replace(spec, groups=1)  # within its column a rank's network has no columns
    for piece in layout(spec):
        stage = piece.part.stage_name
        if piece.exchange:
            found.append(Layer(f"{stage}.exchange", "exchange", piece.part.before))
        found.append(layer_of(replace(piece.part, before=piece.before, after=piece.after), alone))
    return [*found, Layer(f"{LOSS}.exchange", "exchange", (int(spec.num_classes or 0),))]


def crossings(spec: Network) -> list[Crossing]:
    """Where the ranks exchange, in order; the logits last.

    Every rank computes the loss of all logits, so that it has their gradients: nothing goes back there.
    """
    found = []
    for piece in layout(spec):
        if piece.exchange:
            crossing = math.prod(piece.part.before) * (spec.groups - 1)
            found.append(Crossing(piece.part.stage_name, piece.part.before, crossing, crossing))
    classes = int(spec.num_classes or 0)
    return [*found, Crossing(LOSS, (classes,), classes * (spec.groups - 1), 0)]


def _own(shape: Shape, spec: Network) -> Shape:
    return shape[0] // spec.groups, *shape[1:]


def _problems(spec: Network, whole: list[Part]) -> Iterator[Problem]:
    """Why a network cannot be cut: no columns, units that do not split evenly, something learned of the whole image."""
    if spec.groups < 2:
        yield Problem("groups", spec.groups, "the network has no columns; write model=paper, or model.groups=2")
        return
    layers = [part for part in whole if part.slot in LEARNED]
    first, last = layers[0], layers[-1]
    if first.stage.columns == Columns.own:
        instead = "the first stage sees the image, which has no columns; write all"
        yield Problem(f"stages.{first.stage_name}.columns", first.stage.columns, instead)
    if spec.norm == Norm.bn and any(part.slot == "norm" for part in whole[: whole.index(first)]):
        instead = "batch norm of the image itself belongs to no column; write norm behind the stage's layer"
        yield Problem(f"stages.{first.stage_name}.first", first.stage.first, instead)
    for part in layers:
        out = part.after[0]
        if out % spec.groups:
            key = "num_classes" if part is last else f"stages.{part.stage_name}.out"
            # with a width, what was written is not what is built
            as_written = part is last or spec.width == 1
            instead = f"{out} units cannot be split evenly over {spec.groups} columns"
            instead += "" if as_written else "; choose another model.width"
            yield Problem(key, out if as_written else NO_VALUE, instead)
