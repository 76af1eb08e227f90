"""Provides the settings of learning-rate schedules. No torch here; schedules.py computes their multipliers.

The values of a schedule multiply `optim.lr`, so that one schedule works with every optimizer. Durations are in epochs
(`5`, `0.5`) or a part of the run (`30%`), never in steps: they stay valid when the batch size changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from alexnet_exp.errors import Checks, Problem, Refused, suggest_name
from alexnet_exp.optim.optimizer_spec import default_name


@dataclass(frozen=True)
class Duration:
    """A span of training: a number of epochs, or a percentage of the run."""

    epochs: float = 0.0
    percent: float = 0.0

    @classmethod
    def of(cls, value: Any) -> Duration:
        """Returns the duration of a setting: `5` and `0.5` are epochs, `"30%"` is a part of the run.

        Raises ValueError for anything else.
        """
        percent = isinstance(value, str) and value.endswith("%")
        number = math.nan if isinstance(value, bool) else float(value.rstrip("%") if percent else value)
        if not 0 <= number < math.inf or (percent and number > 100):
            raise ValueError(f"{value!r} is not a duration")
        return cls(percent=number) if percent else cls(epochs=number)

    def steps(self, total_steps: int, steps_per_epoch: int) -> float:
        """Returns the duration in optimizer steps, not rounded."""
        return self.epochs * steps_per_epoch + self.percent * total_steps / 100


def _is_duration(value: Any) -> bool:
    try:
        Duration.of(value)
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Stages:
    """A multiplier in stages: 1, and from each of `milestones` the entry of `factors` at the same position.

    Without milestones the multiplier is constant.
    """

    milestones: list[Any] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Returns an entry of a schedule; raises `Refused` for unknown settings and wrong values."""
        known = [each.name for each in fields(cls)]
        stages = cls(**{key: value for key, value in settings.items() if key in known})
        checks = stages.checks()
        checks.problems += [
            Problem(key, value, suggest_name(key, known)) for key, value in settings.items() if key not in known
        ]
        checks.done()
        return stages

    def checks(self) -> Checks:
        """Returns the problems of its settings; a subclass adds its own and raises them."""
        checks = Checks(self)
        usable = isinstance(self.milestones, list) and all(map(_is_duration, self.milestones))
        checks.that("milestones", usable, "must be epochs or parts of the run, such as [67,72] or [50%,75%]")
        numbers = isinstance(self.factors, list) and all(map(_is_multiple, self.factors))
        checks.that("factors", numbers, "must be numbers of at least 0, such as [0.1,0]")
        if usable and numbers:
            count = len(self.milestones)
            each = f"must have one entry for each milestone ({count})"
            checks.that("factors", len(self.factors) == count, each)
        return checks


@dataclass(frozen=True)
class LayerStages(Stages):
    """The stages of one layer's weights, and of its biases unless `biases` is false."""

    biases: bool = True

    def checks(self) -> Checks:
        checks = super().checks()
        checks.that("biases", isinstance(self.biases, bool), "must be true or false")
        return checks


def _is_multiple(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


@dataclass
class Schedule:
    """The settings that every schedule has. `factor` of optim/schedules.py computes its multipliers.

    biases: the `Stages` of all biases, in place of the schedule; empty: they follow the schedule, as the weights do.
    layers: the `LayerStages` of single layers, by the names of the network's stages. They multiply the layer's rate;
        a factor of 0 freezes the layer.
    """

    name: str
    biases: dict[str, Any] = field(default_factory=dict, kw_only=True)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict, kw_only=True)

    @property
    def needs_total(self) -> bool:
        """Whether it depends on the length of the run in steps."""
        return any(Duration.of(span).percent > 0 for span in self.durations)

    @property
    def durations(self) -> list[Any]:
        """The values of its settings that are durations."""
        return [milestone for each in (self.biases, *self.layers.values()) for milestone in each.get("milestones", [])]

    def bias_stages(self) -> Stages | None:
        """Returns the stages of the biases; None where they follow the schedule."""
        return Stages.of(self.biases) if self.biases else None

    def layer_stages(self, name: str) -> LayerStages | None:
        """Returns the stages of the layer of that name; None where it has none."""
        return LayerStages.of(self.layers[name]) if name in self.layers else None

    def checks(self) -> Checks:
        """Returns the problems of the settings of any schedule; a subclass adds its own and raises them."""
        checks = Checks(self)
        checks.one_of("name", [default_name(self)])
        entries: list[tuple[str, type[Stages], dict[str, Any]]] = [("biases", Stages, self.biases)]
        entries += [(f"layers.{name}", LayerStages, settings) for name, settings in self.layers.items()]
        for key, kind, settings in entries:
            try:
                kind.of(settings)
            except Refused as refused:
                checks.problems += [problem.under(key) for problem in refused.problems]
        return checks


