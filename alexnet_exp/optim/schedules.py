"""Provides the multipliers of learning-rate schedules, as functions of the step. No torch here.

Settings: schedule_spec.py. A step is one update of the weights, counted from 0; its multiplier is applied to optim.lr.
The functions are pure, so that a schedule is plotted without a network and resumed without a state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_exp.errors import UserError
from alexnet_exp.optim.schedule_spec import (
    Constant,
    Duration,
    Falling,
    OneCycle,
    Plateau,
    Schedule,
    Stages,
    Steps,
    Warmed,
)


class SchedulePart(NamedTuple):
    """Parameters with one multiplier: the weights or the biases of one layer, or of all layers (`layer` empty)."""

    layer: str = ""
    biases: bool = False


WHOLE_SCHEDULE = SchedulePart()
"""The parameters that follow the schedule and have no stages of their own."""


def part_of(schedule: Schedule, parameter: str) -> SchedulePart:
    """Returns the part that contains the parameter of this name."""
    layer, bias = parameter.partition(".")[0], is_bias(parameter)
    own = schedule.layer_stages(layer)
    distinct = schedule.bias_stages() is not None or (own is not None and not own.biases)
    return SchedulePart(layer if own is not None else "", bias and distinct)


def is_bias(parameter: str) -> bool:
    """Whether a parameter is a bias, by its name."""
    return parameter.rpartition(".")[2] == "bias"


def part_factor(
    schedule: Schedule, part: SchedulePart, whole: float, step: int, total_steps: int, steps_per_epoch: int
) -> float:
    """Returns the multiplier of `part` in `step`; `whole` is that of the schedule itself."""
    if part == WHOLE_SCHEDULE:
        return whole
    length = total_steps, steps_per_epoch
    biases, own = schedule.bias_stages(), schedule.layer_stages(part.layer)
    if part.biases and biases is not None:
        whole = _stage(biases, step, *length)
    return whole if own is None or (part.biases and not own.biases) else whole * _stage(own, step, *length)


def factor(
    schedule: Schedule, step: int, total_steps: int, steps_per_epoch: int, history: Sequence[float] = ()
) -> float:
    """Returns the multiplier of optim.lr in `step` of a run of `total_steps`; later steps keep the last value.

    `history`: the monitored value of each finished epoch, used only by a Plateau.
    """
    if isinstance(schedule, Plateau):
        return plateau_factor(schedule, history)
    if isinstance(schedule, Falling):
        return _falling(schedule, step, total_steps, steps_per_epoch)
    assert isinstance(schedule, Warmed)
    warmup = round(Duration.of(schedule.warmup).steps(total_steps, steps_per_epoch))
    if step < warmup:
        return _along_line(step, warmup)
    if isinstance(schedule, Constant):
        return 1.0
    assert isinstance(schedule, Steps)
    return _steps(schedule, step, total_steps, steps_per_epoch)


def plateau_factor(schedule: Plateau, history: Sequence[float]) -> float:
    """Returns the multiplier after the epochs whose monitored values are in `history`, oldest first.

    Counts as torch.optim.lr_scheduler.ReduceLROnPlateau does, with a relative threshold. A NaN is no improvement.
    """
    sign = -1 if schedule.rises else 1
    best, bad_epochs, cooldown, multiplier = math.inf, 0, 0, 1.0
    for value in history:
        if sign * value < best - schedule.threshold * (abs(best) if best < math.inf else 0):
            best, bad_epochs = sign * value, 0
        else:
            bad_epochs += 1
        if cooldown > 0:
            cooldown, bad_epochs = cooldown - 1, 0
        if bad_epochs > schedule.patience:
            multiplier = max(multiplier * schedule.factor, schedule.floor)
            cooldown, bad_epochs = schedule.cooldown, 0
    return multiplier


def curve(schedule: Schedule, epochs: int, steps_per_epoch: int, part: SchedulePart = WHOLE_SCHEDULE) -> list[float]:
    """Returns the multiplier of `part` in every step of a run, for plotting.

    Raises UserError for a Plateau, which depends on the metrics of the run.
    """
    if isinstance(schedule, Plateau):
        raise UserError("schedule=plateau: depends on the run's validation metrics; a curve exists only after a run")
    total_steps = epochs * steps_per_epoch
    whole = [factor(schedule, step, total_steps, steps_per_epoch) for step in range(total_steps)]
    return [part_factor(schedule, part, value, step, total_steps, steps_per_epoch) for step, value in enumerate(whole)]


def _steps(schedule: Steps, step: int, total_steps: int, steps_per_epoch: int) -> float:
    milestones = (Duration.of(milestone).steps(total_steps, steps_per_epoch) for milestone in schedule.milestones)
    return schedule.factor ** sum(step >= round(milestone) for milestone in milestones)


def _stage(stages: Stages, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """Returns the factor of the latest milestone reached; of several at one step the last one listed."""
    begun = [(0, 1.0)]
    for milestone, factor in zip(stages.milestones, stages.factors, strict=True):
        begun.append((round(Duration.of(milestone).steps(total_steps, steps_per_epoch)), factor))
    reached = [(start, place) for place, (start, _) in enumerate(begun) if start <= step]
    return begun[max(reached)[1]][1]


def _falling(schedule: Falling, step: int, total_steps: int, steps_per_epoch: int) -> float:
    restarts = (round(Duration.of(each).steps(total_steps, steps_per_epoch)) for each in schedule.restarts)
    begins = [0, *sorted({begin for begin in restarts if 0 < begin < total_steps})]
    cycle = sum(step >= begin for begin in begins) - 1
    step -= begins[cycle]
    length = [*begins, total_steps][cycle + 1] - begins[cycle]
    # As in torch: `end` is the rate of the last step in OneCycleLR, and that of the step after the last one in
    # CosineAnnealingLR.
    last = length - 1 if isinstance(schedule, OneCycle) else length
    if cycle:
        return _along_cosine(schedule.restart_from, schedule.end, step, last)
    warmup = Duration.of(schedule.warmup).steps(length, steps_per_epoch)
    if isinstance(schedule, OneCycle):
        peak = max(0.0, warmup - 1)  # the last step of the warmup
        if step < peak:
            return _along_cosine(schedule.start, 1.0, step, peak)
        return _along_cosine(1.0, schedule.end, step - peak, last - peak)
    if step < round(warmup):
        return _along_line(step, round(warmup))
    return _along_cosine(1.0, schedule.end, step - round(warmup), last - round(warmup))


def _along_line(step: int, warmup: int) -> float:
    """Returns a linear rise whose first step is above 0, and which reaches 1 in the step after it."""
    return (step + 1) / (warmup + 1)


def _along_cosine(start: float, end: float, position: float, length: float) -> float:
    """Returns half a cosine from `start` at position 0 to `end` at position `length`, and `end` afterwards."""
    part = min(1.0, position / length) if length > 0 else 0.0
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
