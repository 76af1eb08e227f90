"""Provides a network split into columns, one a process: cutting and joining parameters, and exchanging activations.

Built on plain tensors and collectives instead of DTensor, which does not shard (grouped) convolutions by their maps.
Every parameter is cut along its units, so no other layout is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_exp.kernels.derivatives import first_order
from alexnet_exp.model.columns_layout import LOSS_STAGE, Piece, layout
from alexnet_exp.model.locally_connected import LocallyConnected2d
from alexnet_exp.model.lrn import LRN
from alexnet_exp.model.network import AlexNet, MaskDropout


class Link(Protocol):
    """The communication of one rank with the others. Every rank must make the same calls in the same order."""

    rank: int
    ranks: int

    def gather(self, own: Tensor) -> list[Tensor]:
        """Returns every rank's tensor of the shape of `own`, in the order of ranks. A collective."""

    def scatter(self, parts: Tensor) -> Tensor:
        """Sends part i of `parts`, [ranks, ...], to rank i; returns the parts received, [ranks, ...]. A collective."""


@dataclass
class ColumnGroup:
    """The processes of torch.distributed's default group, with any backend."""

    rank: int
    ranks: int

    def gather(self, own: Tensor) -> list[Tensor]:
        found = [torch.empty_like(own) for _ in range(self.ranks)]
        dist.all_gather(found, own)
        return found

    def scatter(self, parts: Tensor) -> Tensor:
        # Not reduce_scatter: gloo implements it as an all-reduce, which sends twice as much, and the order of the sum
        # would depend on the backend.
        found = torch.empty_like(parts)
        dist.all_to_all_single(found, parts)
        return found


class Exchange(nn.Module):
    """Gathers [N, own, ...] of every rank to [N, all, ...] on every rank; backward, it scatters and sums gradients.

    replicated: the modules after it compute the same on every rank (the loss). Each rank then already has the whole
    gradient and takes its own part; nothing is sent, and summing would count the gradient once for each rank.

    `sent`: bytes that this rank has sent to others since the last `reset`, forward and backward.
    """

    def __init__(self, link: Link, stage: str, replicated: bool = False):
        super().__init__()
        self.link, self.stage, self.replicated = link, stage, replicated
        self.reset()

    def reset(self) -> None:
        self.sent = [0, 0]

    def forward(self, own: Tensor) -> Tensor:
        everyone: Tensor = _Exchanged.apply(own, self)
        return everyone

    def gather(self, own: Tensor) -> Tensor:
        last = _is_channels_last(own)
        own = own.contiguous()
        self.sent[0] += own.nbytes * (self.link.ranks - 1)
        everyone = torch.cat(self.link.gather(own), dim=1)
        return everyone.contiguous(memory_format=torch.channels_last) if last else everyone

    def scatter(self, gradient: Tensor) -> Tensor:
        parts = gradient.chunk(self.link.ranks, dim=1)
        if self.replicated:
            return parts[self.link.rank]
        self.sent[1] += gradient.nbytes // self.link.ranks * (self.link.ranks - 1)
        # A stack of channels_last maps is not contiguous, which every backend requires.
        own = self.link.scatter(torch.stack(parts).contiguous()).sum(0)
        return own.contiguous(memory_format=torch.channels_last) if _is_channels_last(gradient) else own

    def extra_repr(self) -> str:
        return f"before {self.stage}, column {self.link.rank} of {self.link.ranks}"


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.gather(own)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.scatter(gradient), None


class ColumnDropout(nn.Module):
    """A column's part of a layer's dropout: every rank draws the mask of the whole layer and uses its own part.

    The generators of the ranks stay in the same state, so that the same units are dropped as on one device. `scale`
    multiplies the result in training and at test: 1 - p for `MaskDropout`, else 1.
    """

    def __init__(self, p: float, scale: float, link: Link):
        super().__init__()
        self.p, self.scale, self.link = p, scale, link

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            n, own, *rest = input.shape
            whole = torch.ones(n, own * self.link.ranks, *rest, dtype=input.dtype, device=input.device)
            if _is_channels_last(input):
                whole = whole.contiguous(memory_format=torch.channels_last)
            input = input * F.dropout(whole, self.p).chunk(self.link.ranks, dim=1)[self.link.rank]
        return input if self.scale == 1 else self.scale * input

    def extra_repr(self) -> str:
        return f"p={self.p}, scale={self.scale}"


