"""Provides which implementation of an operator a run uses: torch's, the C kernel of this package, or packed windows.

`calibration` measures the candidates once on a machine and stores the result. A run records its choice in result.json
and in its checkpoints. Another choice changes the rounding of a result, and never a random number.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alexnet_exp.errors import Problem, Refused
from alexnet_exp.kernels.native import NATIVE_VARIABLE, native, processor
from alexnet_exp.paths import cache_folder

FORMAT = 1  # of the stored file


class Operator(StrEnum):
    """An operator that has more than one implementation. The values are keys in result.json and in checkpoints."""

    FORWARD = "convolution_forward"
    INPUT_GRADIENT = "convolution_input_gradient"
    WEIGHT_GRADIENT = "convolution_weight_gradient"
    NORM = "batch_norm_relu"  # batch norm, ReLU and max pool, forward and backward
    DROPOUT = "relu_dropout"  # in bfloat16 only
    LRN = "lrn"
    IMAGES = "images"  # crop, mirror and scaling of a batch


class Candidate(StrEnum):
    """An implementation. packed: windows copied into a matrix, which the library multiplies; for convolutions."""

    TORCH = "torch"
    NATIVE = "native"
    PACKED = "packed"


CONVOLUTION = (Operator.FORWARD, Operator.INPUT_GRADIENT, Operator.WEIGHT_GRADIENT)
# The operators that the log names together.
_PHRASES = {
    "convolution": CONVOLUTION,
    "batch norm": (Operator.NORM,),
    "LRN": (Operator.LRN,),
    "images": (Operator.IMAGES,),
}


class Shape(NamedTuple):
    """What the time of an operator depends on, beside the batch: maps in and out, their side in, kernel and stride.

    The kernel and stride of batch norm are those of its pool; 1 and 1 where there is none.
    """

    maps_in: int
    maps_out: int
    side: int
    kernel: int = 1
    stride: int = 1

    def __str__(self) -> str:
        return "-".join(map(str, self))

    @classmethod
    def read(cls, text: str) -> Shape:
        """Returns the shape of a text by `str`; raises ValueError or TypeError for another text."""
        return cls(*map(int, text.split("-")))

    def distance(self, other: Shape) -> float:
        """Returns how much two shapes differ: octaves of the sizes, with twice the weight for side and window."""
        octaves = [abs(math.log2(max(ours, 1) / max(theirs, 1))) for ours, theirs in zip(self, other, strict=True)]
        return math.fsum(weight * each for weight, each in zip((1, 1, 2, 2, 2), octaves, strict=True))


ANY = Shape(1, 1, 1)


@dataclass(frozen=True)
class Choice:
    """The candidates of a run that computes in `dtype`, by the shapes that were measured.

    An operator of another shape gets the candidate of the nearest one, by `Shape.distance`. The first of equally near
    ones. source: where the choice is from, for the log.
    """

    dtype: str
    source: str
    rows: Mapping[Operator, Mapping[Shape, Candidate]]
    _found: dict[tuple[Operator, Shape], Candidate] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __hash__(self) -> int:
        return hash((self.dtype, self.source))

    def candidate(self, operator: Operator, shape: Shape = ANY) -> Candidate:
        """Returns the candidate. The caller uses torch's operator where it does not apply to the tensors."""
        found = self._found.get((operator, shape))
        if found is None:
            rows = self.rows.get(operator) or {ANY: Candidate.TORCH}
            found = self._found[operator, shape] = rows[min(rows, key=shape.distance)]
        return found

    def __str__(self) -> str:
        return self.describe(tuple(Operator))

    def describe(self, operators: Collection[Operator]) -> str:
        """Returns a phrase: `convolution torch/torch/packed+torch, batch norm native, ...`, the most frequent first.

        The three of a convolution are its forward pass, the gradient of its input and that of its weights.
        """
        kinds = {operator: self._kinds(operator) for operator in operators}
        if len(kinds) > 2 and len({*kinds.values()}) == 1:
            return f"{kinds[Operator.LRN]} only"
        named = {name: [kinds[each] for each in group if each in kinds] for name, group in _PHRASES.items()}
        return ", ".join(f"{name} {'/'.join(found)}" for name, found in named.items() if found)

    def _kinds(self, operator: Operator) -> str:
        found = Counter((self.rows.get(operator) or {ANY: Candidate.TORCH}).values())
        kinds: list[Candidate] = sorted(found, key=lambda kind: (-found[kind], kind))
        return "+".join(kinds)

    def to_json(self) -> dict[str, Any]:
        """Returns the choice as plain containers, for result.json and checkpoints."""
        rows = {
            str(operator): {str(shape): str(kind) for shape, kind in each.items()}
            for operator, each in self.rows.items()
        }
        return {"dtype": self.dtype, **rows}

    @classmethod
    def of_json(cls, given: Any, source: str) -> Choice:
        """Returns the choice of `to_json`; raises ValueError for anything else."""
        try:
            dtype, rows = str(given["dtype"]), {key: value for key, value in given.items() if key != "dtype"}
            read = {
                Operator(operator): {Shape.read(shape): Candidate(kind) for shape, kind in each.items()}
                for operator, each in rows.items()
            }
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"not a choice of kernels: {error}") from None
        return cls(dtype, source, read)


