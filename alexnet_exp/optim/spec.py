"""Settings of optimizers and of learning-rate schedules. No torch here.

A schedule's values are multipliers of `optim.lr`, so that one schedule serves every optimizer. Its durations are given
in epochs (`5`, `0.5`) or as a part of the run (`30%`), never in steps: they hold when the batch size changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from alexnet_exp.errors import Checks, Problem, Refused, suggest_name


def _own_name(node: Any) -> str:
    """The `name` that chooses the class of `node` in a configuration read back from a run."""
    return str(type(node).__dataclass_fields__["name"].default)


@dataclass(frozen=True)
class LayerOptim:
    """What one layer has of its own: `lr`, a multiple of the optimizer's, and `weight_decay` (null: the optimizer's).

    `lr: 0` freezes the layer at where it starts.
    """

    lr: float = 1.0
    weight_decay: float | None = None

    @classmethod
    def of(cls, settings: dict[str, float | None]) -> LayerOptim:
        """Of an entry of `optim.layers`; raises `Refused` for a setting that no layer has, or a number below 0."""
        known = [each.name for each in fields(cls)]
        problems = [
            Problem(key, value, suggest_name(key, known)) for key, value in settings.items() if key not in known
        ]
        layer = cls(**{key: value for key, value in settings.items() if key in known})  # type: ignore[arg-type]
        checks = Checks(layer)
        checks.that("lr", layer.lr is not None, "must be a number: a multiple of optim.lr")
        checks.at_least("lr", 0)
        checks.at_least("weight_decay", 0)
        checks.problems += problems
        checks.done()
        return layer


@dataclass
class Optimizer:
    """What every optimizer has.

    Biases and norm gains are not decayed unless `decay_norm_and_bias` says so: the 2012 code decayed weights only, and
    shrinking the gain of a batch norm does not make the function simpler, since the next layer undoes it.
    `bias_lr` is the learning rate of biases as a multiple of that of the weights of the same layer; the 2012 code
    has 2. `layers` gives single layers a rate and a decay of their own, by the names of the network's stages.
    """

    name: str
    lr: float
    weight_decay: float
    decay_norm_and_bias: bool = False
    bias_lr: float = 1.0
    layers: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def checks(self) -> Checks:
        """The problems that any optimizer's settings may have; a subclass adds its own and raises them."""
        checks = Checks(self)
        checks.one_of("name", [_own_name(self)])
        checks.above("lr", 0)
        checks.at_least("weight_decay", 0)
        checks.at_least("bias_lr", 0)
        for name, settings in self.layers.items():
            try:
                LayerOptim.of(settings)
            except Refused as refused:
                checks.problems += [problem.under(f"layers.{name}") for problem in refused.problems]
        return checks

    def layer(self, name: str) -> LayerOptim:
        """What the layer (stage) of that name has of its own."""
        return LayerOptim.of(self.layers.get(name, {}))


@dataclass
class Sgd(Optimizer):
    """SGD with momentum; the defaults are those of the 2012 paper, section 5."""

    name: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        checks = self.checks()
        checks.below("momentum", 0, 1)
        checks.that(
            "nesterov", not self.nesterov or self.momentum > 0, "needs momentum above 0; write optim.momentum=0.9"
        )
        checks.done()


@dataclass
class Krizhevsky(Optimizer):
    """The update of 2012 (section 5 of the paper): v <- momentum v - weight_decay lr w - lr g, then w <- w + v.

    The learning rate is inside the velocity, where torch's SGD has it outside. The two are equal while the rate stays;
    when it drops, this one goes on for some steps with what it gathered at the old rate. As in the author's code biases
    are not decayed and learn at twice the weights' rate.
    """

    name: str = "krizhevsky"
    lr: float = 0.01
    weight_decay: float = 5e-4
    bias_lr: float = 2.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        checks = self.checks()
        checks.below("momentum", 0, 1)
        checks.done()


class EpsMode(StrEnum):
    """Which root of Adam's second moment v `eps` is added to: the corrected one (torch), or the plain one (keras).

    torch: step = lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps), algorithm 1 of Kingma and Ba.
    keras: step = lr / (1 - beta1^t) * m * sqrt(1 - beta2^t) / (sqrt(v) + eps), the variant of their section 2.
    """

    torch = "torch"
    keras = "keras"


@dataclass
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015). `weight_decay` is added to the gradient; for decoupled decay take AdamW."""

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    eps_mode: EpsMode = EpsMode.torch

    def __post_init__(self) -> None:
        checks = self.checks()
        usable = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        checks.that("betas", usable, "must be two numbers, each at least 0 and below 1, such as [0.9,0.999]")
        checks.above("eps", 0)
        checks.done()


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): a step shrinks weights by lr * weight_decay."""

    name: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.05


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Sgd, "krizhevsky": Krizhevsky, "adam": Adam, "adamw": AdamW}


