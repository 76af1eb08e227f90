"""The times of layers, by a clock that counts: what is done between two of its marks is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from alexnet_exp.bench.layers import NETWORK, LayerTimes
from alexnet_exp.bench.timer import AUGMENT, BACKWARD, FORWARD, OPTIMIZER, WAIT, Clock, Stopwatch


class Slow(nn.Module):
    """Passes its input on; `clock` goes on by `forward` and by `backward` seconds meanwhile."""

    def __init__(self, clock: Ticking, forward: float, backward: float):
        super().__init__()
        self.clock, self.seconds = clock, (forward, backward)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Slow.apply(maps, self.clock, *self.seconds)
        return out


class _Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor, clock: Ticking, forward: float, backward: float) -> torch.Tensor:
        clock.now += forward
        ctx.clock, ctx.backward_seconds = clock, backward
        return maps * 1

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.clock.now += ctx.backward_seconds
        return gradients[0], None, None, None


class Ticking(Clock):
    """A clock that stands still but where it is told to go on."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.now = 0.0

    def mark(self) -> float:
        return self.now


class Between(nn.Module):
    """Two slow layers, and something slow between them that is no layer."""

    def __init__(self, clock: Ticking):
        super().__init__()
        self.clock = clock
        self.first, self.same, self.last = Slow(clock, 1, 10), nn.Identity(), Slow(clock, 2, 20)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(_Slow.apply(self.same(self.first(maps)), self.clock, 4, 40))
        return out


def test_each_layer_gets_its_own_seconds_and_what_is_between_them_none() -> None:
    clock = Ticking()
    network = Between(clock)
    watch = LayerTimes(clock, network, {})
    maps = torch.ones(2, requires_grad=True)
    for _ in range(2):
        network(maps).sum().backward()
        found = watch.take(clock.mark())
        assert dict(found.forward) == {"first": 1, "same": 0, "last": 2, NETWORK: 7}
        assert dict(found.backward) == {"first": 10, "last": 20}
    watch.remove()
    network(maps).sum().backward()
    assert not watch.take(clock.mark()).forward


def test_inplace_activations_and_frozen_weights_are_measured() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2))
    network[0].requires_grad_(False)
    clock = Clock(torch.device("cpu"))
    watch = LayerTimes(clock, network, {}, exchanged=True)
    images = torch.rand(3, 1, 4, 4)
    expected = network(images).detach()
    watch.forget()
    out = network(images)
    out.sum().backward()
    found = watch.take(clock.mark())
    assert torch.equal(out, expected)
    assert [*found.forward] == ["0", "1", "2", "3", NETWORK]
    assert [*found.backward] == ["3"]  # nothing in front of it learns
    assert all(seconds >= 0 for seconds in (*found.forward.values(), *found.backward.values()))


def test_a_stopwatch_separates_the_parts_of_a_step() -> None:
    clock = Ticking()
    watch = Stopwatch(clock)
    actions = [
        ("[_TrainingEpochLoop].train_dataloader_next", 1),
        ("[Strategy]SingleDeviceStrategy.batch_to_device", 2),
        ("[Strategy]SingleDeviceStrategy.training_step", 4),
        ("[LightningModule]AlexNetModule.optimizer_zero_grad", 8),
        ("[Callback]Recorder.on_train_batch_end", 16),
        ("[LightningModule]AlexNetModule.on_before_backward", 32),
    ]
    outer = "[LightningModule]AlexNetModule.optimizer_step"
    for name, seconds in actions[:2]:
        with watch.profile(name):
            clock.now += seconds
    with watch.profile(outer):
        for name, seconds in actions[2:]:
            with watch.profile(name):
                clock.now += seconds
        with watch.profile("[Strategy]SingleDeviceStrategy.backward"):
            clock.now += 64
    spans = {span.part: (span.end - span.start, span.inside) for span in watch.take()}
    assert spans == {
        WAIT: (1, False),
        AUGMENT: (2, False),
        FORWARD: (4, True),
        "zero_grad": (8, True),
        BACKWARD: (64, True),
        OPTIMIZER: (124, False),
    }
    assert watch.take() == []
