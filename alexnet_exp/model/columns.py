"""A network in columns, one a process: cutting it, joining it, and the exchange between the columns.

Plain tensors and collectives, and not DTensor: that shards no convolution by its maps, least of all a grouped one, and
what it would spare (a tensor that knows its layout) is one line here, since every parameter is cut by its units.
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
from alexnet_exp.model.columns_layout import LOSS, Piece, layout
from alexnet_exp.model.locally_connected import LocallyConnected2d
from alexnet_exp.model.lrn import LRN
from alexnet_exp.model.network import AlexNet, MaskDropout


class Link(Protocol):
    """The other ranks, as one of them sees them. Every rank must make the same calls in the same order."""

    rank: int
    ranks: int

    def gather(self, own: Tensor) -> list[Tensor]:
        """Every rank's tensor of this shape, in the order of ranks."""

    def scatter(self, parts: Tensor) -> Tensor:
        """Of [ranks, ...], a part for each rank: the parts that all ranks have for this one, [ranks, ...]."""


@dataclass
class Group:
    """The processes of torch.distributed's default group, whatever its backend."""

    rank: int
    ranks: int

    def gather(self, own: Tensor) -> list[Tensor]:
        found = [torch.empty_like(own) for _ in range(self.ranks)]
        dist.all_gather(found, own)
        return found

    def scatter(self, parts: Tensor) -> Tensor:
        # Not reduce_scatter: gloo makes an all-reduce of it, which sends twice as much; and here the order of the
        # sum is ours, whatever the backend.
        found = torch.empty_like(parts)
        dist.all_to_all_single(found, parts)
        return found


class Exchange(nn.Module):
    """[N, own, ...] of every rank to [N, all, ...] on every rank; gradients go the other way, summed.

    replicated: what comes behind is computed alike on every rank (the loss), so that each has the whole gradient
    already and takes its own part of it: summing would count it once a rank, and nothing is sent.

    `sent` are the bytes that this rank has sent to others since the last `reset`: forward and backward.
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
        # contiguous: a stack of channels_last maps is not, and every backend asks for it
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
    """A column's part of a layer's dropout: the mask of the whole layer, of which the others take theirs.

    So the ranks, whose generators are in the same state and stay so, drop what one device would. `scale` is what
    remains to be multiplied with, in training and at test: `MaskDropout`'s 1 - p, else 1.
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
    """One column of `network`, which is taken apart for it: its modules, parameters cut, with the exchanges between.

    From whole images, the same on every rank, to whole logits, the same on every rank. Parameters are named as in the
    whole network. A whole network's state_dict loads, cut on the way in; `joined` makes one again. The whole network
    must be the same on every rank when it is cut: built from one seed, or read from one file.

    Raises `Refused` where the network cannot be cut, see `columns_count`.
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
        modules.add_module("exchange_logits", Exchange(link, LOSS, replicated=True))
        self.train(network.training)
        self.register_load_state_dict_pre_hook(_cut_whole)  # type: ignore[no-untyped-call]

    def sent(self) -> dict[str, tuple[int, int]]:
        """Bytes that this rank has sent since `reset`, forward and backward, by the stage that they were sent for."""
        return {exchange.stage: (exchange.sent[0], exchange.sent[1]) for exchange in self._exchanges()}

    def reset(self) -> None:
        """Counts what is sent from nothing again."""
        for exchange in self._exchanges():
            exchange.reset()

    def _exchanges(self) -> list[Exchange]:
        return [module for module in self.modules() if isinstance(module, Exchange)]


def cut(name: str, whole: Tensor, rank: int, ranks: int) -> Tensor:
    """A rank's part of a parameter, a buffer, or what an optimizer keeps of either; a single number is everyone's."""
    return whole if whole.ndim == 0 else whole.chunk(ranks, dim=_dim(name))[rank].clone()


def join(name: str, parts: Sequence[Tensor]) -> Tensor:
    """The whole of every rank's part: what `cut` takes apart."""
    return parts[0] if parts[0].ndim == 0 else torch.cat(list(parts), dim=_dim(name))


def cut_state(state: Mapping[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """A rank's part of a network's state_dict."""
    return {name: cut(name, whole, rank, ranks) for name, whole in state.items()}


def joined(name: str, own: Tensor, link: Link) -> Tensor:
    """The whole of a tensor that is cut as the parameter `name`. A collective."""
    return own if own.ndim == 0 else join(name, link.gather(own.detach().contiguous()))


def _dim(name: str) -> int:
    """Where a parameter has its layer's units: a locally connected layer's stand last, all others' first."""
    return -1 if name.split(".")[-2] == "local" else 0


def _cut_whole(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Cuts what in `state` is of the whole network; what is of a column is left. A load_state_dict pre-hook."""
    assert isinstance(module, ColumnNetwork)
    link = module.link
    for name, own in module.state_dict(keep_vars=True).items():
        found = state.get(prefix + name)
        if isinstance(found, Tensor) and found.ndim and found.shape[_dim(name)] == own.shape[_dim(name)] * link.ranks:
            state[prefix + name] = cut(name, found, link.rank, link.ranks)


def _column_of(module: nn.Module, piece: Piece, link: Link) -> nn.Module:
    """The module of a whole network with its parameters cut, in its column's place."""
    for key, whole in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        own = cut(f"{piece.part.name}.{key}", whole.detach(), link.rank, link.ranks)
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
        return module  # of the image, which every rank has whole
    elif isinstance(module, LRN):
        module.columns = 1
    elif isinstance(module, nn.Dropout):
        return ColumnDropout(module.p, 1 - module.p if isinstance(module, MaskDropout) else 1.0, link)
    return module


def _is_channels_last(maps: Tensor) -> bool:
    return maps.ndim == 4 and not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)
