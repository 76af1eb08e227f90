"""Provides the implementation of each operator for a run: what it began with, else the fastest on this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from alexnet_exp.kernels import choice
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.calibration import calibrated
from alexnet_exp.kernels.choice import ANY, CONVOLUTION, Candidate, Choice, Operator
from alexnet_exp.kernels.convolution import has_bfloat16_products
from alexnet_exp.kernels.native import native
from alexnet_exp.training.devices import Placement

log = logging.getLogger(__name__)

DTYPES = {"32-true": "float32", "bf16-mixed": "bfloat16"}  # by the precision of a run
# Keys of result.json and of a checkpoint.
NAME_KEY, CHOICE_KEY = "kernels", "kernel_choice"
EVERYWHERE = (Operator.LRN, Operator.IMAGES)  # kernels that need no memory layout


@dataclass(frozen=True)
class RunKernels:
    """What a run records. name: in a phrase. choice: as plain containers; None on a GPU. why: for the log."""

    name: str
    why: str = ""
    choice: Mapping[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """Returns the entries of result.json and of a checkpoint."""
        return {NAME_KEY: self.name, CHOICE_KEY: None if self.choice is None else dict(self.choice)}

    def __str__(self) -> str:
        return f"kernels{self.why}: {self.name}"


def choose_kernels(placement: Placement, compiled: bool, began: Mapping[str, Any] | None = None) -> RunKernels:
    """Sets the choice of this process for a run, and returns it.

    `ALEXNET_EXP_NATIVE` is obeyed first, then what the run began with, and last the measurement, which is made here if
    this machine has none yet. began: the entries of `record` in the checkpoint that is resumed; logs a warning where
    its choice cannot be used. Raises Refused for an invalid `ALEXNET_EXP_NATIVE`.
    """
    choice.setting()
    if placement.accelerator != "cpu":
        return RunKernels(f"images {choice.of_run().candidate(Operator.IMAGES)}")
    dtype = DTYPES.get(placement.precision, "float32")
    needs = _unmet(placement, compiled)
    recorded = _recorded(began or {}, dtype)
    chosen = choice.by_environment(dtype) or recorded
    if chosen is None:
        chosen = choice.active(dtype) if needs else calibrated(dtype)
    chosen = _usable(chosen)
    choice.use(chosen)
    if recorded is not None and not needs:
        _report_difference(recorded, chosen)
    missing = "" if library() is not None else f", no native kernels: {native().why}"
    if not needs:
        return RunKernels(str(chosen), f" ({chosen.source}{missing})", chosen.to_json())
    some = replace(chosen, rows={each: chosen.rows[each] for each in EVERYWHERE if each in chosen.rows})
    return RunKernels(some.describe(EVERYWHERE), f" ({needs}{missing})", some.to_json())


def _unmet(placement: Placement, compiled: bool) -> str:
    """Returns the setting that keeps a network from using kernels for its stages; empty where there is none."""
    if placement.precision not in DTYPES:
        return "others need trainer.precision=32-true or bf16-mixed"
    if not placement.channels_last:
        return "others need trainer.channels_last=true"
    return "others need trainer.compile=false" if compiled else ""


def _recorded(began: Mapping[str, Any], dtype: str) -> Choice | None:
    """Returns the choice of a checkpoint; None where it has none for this precision."""
    if CHOICE_KEY in began:
        if began[CHOICE_KEY] is None:  # saved on a GPU, where torch's operators and Triton compute the rest
            return None
        try:
            found = Choice.of_json(began[CHOICE_KEY], "as the run began")
        except ValueError as error:
            log.warning(f"the checkpoint's {CHOICE_KEY} is ignored: {error}")
            return None
        return found if found.dtype == dtype else None
    name = began.get(NAME_KEY)
    # "images" alone was recorded on a GPU.
    return _of_first_version(name, dtype) if isinstance(name, str) and name != "images" else None


def _of_first_version(name: str, dtype: str) -> Choice:
    """Returns the choice behind `step, LRN, images`, `LRN, images` or `none: ...`, which version 0.1 recorded."""
    natives = {part.strip() for part in name.partition(":")[0].split(",")}
    kinds = {Operator.LRN: "LRN", Operator.IMAGES: "images"}
    rows = {
        each: {ANY: Candidate.NATIVE if kinds.get(each, "step") in natives else Candidate.TORCH} for each in Operator
    }
    return Choice(dtype, "as the run began", rows)


def _usable(chosen: Choice) -> Choice:
    """Returns the choice without the kernels that this machine does not have."""
    has = library() is not None
    products = has and (chosen.dtype != "bfloat16" or has_bfloat16_products())

    def usable(operator: Operator, candidate: Candidate) -> Candidate:
        runs = products if operator in CONVOLUTION else has
        return candidate if runs or candidate != Candidate.NATIVE else Candidate.TORCH

    rows = {
        operator: {shape: usable(operator, candidate) for shape, candidate in each.items()}
        for operator, each in chosen.rows.items()
    }
    return replace(chosen, rows=rows)


def _report_difference(began: Choice, now: Choice) -> None:
    """Logs a warning where a resumed run computes some operator in another way than before."""
    shapes = [(operator, shape) for operator, each in began.rows.items() for shape in each]
    if all(began.candidate(*each) == now.candidate(*each) for each in shapes):
        return
    because = "" if library() is not None else f" ({native().why})"
    log.warning(
        f"kernels: {began} when the checkpoint was saved, {now} now{because}: the same experiment, but rounding "
        "differs from that of an uninterrupted run"
    )
