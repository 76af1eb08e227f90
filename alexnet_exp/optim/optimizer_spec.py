"""Provides the settings of optimizers. No torch here; optimizers.py builds torch's optimizers from them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from alexnet_exp.errors import Checks, Problem, Refused, suggest_name


def default_name(node: Any) -> str:
    """Returns the `name` that selects the class of `node` in a configuration read from a run."""
    return str(type(node).__dataclass_fields__["name"].default)


@dataclass(frozen=True)
class LayerOptim:
    """The settings of one layer: `lr`, a multiple of the optimizer's, and `weight_decay` (null: the optimizer's).

    `lr: 0` freezes the layer at its initial weights.
    """

    lr: float = 1.0
    weight_decay: float | None = None

    @classmethod
    def of(cls, settings: dict[str, float | None]) -> LayerOptim:
        """Returns an entry of `optim.layers`; raises `Refused` for an unknown setting or a negative number."""
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
    """The settings that every optimizer has. `build_optimizer` of optim/optimizers.py builds torch's from them.

    Biases and norm gains have no weight decay unless `decay_norm_and_bias` is true: the 2012 code decayed weights
    only, and shrinking the gain of a batch norm does not make the function simpler, since the next layer undoes it.
    `bias_lr` is the learning rate of biases as a multiple of that of the weights of the same layer; 2 in the 2012
    code. `layers` sets the rate and decay of single layers, by the names of the network's stages.
    """

    name: str
    lr: float
    weight_decay: float
    decay_norm_and_bias: bool = False
    bias_lr: float = 1.0
    layers: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def checks(self) -> Checks:
        """Returns the problems of the settings of any optimizer; a subclass adds its own and raises them."""
        checks = Checks(self)
        checks.one_of("name", [default_name(self)])
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
        """Returns the settings of the layer (stage) of that name."""
        return LayerOptim.of(self.layers.get(name, {}))


@dataclass
class Sgd(Optimizer):
    """SGD with momentum; the defaults are those of the 2012 paper, section 5. Configures `torch.optim.SGD`."""

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

    Configures `KrizhevskySGD` of optim/krizhevsky.py. The learning rate is inside the velocity; in torch's SGD it is
    outside. The two are equal while the rate is constant; after a drop the velocity here still contains steps at the
    old rate. As in the author's code, biases have no weight decay and twice the learning rate of the weights.
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
    """The root of Adam's second moment v to which `eps` is added: bias-corrected (torch) or not (keras).

    torch: step = lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps), algorithm 1 of Kingma and Ba.
    keras: step = lr / (1 - beta1^t) * m * sqrt(1 - beta2^t) / (sqrt(v) + eps), the variant of their section 2.
    """

    torch = "torch"
    keras = "keras"


@dataclass
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015). Configures `torch.optim.Adam`.

    `weight_decay` is added to the gradient; AdamW has decoupled decay.
    """

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
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): a step shrinks weights by lr * weight_decay.

    Configures `torch.optim.AdamW`.
    """

    name: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.05


@dataclass
class Muon(Optimizer):
    """Muon (Jordan et al., 2024): the update of a weight matrix is orthogonalized. Configures `Muon` of optim/muon.py.

    Orthogonalized: the weights of all layers but the last, a convolution's as a matrix with a row for each filter. The
    other parameters are trained by SGD with Nesterov's momentum, at a rate of `lr` times `other_lr`: the size of an
    orthogonalized update does not depend on that of the gradient, theirs does. `normalize`: before each step an
    orthogonalized weight is scaled to a norm of the root of its rows, in place of the weight decay, so that `lr` is the
    part of a weight that a step changes.
    """

    name: str = "muon"
    lr: float = 0.1
    weight_decay: float = 0.005
    momentum: float = 0.6
    other_lr: float = 5.0
    normalize: bool = True

    def __post_init__(self) -> None:
        checks = self.checks()
        checks.below("momentum", 0, 1)
        checks.above("other_lr", 0)
        checks.done()


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Sgd,
    "krizhevsky": Krizhevsky,
    "adam": Adam,
    "adamw": AdamW,
    "muon": Muon,
}
