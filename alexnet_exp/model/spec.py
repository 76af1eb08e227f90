"""Provides the settings of a network: named stages that read like the paper's table. No torch here.

Each class names the torch module that it configures; model/network.py has the table of slots, settings and modules.

A stage is a convolution (it has a `kernel`), a locally connected layer (a `kernel` and `local: true`: separate weights
at every pixel) or a fully connected layer (no `kernel`). The modules around it are listed by slot: `first` before it,
`then` after it, in the variant's own order. One setting of the network fills each slot in all stages:

    act      `activation`: relu, tanh or sigmoid
    norm     `norm`: lrn (across maps), bn, or none: the slot is empty
    mapnorm  `within_map`: the within-map normalization of cuda-convnet
    pool     `pool`: max pooling, overlapping (3x3, stride 2) or disjoint (2x2, stride 2)
    avg      `pool`: average pooling of the same windows
    to6      average pooling to 6x6 maps from any size, as in torchvision before its first `fc` layer
    drop     `dropout`; 0: the slot is empty

The variant determines the order of the slots: `model=lrn model.norm=bn` (act, norm) is not `model=bn` (norm, act).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from alexnet_exp.errors import Checks, Problem, suggest_name

SMALL_IMAGE_PIXELS = 64
"""Below this input size a stage uses its `small` window."""

MAP_SLOTS = ("pool", "avg", "mapnorm", "to6")
SLOTS = ("act", "norm", "drop", *MAP_SLOTS)


class Norm(StrEnum):
    """The module of the slot `norm`: `LRN` of model/lrn.py, torch's batch norm, or none."""

    lrn = "lrn"
    bn = "bn"
    none = "none"


class Pool(StrEnum):
    """Pooling windows: the paper's overlapping 3x3 at stride 2, or 2x2 at stride 2, which do not overlap.

    Configures torch's `nn.MaxPool2d` (slot `pool`) and `nn.AvgPool2d` (slot `avg`).
    """

    overlapping = "overlapping"
    disjoint = "disjoint"


class Activation(StrEnum):
    """The module of the slot `act`: torch's `nn.ReLU`, `nn.Tanh` or `nn.Sigmoid`."""

    relu = "relu"
    tanh = "tanh"
    sigmoid = "sigmoid"


class Columns(StrEnum):
    """The input maps of a convolution: all, or only those of its own column (one of `groups`)."""

    all = "all"
    own = "own"


class Convention(StrEnum):
    """What `LRN` multiplies by alpha: the window's sum (the paper's formula) or its mean (the 2012 code, torch)."""

    paper = "paper"
    code = "code"


class DropoutScale(StrEnum):
    """When dropout rescales units: in training (inverted: torch's `nn.Dropout`) or at test (mask: `MaskDropout`)."""

    inverted = "inverted"
    mask = "mask"


class Init(StrEnum):
    """The initialization: torch's defaults, Glorot uniform or He normal (these two with zero biases)."""

    torch = "torch"
    glorot = "glorot"
    he = "he"


class Scale(StrEnum):
    """The range of pixels before mean and std: 0..255 unchanged, or 0..1."""

    bytes = "bytes"
    unit = "unit"


