"""How long each layer takes, forward and backward, while the real step runs. In a pass of its own: noting takes time.

Forward by hooks around each module. Backward by hooks of autograd's nodes: a layer's backward lasts from when the node
of its output runs until the next layer's does, so its weights' gradients, and casts of them, are in it. Hooks of
modules would not do: `register_full_backward_hook` forbids an activation that works in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from alexnet_exp.bench.timer import Clock
from alexnet_exp.model import stage

# Names that no layer has: the network as a whole, and what makes its input of bytes; both forward only.
NETWORK, PREPROCESS = "", "(preprocess)"


@dataclass
class LayerSeconds:
    """Of one step: seconds of each module by name, forward (the whole network under `NETWORK`) and backward."""

    forward: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    backward: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class LayerTimes:
    """Watches `network` and the other modules named in `beside`; `remove` takes every hook away again.

    exchanged: whether ranks exchange gradients at the end of the backward pass; that time is no layer's.
    fused: whether stages run several modules in one kernel. A hook would make each run by itself, so that something
    else than the step were timed: what runs together is watched together, as `conv1.norm+act+pool`.
    """

    def __init__(
        self,
        clock: Clock,
        network: nn.Module,
        beside: Mapping[str, nn.Module],
        exchanged: bool = False,
        fused: bool = False,
    ):
        self.clock = clock
        self._forward: list[tuple[str, Any, Any]] = []
        self._backward: list[tuple[str | None, Any]] = []  # what begins at each moment; None: nothing of a layer
        self._nodes: dict[Any, str | None] = {}
        self._started: dict[str, Any] = {}
        self._handles: list[Any] = []
        self._next = stage._next
        together = _within_stages(network) if fused else {}
        alone = {name: module for name, module in leaves(network).items() if name not in together}
        watched = alone | {NETWORK: network} | dict(beside)
        if together:
            self._watch_stages({id(module): name for name, module in together.items()})
        for name, module in watched.items():
            self._watch(name, module, backward=name != NETWORK and name not in beside)
        for parameter in _learned_first(network) if exchanged else ():
            watch: Any = parameter.register_post_accumulate_grad_hook
            self._handles.append(watch(lambda _: self._begin(None)))

    def take(self, backward_end: Any) -> LayerSeconds:
        """The step's seconds, once the device has settled; `backward_end` is when its backward pass was over."""
        found = LayerSeconds()
        for name, start, end in self._forward:
            found.forward[name] += self.clock.seconds(start, end)
        ends = [*(moment for _, moment in self._backward), backward_end][1:]
        for (begun, start), end in zip(self._backward, ends, strict=True):
            if begun is not None:
                found.backward[begun] += self.clock.seconds(start, end)
        self.forget()
        return found

    def forget(self) -> None:
        """Drops what was noted of a step."""
        self._forward, self._backward, self._nodes = [], [], {}

    def remove(self) -> None:
        """Takes the hooks away."""
        stage._next = self._next
        for handle in self._handles:
            handle.remove()
        self.forget()

    def _watch(self, name: str, module: nn.Module, backward: bool) -> None:
        def before(_module: nn.Module, inputs: Any) -> None:
            if backward:
                self._at(_node(inputs), None)
            self._started[name] = self.clock.mark()

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._forward.append((name, self._started.pop(name), self.clock.mark()))
            if backward:
                self._at(_node(output), name)

        self._handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def _watch_stages(self, names: Mapping[int, str]) -> None:
        def watched(modules: list[nn.Module], x: Tensor) -> tuple[Tensor, int]:
            self._at(_node(x), None)
            start = self.clock.mark()
            out, ran = self._next(modules, x)
            first, *others = (names.get(id(module), "") for module in modules[:ran])
            name = "+".join([first, *(other.rpartition(".")[2] for other in others)])
            self._forward.append((name, start, self.clock.mark()))
            self._at(_node(out), name)
            return out, ran

        stage._next = watched

    def _at(self, node: Any, begins: str | None) -> None:
        """Notes when `node` runs that `begins` begins there; what was said of a node first stands."""
        if node is None or node in self._nodes:
            return
        self._nodes[node] = begins
        node.register_prehook(self._beginner(begins))

    def _beginner(self, begins: str | None) -> Callable[[Any], None]:
        return lambda _gradients: self._begin(begins)

    def _begin(self, name: str | None) -> None:
        self._backward.append((name, self.clock.mark()))


def leaves(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that have none within them, by name, in order; each once."""
    named = {name: module for name, module in network.named_modules() if next(module.children(), None) is None}
    return {name or type(network).__name__: module for name, module in named.items()}


def _within_stages(network: nn.Module) -> dict[str, nn.Module]:
    """The leaves that are in a stage which may run several of them together."""
    stages = [name for name, module in network.named_modules() if isinstance(module, stage.FusedStage)]
    return {name: leaf for name, leaf in leaves(network).items() if name.rpartition(".")[0] in stages}


def _learned_first(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of the first module that learns: their gradients come last."""
    learned = ([each for each in leaf.parameters() if each.requires_grad] for leaf in leaves(network).values())
    return next(filter(None, learned), [])


def _node(value: Any) -> Any:
    """Autograd's node that made `value`, or the first tensor in it that has one; None where none has."""
    if isinstance(value, Tensor):
        return value.grad_fn
    if isinstance(value, dict):
        value = list(value.values())
    return next((node for each in value if (node := _node(each)) is not None), None) if _is_several(value) else None


def _is_several(value: Any) -> bool:
    return isinstance(value, (tuple, list))
