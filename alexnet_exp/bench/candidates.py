"""Names the implementation of each operator of a network, and measures what the other candidates take at its shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_exp.bench.layers import fused_name, leaves
from alexnet_exp.kernels.batch_norm import NO_POOL
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.calibration import calls, measure
from alexnet_exp.kernels.choice import ANY, CONVOLUTION, Candidate, Operator, Shape, active, dtype_name, of_run
from alexnet_exp.kernels.convolution import Ways
from alexnet_exp.model import stage
from alexnet_exp.model.lrn import LRN


@dataclass(frozen=True)
class LayerOperator:
    """An operator of a layer, and the candidate that computes it in this process.

    layer: as in the table of layers. dtype: float32 or bfloat16. pad, groups: of convolutions.
    """

    layer: str
    operator: Operator
    dtype: str
    shape: Shape
    chosen: Candidate
    pad: int = 0
    groups: int = 1

    def milliseconds(self, batch: int) -> dict[str, float]:
        """Measures each candidate with as many images; empty for dropout, which has no calibration."""
        if self.operator == Operator.DROPOUT:
            return {}
        found = measure(calls(self.operator, self.dtype, self.shape, self.pad, batch, self.groups))
        return {str(candidate): 1e3 * seconds for candidate, seconds in found.items()}


def layer_operators(network: nn.Module, channels: int, size: int, bf16: bool) -> list[LayerOperator]:
    """Returns the operators with candidates in the stages of a network that trains on the CPU in channels_last.

    In the order of the network. Runs two zero images of `size` pixels through it; its buffers and the random numbers
    are restored.
    """
    if not any(isinstance(module, stage.FusedStage) for module in network.modules()):
        return []
    found: list[LayerOperator] = []
    names = {id(module): name for name, module in leaves(network).items()}
    images = torch.zeros(2, channels, size, size).contiguous(memory_format=torch.channels_last)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    run_next = stage.run_first

    def recorded(modules: list[nn.Module], x: Tensor) -> tuple[Tensor, int]:
        operators = list(_operators(modules, x, first=not found))
        out, ran = run_next(modules, x)
        layer = fused_name(names, modules[:ran])
        found.extend(LayerOperator(layer, *operator) for operator in operators)
        return out, ran

    stage.run_first = recorded
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), _autocast(bf16):
            network.train()(images)
    finally:
        stage.run_first = run_next
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    return found


def image_operator(channels: int, size: int, bf16: bool) -> LayerOperator:
    """Returns the scaling of images of `size` pixels to the network's input."""
    shape = Shape(channels, channels, size)
    chosen = of_run().candidate(Operator.IMAGES, shape)
    return LayerOperator("(images)", Operator.IMAGES, "bfloat16" if bf16 else "float32", shape, chosen)


def phrases(operators: list[LayerOperator]) -> dict[str, str]:
    """Returns the candidates by layer: `packed/native/packed`, of a convolution in the order of `CONVOLUTION`."""
    found: dict[str, str] = {}
    for each in operators:
        found[each.layer] = "/".join(filter(None, (found.get(each.layer), each.chosen)))
    return found


def rows(operators: list[LayerOperator], batch: int) -> list[dict[str, Any]]:
    """Measures the candidates of every operator: plain containers for JSON and the report."""
    return [
        {
            "layer": each.layer,
            "operator": str(each.operator),
            "shape": str(each.shape),
            "chosen": str(each.chosen),
            "ms": ms,
        }
        for each in operators
        if (ms := each.milliseconds(batch))
    ]


def _autocast(bf16: bool) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def _operators(
    modules: list[nn.Module], x: Tensor, first: bool
) -> Iterator[tuple[Operator, str, Shape, Candidate] | tuple[Operator, str, Shape, Candidate, int, int]]:
    """Yields the operators of the first of `modules`, of which some may run in one kernel. first: of the network."""
    module, second, third = [*modules, None, None][:3]
    dtype = dtype_name(stage.run_dtype(x))
    side = round((x.shape[2] * x.shape[3]) ** 0.5) if x.ndim == 4 else 1
    if isinstance(module, nn.Conv2d) and _is_square(module) and stage.are_maps(x):
        ways = stage.convolution_ways(module, x) or Ways()
        sizes = module.kernel_size[0], module.stride[0]
        shape = Shape(module.in_channels, module.out_channels, side, *sizes)
        for operator, way in zip(CONVOLUTION, ways, strict=True):
            if not (first and operator == Operator.INPUT_GRADIENT):  # images have no gradient
                assert isinstance(module.padding[0], int)
                yield operator, dtype, shape, Candidate(way), module.padding[0], module.groups
    elif isinstance(module, nn.BatchNorm2d) and stage.is_relu(second) and stage.are_maps(x):
        window = stage.pool_window(third, x) or NO_POOL
        native = stage.takes_norm(module, x) and stage.norm_is_native(x, window)
        shape = Shape(x.shape[1], x.shape[1], side, window.kernel, window.stride)
        yield Operator.NORM, dtype_name(x.dtype), shape, Candidate.NATIVE if native else Candidate.TORCH
    elif isinstance(module, LRN) and library() is not None:
        shape = Shape(x.shape[1], x.shape[1], x.shape[-1])
        kind = dtype_name(x.dtype)
        yield Operator.LRN, kind, shape, active(kind).candidate(Operator.LRN, shape)
    elif stage.is_relu(module) and stage.takes_dropout(second, x):
        yield Operator.DROPOUT, dtype, ANY, Candidate.NATIVE


def _is_square(conv: nn.Conv2d) -> bool:
    sizes = (conv.kernel_size, conv.stride, conv.padding)
    same = all(not isinstance(size, str) and size[0] == size[1] for size in sizes)
    return same and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