@dataclass
class Lrn:
    """Local response normalization across maps: a / (k + alpha * sum or mean of a^2 over `size` maps)^beta.

    Section 3.3 of the paper. Configures `LRN` of model/lrn.py.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    convention: Convention = Convention.code

    def problems(self) -> list[Problem]:
        checks = Checks(self)
        checks.that(
            "size", self.size > 0 and self.size % 2 == 1, "must be odd: the map itself and equally many on each side"
        )
        checks.at_least("alpha", 0)
        checks.above("k", 0)
        return checks.problems


@dataclass
class WithinMap:
    """Within-map normalization of cuda-convnet: x / (k + scale * mean of x^2 over size x size of the same map)^beta.

    Configures `WithinMapNorm` of model/lrn.py.
    """

    size: int = 5
    scale: float = 0.001
    beta: float = 0.75
    k: float = 1.0

    def problems(self) -> list[Problem]:
        checks = Checks(self)
        checks.that(
            "size", self.size > 0 and self.size % 2 == 1, "must be odd: the pixel and equally many on each side"
        )
        checks.at_least("scale", 0)
        checks.above("k", 0)
        return checks.problems


@dataclass
class BatchNorm:
    """Batch normalization; `momentum` is torch's: the weight of the new batch (Keras' 0.99 is 0.01 here).

    Configures torch's `nn.BatchNorm2d`, after a fully connected layer `nn.BatchNorm1d`.
    """

    eps: float = 1e-5
    momentum: float = 0.1

    def problems(self) -> list[Problem]:
        checks = Checks(self)
        checks.above("eps", 0)
        checks.between("momentum", 0, 1)
        return checks.problems


@dataclass
class Input:
    """The variant's own preprocessing: (pixels on `scale`'s range - mean) / std.

    Configures `Preprocess` of model/preprocess.py.

    `mean` is none, channel or pixel (measured on the training images) or a number for each channel; `std` is none,
    channel or a number for each channel. Numbers are on the scaled range: 0..1 when `scale` is unit.
    """

    scale: Scale = Scale.unit
    mean: Any = "none"
    std: Any = "none"

    def problems(self, channels: int | None) -> list[Problem]:
        checks = Checks(self)
        for key, choices in (("mean", ("none", "channel", "pixel")), ("std", ("none", "channel"))):
            value = getattr(self, key)
            if not isinstance(value, list):
                checks.that(
                    key, value in choices, f"{suggest_name(value, choices)}, or a list of numbers, one for each channel"
                )
            elif not all(isinstance(number, int | float) for number in value):
                checks.refuse(key, "must contain only numbers, one for each channel")
            else:
                checks.that(key, channels in (None, len(value)), f"must contain in_channels={channels} numbers")
                checks.that(key, key == "mean" or all(number > 0 for number in value), "must be greater than 0")
        return checks.problems


@dataclass
class Window:
    """The window of a convolution, in pixels: `pad` zeros on every side (one number), or left, right, top, bottom.

    Configures torch's `nn.Conv2d`, with four pads `nn.ZeroPad2d` before it.
    """

    kernel: int = 3
    stride: int = 1
    pad: list[int] = field(default_factory=lambda: [0])

    def problems(self) -> list[Problem]:
        checks = Checks(self)
        _check_window(checks)
        return checks.problems


@dataclass
class Stage:
    """One learned layer and the modules around it.

    Configures `FusedStage` of model/stage.py and its layer: torch's `nn.Conv2d` or `nn.Linear`, or
    `LocallyConnected2d` of model/locally_connected.py.

    `out`: maps or units, before `width` scales them; null: `num_classes` (the last stage, and only it).
    `kernel` null: fully connected. `small`: the window used instead for images below 64 pixels.
    `std`, `bias`: standard deviation of the initial weights (normal), and the initial bias; null: as the network's
        `init`.
    `local`: locally connected, as the last layers of cuda-convnet's 13 % net: the window of a convolution, with
        separate weights and a separate bias at every pixel.
    `whiten`: the weights are not trained; they whiten the windows of the training images (`model/whitening.py`). For
        the first stage, a convolution of up to two filters for each number of a window.
    """

    out: int | None = None
    kernel: int | None = None
    stride: int = 1
    pad: list[int] = field(default_factory=lambda: [0])
    columns: Columns = Columns.all
    local: bool = False
    whiten: bool = False
    first: list[str] = field(default_factory=list)
    then: list[str] = field(default_factory=list)
    std: float | None = None
    bias: float | None = None
    small: Window | None = None

    @property
    def is_conv(self) -> bool:
        """Whether it has a window and outputs maps: a convolution or a locally connected layer."""
        return self.kernel is not None

    @property
    def slots(self) -> list[str]:
        return self.first + self.then

    def problems(self) -> list[Problem]:
        checks = Checks(self)
        checks.above("out", 0)
        checks.at_least("std", 0)
        _check_window(checks)
        for key in ("first", "then"):
            for slot in getattr(self, key):
                checks.that(key, slot in SLOTS, f"unknown slot {slot}; {suggest_name(slot, SLOTS)}")
                checks.that(key, self.slots.count(slot) == 1, f"{slot} may occur only once in a stage")
        checks.that("whiten", not (self.whiten and self.local), "needs a convolution; write local: false")
        own = self.local and self.columns == Columns.own
        checks.that("columns", not own, "a locally connected stage has all maps as input; write all, or local: false")
        if not self.is_conv:
            for key in ("stride", "pad", "columns", "local", "whiten", "small"):
                default = getattr(Stage(), key)
                checks.that(
                    key, getattr(self, key) == default, "only convolutions have this setting; give the stage a kernel"
                )
        small = self.small.problems() if self.small else []
        return checks.problems + [problem.under("small") for problem in small]


@dataclass
class Network:
    """A whole network; the schema of the configuration's group `model`.

    Configures `AlexNet` of model/network.py. `complete` of model/completion.py fills null settings from the data.
    Raises `Refused` with all problems at once.
    """

    name: str = "alexnet"
    stages: dict[str, Stage | None] = field(default_factory=dict)
    """By name, in order; null removes a stage."""
    width: float | None = None
    """Scales the `out` of all stages but the last; null: the width that the data suggests."""
    groups: int = 1
    """Columns; 2 are the paper's two GPUs. A stage with `columns: own` reads only its own; LRN stays inside one."""
    norm: Norm = Norm.none
    lrn: Lrn = field(default_factory=Lrn)
    bn: BatchNorm = field(default_factory=BatchNorm)
    within_map: WithinMap = field(default_factory=WithinMap)
    pool: Pool = Pool.overlapping
    pool_ceil: bool = False
    """Whether pooling sizes are rounded up, so that the last window may extend past the edge (cuda-convnet)."""
    activation: Activation = Activation.relu
    dropout: float = 0.0
    dropout_scale: DropoutScale = DropoutScale.inverted
    init: Init = Init.torch
    input_size: int | None = None
    """Side of the square input in pixels; null: the data's."""
    in_channels: int | None = None
    num_classes: int | None = None
    input: Input = field(default_factory=Input)
    weights: str | None = None
    """The initial weights: a file, or a run."""

    @property
    def present(self) -> dict[str, Stage]:
        """The stages that are not removed, in order."""
        return {name: stage for name, stage in self.stages.items() if stage is not None}

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.above("width", 0)
        checks.below("dropout", 0, 1)
        checks.at_least("groups", 1)
        checks.at_least("input_size", 1)
        checks.at_least("in_channels", 1)
        checks.at_least("num_classes", 2)
        checks.problems += [
            *(problem.under("lrn") for problem in self.lrn.problems()),
            *(problem.under("bn") for problem in self.bn.problems()),
            *(problem.under("within_map") for problem in self.within_map.problems()),
            *(problem.under("input") for problem in self.input.problems(self.in_channels)),
        ]
        for name, stage in self.present.items():
            checks.problems += [problem.under(f"stages.{name}") for problem in stage.problems()]
        checks.problems += _end_problems(self.present)
        checks.problems += _order_problems(self.present)
        checks.problems += _whiten_problems(self)
        if self.groups >= 1:
            checks.problems += _group_problems(self)
        if not checks.problems:
            slots = {slot for stage in self.present.values() for slot in stage.slots}
            checks.that("norm", self.norm == Norm.none or "norm" in slots, _no_slot("norm"))
            checks.that("dropout", self.dropout == 0 or "drop" in slots, _no_slot("drop"))
        checks.done()