def forced(candidate: Candidate | str, dtype: str, source: str = "forced") -> Choice:
    """Returns the choice of one candidate for every operator that it applies to."""
    return Choice(dtype, source, {operator: {ANY: Candidate(candidate)} for operator in Operator})


def unmeasured(dtype: str) -> Choice:
    """Returns the choice of a machine that has measured nothing: our kernels, but torch's convolutions."""
    rows = {each: {ANY: Candidate.TORCH if each in CONVOLUTION else Candidate.NATIVE} for each in Operator}
    return Choice(dtype, "not measured", rows)


def setting() -> str:
    """Returns the value of `ALEXNET_EXP_NATIVE`: 0, 1 or auto; raises Refused for another one."""
    value = os.environ.get(NATIVE_VARIABLE) or "auto"
    if value not in ("0", "1", "auto"):
        wrong = "write 0 for torch's operators, 1 for our kernels wherever they apply, auto for the fastest"
        raise Refused([Problem(NATIVE_VARIABLE, value, wrong)])
    return value


def by_environment(dtype: str) -> Choice | None:
    """Returns the choice that `ALEXNET_EXP_NATIVE` demands; None where it leaves it to the measurement."""
    value = setting()
    if value == "auto":
        return None
    return forced(Candidate.NATIVE if value == "1" else Candidate.TORCH, dtype, f"{NATIVE_VARIABLE}={value}")


def dtype_name(dtype: torch.dtype) -> str:
    """Returns `float32` or `bfloat16`, and the like."""
    return str(dtype).removeprefix("torch.")


# --- the choice of this process

RUN = "run"
_active: dict[str, Choice] = {}
"""By precision, and under RUN the one of `use`."""


def active(dtype: str) -> Choice:
    """Returns the choice of this process for a precision: that of `use`, else the environment's or the stored one."""
    found = _active.get(dtype)
    if found is None:
        found = _active[dtype] = by_environment(dtype) or stored(dtype) or unmeasured(dtype)
    return found


def of_run() -> Choice:
    """Returns the last choice of `use`, for an operator whose result need not have the precision of the run."""
    return _active.get(RUN) or active("float32")


def use(choice: Choice) -> None:
    """Makes it the choice of this process for its precision, and that of the run."""
    _active[choice.dtype] = _active[RUN] = choice


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """Makes it the choice of this process inside the block."""
    before = dict(_active)
    use(choice)
    try:
        yield
    finally:
        _active.clear()
        _active.update(before)


# --- the stored choice of this machine


def file(dtype: str) -> Path:
    """Returns the file of the choice that was measured on this machine, with the present threads and versions."""
    hashed = blake2b(digest_size=12)
    for text in (str(FORMAT), dtype, native().key, processor(), torch.__version__, str(torch.get_num_threads())):
        hashed.update(text.encode() + b"\0")
    return cache_folder() / "kernels" / f"choice-{hashed.hexdigest()}.json"


def stored(dtype: str) -> Choice | None:
    """Returns the choice that was measured on this machine; None where there is none, or an unreadable one."""
    try:
        content = json.loads(file(dtype).read_text(encoding="utf-8"))
        choice = Choice.of_json(content["choice"], "measured")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # RuntimeError: no home folder
        return None
    return choice if choice.dtype == dtype else None
