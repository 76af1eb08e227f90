"""Provides the modules of a network in order, with their input and output shapes. No torch here.

cost.py counts by them, network.py builds by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from alexnet_exp.errors import Problem, Refused
from alexnet_exp.model.spec import SMALL_IMAGE_PIXELS, Columns, Network, Norm, Pool, Stage

Shape = tuple[int, ...]
"""(channels, height, width), or (features,) once flattened."""

POOL_WINDOWS = {Pool.overlapping: (3, 2), Pool.disjoint: (2, 2)}
"""Kernel and stride of each kind of pooling, in pixels."""

LARGEST_INPUT_PIXELS = 4096
"""The limit of the search for the smallest usable input size."""


@dataclass(frozen=True)
class Part:
    """One module of the network: its stage, its slot, and its input and output shapes.

    `slot` is one of the stage's slots, or one of its own modules: pad, conv or local, flat, fc. `stage` has the values
    that are built: its window for this input size, and `out` scaled by the width. `before` and `after`: for one image.
    """

    stage_name: str
    slot: str
    stage: Stage
    before: Shape
    after: Shape

    @property
    def name(self) -> str:
        """The name of the module in the network: conv1.conv, fc6.drop."""
        return f"{self.stage_name}.{self.slot}"


def parts(spec: Network) -> list[Part]:
    """Returns the modules of a completed network, in order.

    Raises `Refused` where no pixels are left after a stage, with the smallest usable input size, or where maps cannot
    be split over the columns; ValueError where the network is not completed.
    """
    try:
        return _parts(spec)
    except _NothingLeftError as error:
        raise Refused([Problem("input_size", spec.input_size, f"{error}; {_smallest_usable_size(spec)}")]) from None


class _NothingLeftError(Exception):
    pass


def _parts(spec: Network) -> list[Part]:
    if spec.input_size is None or spec.in_channels is None or spec.num_classes is None or spec.width is None:
        raise ValueError("input_size, in_channels, num_classes or width is null; call complete(spec, ends) first")
    found: list[Part] = []
    shape: Shape = (spec.in_channels, spec.input_size, spec.input_size)
    for name, setting in spec.present.items():
        stage = _as_built(setting, spec)
        for slot in _slots(stage, shape, spec):
            _check_columns(name, slot, stage, shape, spec)
            part = Part(name, slot, stage, shape, _after(slot, stage, shape, spec))
            if min(part.after) < 1:
                raise _NothingLeftError(f"no pixels are left after {name}")
            found.append(part)
            shape = part.after
    return found


def _as_built(stage: Stage, spec: Network) -> Stage:
    assert spec.input_size is not None
    assert spec.width is not None
    if stage.small is not None and spec.input_size < SMALL_IMAGE_PIXELS:
        stage = replace(stage, **vars(stage.small))
    if stage.out is None:
        return replace(stage, out=spec.num_classes)
    # Maps are rounded to multiples of `groups`, so that the columns stay equal.
    step = spec.groups if stage.is_conv else 1
    return replace(stage, out=max(1, round(stage.out * spec.width / step)) * step)


def _slots(stage: Stage, shape: Shape, spec: Network) -> list[str]:
    if stage.is_conv:
        core = ["pad"] if len(stage.pad) == 4 else []
        core.append("local" if stage.local else "conv")
    else:
        core = ["flat", "fc"] if len(shape) == 3 else ["fc"]
    empty = {slot for slot, left_out in (("norm", spec.norm == Norm.none), ("drop", spec.dropout == 0)) if left_out}
    return [slot for slot in stage.first + core + stage.then if slot not in empty]


def _check_columns(name: str, slot: str, stage: Stage, shape: Shape, spec: Network) -> None:
    splits = (slot == "conv" and stage.columns == Columns.own) or (slot == "norm" and spec.norm == Norm.lrn)
    if splits and shape[0] % spec.groups:
        key = "columns" if slot == "conv" else "first" if slot in stage.first else "then"
        instead = f"its {shape[0]} maps cannot be split over groups={spec.groups} columns"
        raise Refused([Problem(f"stages.{name}.{key}", getattr(stage, key), instead)])


def _after(slot: str, stage: Stage, shape: Shape, spec: Network) -> Shape:
    assert stage.out is not None
    match slot:
        case "pad":
            left, right, top, bottom = stage.pad
            return shape[0], shape[1] + top + bottom, shape[2] + left + right
        case "conv" | "local":
            assert stage.kernel is not None
            around = 2 * stage.pad[0] if len(stage.pad) == 1 else 0
            return stage.out, *((side + around - stage.kernel) // stage.stride + 1 for side in shape[1:])
        case "flat":
            return (math.prod(shape),)
        case "fc":
            return (stage.out,)
        case "pool" | "avg":
            kernel, stride = POOL_WINDOWS[spec.pool]
            rounding = stride - 1 if spec.pool_ceil else 0
            return shape[0], *((side - kernel + rounding) // stride + 1 for side in shape[1:])
        case "to6":
            return shape[0], 6, 6
        case _:
            return shape


def _smallest_usable_size(spec: Network) -> str:
    assert spec.input_size is not None
    for size in range(spec.input_size + 1, LARGEST_INPUT_PIXELS):
        try:
            _parts(replace(spec, input_size=size))
        except _NothingLeftError:
            continue
        return f"the smallest usable size is {size}"
    return f"no size below {LARGEST_INPUT_PIXELS} is usable"