def _check_window(checks: Checks) -> None:
    checks.above("kernel", 0)
    checks.above("stride", 0)
    pad = checks.node.pad
    shape = len(pad) in (1, 4) and min(pad) >= 0
    checks.that("pad", shape, "must be [all sides] or [left, right, top, bottom], in pixels of 0 or more")


def _end_problems(stages: dict[str, Stage]) -> Iterator[Problem]:
    """Yields what is wrong with the last stage: only it has `num_classes` outputs, and it is fully connected."""
    if not stages:
        yield Problem("stages", "{}", "a network needs at least one stage")
        return
    *inner, last = stages
    for name in inner:
        if stages[name].out is None:
            yield Problem(
                f"stages.{name}.out", None, "only the last stage may leave it out; write the number of maps or units"
            )
    if stages[last].out is not None:
        yield Problem(f"stages.{last}.out", stages[last].out, "the last stage has num_classes outputs; write null")
    if stages[last].is_conv:
        yield Problem(
            f"stages.{last}.kernel", stages[last].kernel, "the last stage must be fully connected; write null"
        )


def _order_problems(stages: dict[str, Stage]) -> Iterator[Problem]:
    """Yields convolutions and slots that need maps after the first fully connected stage, which outputs none."""
    flat: str | None = None
    for name, stage in stages.items():
        if flat and stage.is_conv:
            instead = f"{name} follows {flat}, which is fully connected; give {flat} a kernel"
            yield Problem(f"stages.{name}.kernel", stage.kernel, instead)
            return
        if flat:
            yield from _map_slots(f"stages.{name}.first", stage.first, flat)
        if not stage.is_conv:
            flat = flat or name
            yield from _map_slots(f"stages.{name}.then", stage.then, flat)


def _map_slots(key: str, slots: list[str], flat: str) -> Iterator[Problem]:
    for slot in slots:
        if slot in MAP_SLOTS:
            yield Problem(key, slots, f"{slot} needs maps, but {flat} is fully connected; remove {slot}")


def _whiten_problems(spec: Network) -> Iterator[Problem]:
    """Yields stages that whiten and are not the first, or have more filters than both signs of all components."""
    for number, (name, stage) in enumerate(spec.present.items()):
        if not stage.whiten or stage.kernel is None:
            continue
        key = f"stages.{name}.whiten"
        if number > 0 or stage.first:
            yield Problem(key, True, "only the first stage can whiten, with nothing before its convolution")
        most = 2 * (spec.in_channels or 3) * stage.kernel**2
        if stage.out is not None and stage.out * (spec.width or 1) > most:
            yield Problem(f"stages.{name}.out", stage.out, f"must be at most {most}, two for each number of a window")


def _group_problems(spec: Network) -> Iterator[Problem]:
    own = [name for name, stage in spec.present.items() if stage.columns == Columns.own]
    if spec.groups > 1 and spec.present and not own:
        yield Problem(
            "groups", spec.groups, "no stage has columns: own; write one, such as model.stages.conv2.columns=own"
        )
    for name, stage in spec.present.items():
        if stage.is_conv and stage.out is not None and stage.out % spec.groups:
            yield Problem(f"stages.{name}.out", stage.out, f"must be a multiple of groups={spec.groups}")


def _no_slot(slot: str) -> str:
    return f"no stage has the slot {slot}, so this has no effect; add it to a stage's then"