@dataclass(frozen=True)
class Duration:
    """A span of training: so many epochs, or so many percent of the run."""

    epochs: float = 0.0
    percent: float = 0.0

    @classmethod
    def of(cls, value: Any) -> Duration:
        """The duration that a setting means: `5` and `0.5` are epochs, `"30%"` is a part of the run.

        Raises ValueError for anything else.
        """
        percent = isinstance(value, str) and value.endswith("%")
        number = math.nan if isinstance(value, bool) else float(value.rstrip("%") if percent else value)
        if not 0 <= number < math.inf or (percent and number > 100):
            raise ValueError(f"{value!r} is not a duration")
        return cls(percent=number) if percent else cls(epochs=number)

    def steps(self, total_steps: int, steps_per_epoch: int) -> float:
        """The duration in optimizer steps, not rounded."""
        return self.epochs * steps_per_epoch + self.percent * total_steps / 100


def _is_duration(value: Any) -> bool:
    try:
        Duration.of(value)
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Stages:
    """A rate in stages: 1, and from each of `milestones` on the multiple in `factors` at the same place.

    Without milestones the rate is constant.
    """

    milestones: list[Any] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Of an entry of a schedule; raises `Refused` for unknown settings and wrong values."""
        known = [each.name for each in fields(cls)]
        stages = cls(**{key: value for key, value in settings.items() if key in known})
        checks = stages.checks()
        checks.problems += [
            Problem(key, value, suggest_name(key, known)) for key, value in settings.items() if key not in known
        ]
        checks.done()
        return stages

    def checks(self) -> Checks:
        """The problems of its settings; a subclass adds its own and raises them."""
        checks = Checks(self)
        usable = isinstance(self.milestones, list) and all(map(_is_duration, self.milestones))
        checks.that("milestones", usable, "must be epochs or parts of the run, such as [67,72] or [50%,75%]")
        numbers = isinstance(self.factors, list) and all(map(_is_multiple, self.factors))
        checks.that("factors", numbers, "must be numbers of at least 0, such as [0.1,0]")
        if usable and numbers:
            count = len(self.milestones)
            each = f"must be as many as there are milestones ({count})"
            checks.that("factors", len(self.factors) == count, each)
        return checks


@dataclass(frozen=True)
class LayerStages(Stages):
    """The stages of one layer: of its weights, and of its biases unless `biases` is false."""

    biases: bool = True

    def checks(self) -> Checks:
        checks = super().checks()
        checks.that("biases", isinstance(self.biases, bool), "must be true or false")
        return checks


def _is_multiple(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


@dataclass
class Schedule:
    """What every schedule has: its name, and stages of the biases and of single layers.

    biases: the `Stages` of all biases, in place of the schedule; empty: they follow the schedule, as the weights do.
    layers: the `LayerStages` of single layers, by the names of the network's stages. They multiply the rates that the
        layer has otherwise; a factor of 0 freezes it.
    """

    name: str
    biases: dict[str, Any] = field(default_factory=dict, kw_only=True)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict, kw_only=True)

    @property
    def needs_total(self) -> bool:
        """Whether it needs to know, in steps, when the run will end."""
        return any(Duration.of(span).percent > 0 for span in self.durations)

    @property
    def durations(self) -> list[Any]:
        """Those of its settings that are durations."""
        return [milestone for each in (self.biases, *self.layers.values()) for milestone in each.get("milestones", [])]

    def bias_stages(self) -> Stages | None:
        """The stages that biases have in place of the schedule; None where they follow it."""
        return Stages.of(self.biases) if self.biases else None

    def layer_stages(self, name: str) -> LayerStages | None:
        """The stages that the layer of that name has of its own; None where it has none."""
        return LayerStages.of(self.layers[name]) if name in self.layers else None

    def checks(self) -> Checks:
        """The problems that any schedule's settings may have; a subclass adds its own and raises them."""
        checks = Checks(self)
        checks.one_of("name", [_own_name(self)])
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
    """A schedule that may begin with a linear rise over `warmup`."""

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

    The default milestones are where the 2012 run was divided by ten by hand: after 25, 51 and 79 of its 91 epochs.
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

    An improvement is one by more than `threshold` of the best value. `floor` is the smallest multiplier reached: by
    default the paper's three divisions by ten.
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
        # test/... is not among them: what is tuned on the test images says nothing about new ones
        checks.one_of("monitor", [f"{split}/{metric}" for split in ("val", "train") for metric in ("loss", "top1")])
        checks.below("factor", 0, 1)
        checks.at_least("patience", 0)
        checks.below("threshold", 0, 1)
        checks.at_least("cooldown", 0)
        checks.between("floor", 0, 1)
        checks.done()

    @property
    def rises(self) -> bool:
        """Whether a greater value of the monitored metric is the better one."""
        return not self.monitor.endswith("loss")


@dataclass
class Falling(Warmed):
    """A schedule that falls along half a cosine to `end` times optim.lr, and may be lifted again at each of `restarts`.

    A restart lifts the rate to `restart_from` times optim.lr at once, without a warmup, and the next fall begins (SGDR:
    Loshchilov and Hutter, 2017); each fall ends where the next restart or the run's end is. A restart that the run does
    not reach is left out, so that a run which ends at a restart, given in epochs, is the beginning of any longer one. A
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

    The defaults are those of torch.optim.lr_scheduler.OneCycleLR. Its cycling of the momentum is left out: a schedule
    here is a multiplier of the learning rate and nothing else.
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