@dataclass
class Warmed(Schedule):
    """A schedule that may start with a linear rise over `warmup`."""

    warmup: Any = 0

    @property
    def durations(self) -> list[Any]:
        return [self.warmup, *super().durations]

    def checks(self) -> Checks:
        checks = super().checks()
        checks.that("warmup", _is_duration(self.warmup), "must be a number of epochs such as 5, or a part such as 5%")
        return checks


@dataclass
class Constant(Warmed):
    """The learning rate stays at optim.lr."""

    name: str = "constant"

    def __post_init__(self) -> None:
        self.checks().done()


@dataclass
class Steps(Warmed):
    """The learning rate is multiplied by `factor` at each milestone.

    The default milestones are those of the 2012 run, whose rate was divided by ten by hand after 25, 51 and 79 of its
    91 epochs.
    """

    name: str = "steps"
    milestones: list[Any] = field(default_factory=lambda: ["27%", "56%", "87%"])
    factor: float = 0.1

    @property
    def durations(self) -> list[Any]:
        return [*self.milestones, *super().durations]

    def __post_init__(self) -> None:
        checks = self.checks()
        usable = len(self.milestones) > 0 and all(map(_is_duration, self.milestones))
        checks.that("milestones", usable, "must be epochs or parts of the run, such as [30,60,80] or [50%,75%]")
        checks.between("factor", 0, 1)
        checks.done()


@dataclass
class Plateau(Schedule):
    """The learning rate is multiplied by `factor` when `monitor` has not improved for more than `patience` epochs.

    An improvement is a change by more than `threshold` times the best value. `floor` is the smallest multiplier: by
    default the paper's three divisions by ten. Computed by `plateau_factor` of optim/schedules.py, as
    `torch.optim.lr_scheduler.ReduceLROnPlateau` does.
    """

    name: str = "plateau"
    monitor: str = "val/loss"
    factor: float = 0.1
    patience: int = 5
    threshold: float = 1e-4
    cooldown: int = 0
    floor: float = 1e-3

    def __post_init__(self) -> None:
        checks = self.checks()
        # No test/...: a schedule tuned on the test set would make the test scores optimistic.
        checks.one_of("monitor", [f"{split}/{metric}" for split in ("val", "train") for metric in ("loss", "top1")])
        checks.below("factor", 0, 1)
        checks.at_least("patience", 0)
        checks.below("threshold", 0, 1)
        checks.at_least("cooldown", 0)
        checks.between("floor", 0, 1)
        checks.done()

    @property
    def rises(self) -> bool:
        """Whether greater values of the monitored metric are better."""
        return not self.monitor.endswith("loss")


@dataclass
class Falling(Warmed):
    """A schedule that falls along half a cosine to `end` times optim.lr, optionally with warm `restarts`.

    A restart sets the rate to `restart_from` times optim.lr, without a warmup, and the next fall starts (SGDR:
    Loshchilov and Hutter, 2017). Each fall ends at the next restart or at the end of the run. Restarts after the end of
    the run are ignored, so that a run which ends at a restart given in epochs is the beginning of any longer run. A
    warmup in percent is a part of the first cycle.
    """

    end: float = 0.0
    restarts: list[Any] = field(default_factory=list)
    restart_from: float = 1.0

    @property
    def needs_total(self) -> bool:
        return True

    def checks(self) -> Checks:
        checks = super().checks()
        checks.between("end", 0, 1)
        usable = all(_is_duration(each) and Duration.of(each) != Duration() for each in self.restarts)
        checks.that("restarts", usable, "must be epochs or parts of the run, such as [10,30] or [50%]")
        falls = 0 < self.restart_from <= 1 and self.end <= self.restart_from
        checks.that("restart_from", falls, "must be from schedule.end to 1, and above 0")
        return checks


@dataclass
class OneCycle(Falling):
    """One rise from `start` to optim.lr over `warmup`, then one fall to `end`, both along a cosine (Smith, 2018).

    The defaults are those of torch.optim.lr_scheduler.OneCycleLR. The momentum does not cycle: a schedule here
    multiplies only the learning rate.
    """

    name: str = "one_cycle"
    warmup: Any = "30%"
    end: float = 4e-6
    start: float = 0.04

    def __post_init__(self) -> None:
        checks = self.checks()
        checks.between("start", 0, 1)
        checks.done()


@dataclass
class Cosine(Falling):
    """The learning rate falls along half a cosine from optim.lr to `end` times it (Loshchilov and Hutter, 2017)."""

    name: str = "cosine"

    def __post_init__(self) -> None:
        self.checks().done()


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "steps": Steps,
    "plateau": Plateau,
    "one_cycle": OneCycle,
    "cosine": Cosine,
}
