"""Measures the time of each layer, forward and backward, during real steps. These steps are not counted elsewhere.

Forward times come from hooks around each module. Backward times come from hooks of autograd nodes: the backward pass of
a layer lasts from the call of its output's node to that of the next layer, so it includes the gradients of its weights
and casts of them. `register_full_backward_hook` is not used because it forbids activations that work in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from alexnet_exp.bench.timer import Clock
from alexnet_exp.model import stage

# Names that no layer has: the whole network, and the preprocessing; both forward only.
NETWORK, PREPROCESS = "", "(preprocess)"


@dataclass
class LayerSeconds:
    """The seconds of each module in one step, forward (the whole network as `NETWORK`) and backward."""

    forward: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    backward: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class LayerTimes:
    """Measures `network` and the modules in `beside`. `remove` removes all hooks.

    exchanged: whether ranks exchange gradients at the end of the backward pass; that time belongs to no layer.
    fused: whether stages run several modules in one kernel. These are measured together, as `conv1.norm+act+pool`,
    because hooks would make each module run by itself.
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
        self._backward: list[tuple[str | None, Any]] = []  # what starts at each moment; None: no layer
        self._nodes: dict[Any, str | None] = {}
        self._started: dict[str, Any] = {}
        self._handles: list[Any] = []
        self._next = stage.run_first
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
        """Returns the seconds of the step. Call it after `Clock.settle`. backward_end: the end of the backward pass."""
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
        """Discards what was recorded in a step."""
        self._forward, self._backward, self._nodes = [], [], {}

    def remove(self) -> None:
        """Removes the hooks."""
        stage.run_first = self._next
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
            name = fused_name(names, modules[:ran])
            self._forward.append((name, start, self.clock.mark()))
            self._at(_node(out), name)
            return out, ran

        stage.run_first = watched

    def _at(self, node: Any, begins: str | None) -> None:
        """Records the start of `begins` when `node` runs; the first registration of a node counts."""
        if node is None or node in self._nodes:
            return
        self._nodes[node] = begins
        node.register_prehook(self._beginner(begins))

    def _beginner(self, begins: str | None) -> Callable[[Any], None]:
        return lambda _gradients: self._begin(begins)

    def _begin(self, name: str | None) -> None:
        self._backward.append((name, self.clock.mark()))


def fused_name(names: Mapping[int, str], modules: Sequence[nn.Module]) -> str:
    """Returns such as `conv1.norm+act+pool` for modules that run together; names: by their ids."""
    first, *others = (names.get(id(module), "") for module in modules)
    return "+".join([first, *(other.rpartition(".")[2] for other in others)])


def leaves(network: nn.Module) -> dict[str, nn.Module]:
    """Returns the modules without submodules by name, in order, each once."""
    named = {name: module for name, module in network.named_modules() if next(module.children(), None) is None}
    return {name or type(network).__name__: module for name, module in named.items()}


def _within_stages(network: nn.Module) -> dict[str, nn.Module]:
    """Returns the leaves of stages that may run several of them in one kernel."""
    stages = [name for name, module in network.named_modules() if isinstance(module, stage.FusedStage)]
    return {name: leaf for name, leaf in leaves(network).items() if name.rpartition(".")[0] in stages}


def _learned_first(network: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters of the first module with trainable ones, whose gradients come last."""
    learned = ([each for each in leaf.parameters() if each.requires_grad] for leaf in leaves(network).values())
    return next(filter(None, learned), [])


def _node(value: Any) -> Any:
    """Returns the autograd node of `value`, or of the first tensor in it that has one; None if there is none."""
    if isinstance(value, Tensor):
        return value.grad_fn
    if isinstance(value, dict):
        value = list(value.values())
    return next((node for each in value if (node := _node(each)) is not None), None) if _is_several(value) else None


def _is_several(value: Any) -> bool:
    return isinstance(value, (tuple, list))