class ColumnNetwork(nn.Sequential):
    """One column of `network`, whose modules it takes over: parameters cut, exchanges between the stages.

    Input: whole images, the same on every rank. Output: whole logits, the same on every rank. Parameters are named as
    in the whole network; `load_state_dict` accepts a state_dict of the whole network, and `gather_parameter` returns
    whole parameters. The whole network must be the same on every rank: built from one seed or read from one file.

    Settings: `Network.groups` of model/spec.py. Raises `Refused` where the network cannot be split (`layout` of
    columns_layout.py).
    """

    def __init__(self, network: AlexNet, link: Link):
        super().__init__()
        self.spec, self.link = network.spec, link
        for piece in layout(network.spec):
            stage = piece.part.stage_name
            if stage not in self._modules:
                self.add_module(stage, nn.Sequential())
            modules = self.get_submodule(stage)
            if piece.exchange:
                modules.add_module("exchange", Exchange(link, stage))
            modules.add_module(piece.part.slot, _column_of(network.get_submodule(piece.part.name), piece, link))
        modules.add_module("exchange_logits", Exchange(link, LOSS_STAGE, replicated=True))
        self.train(network.training)
        self.register_load_state_dict_pre_hook(_cut_whole)  # type: ignore[no-untyped-call]

    def sent(self) -> dict[str, tuple[int, int]]:
        """Returns the bytes that this rank has sent since `reset`, forward and backward, by stage."""
        return {exchange.stage: (exchange.sent[0], exchange.sent[1]) for exchange in self._exchanges()}

    def reset(self) -> None:
        """Sets the counts of bytes to 0."""
        for exchange in self._exchanges():
            exchange.reset()

    def _exchanges(self) -> list[Exchange]:
        return [module for module in self.modules() if isinstance(module, Exchange)]


def cut_parameter(name: str, whole: Tensor, rank: int, ranks: int) -> Tensor:
    """Returns a rank's part of a parameter, buffer or optimizer state; a single number is whole on every rank."""
    return whole if whole.ndim == 0 else whole.chunk(ranks, dim=_dim(name))[rank].clone()


def join(name: str, parts: Sequence[Tensor]) -> Tensor:
    """Returns the whole parameter from every rank's part: the inverse of `cut_parameter`."""
    return parts[0] if parts[0].ndim == 0 else torch.cat(list(parts), dim=_dim(name))


def cut_state(state: Mapping[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """Returns a rank's part of a network's state_dict."""
    return {name: cut_parameter(name, whole, rank, ranks) for name, whole in state.items()}


def gather_parameter(name: str, own: Tensor, link: Link) -> Tensor:
    """Returns the whole of a tensor that is cut as the parameter `name`. A collective."""
    return own if own.ndim == 0 else join(name, link.gather(own.detach().contiguous()))


def _dim(name: str) -> int:
    """Returns the dimension of the units: the last of a locally connected layer, the first of all others."""
    return -1 if name.split(".")[-2] == "local" else 0


def _cut_whole(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Cuts the whole network's entries of `state`; a column's do not change. A load_state_dict pre-hook."""
    assert isinstance(module, ColumnNetwork)
    link = module.link
    for name, own in module.state_dict(keep_vars=True).items():
        found = state.get(prefix + name)
        if isinstance(found, Tensor) and found.ndim and found.shape[_dim(name)] == own.shape[_dim(name)] * link.ranks:
            state[prefix + name] = cut_parameter(name, found, link.rank, link.ranks)


def _column_of(module: nn.Module, piece: Piece, link: Link) -> nn.Module:
    """Returns the module of a whole network with its parameters cut, for its column."""
    for key, whole in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        own = cut_parameter(f"{piece.part.name}.{key}", whole.detach(), link.rank, link.ranks)
        setattr(module, key, nn.Parameter(own, whole.requires_grad) if isinstance(whole, nn.Parameter) else own)
    before, after = piece.before[0], piece.after[0]
    if isinstance(module, nn.Conv2d):
        module.in_channels, module.out_channels, module.groups = before, after, 1
    elif isinstance(module, LocallyConnected2d):
        module.in_channels, module.out_channels = before, after
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = before, after
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        module.num_features = after
    elif piece.before == piece.part.before:
        return module  # its input is the image, which every rank has whole
    elif isinstance(module, LRN):
        module.columns = 1
    elif isinstance(module, nn.Dropout):
        return ColumnDropout(module.p, 1 - module.p if isinstance(module, MaskDropout) else 1.0, link)
    return module


def _is_channels_last(maps: Tensor) -> bool:
    return maps.ndim == 4 and not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)
