"""How fast a GPU trains.

- Steps of tutorial, bn, lrn and paper against a loop of torch's own modules in turn: autocast, channels_last and a
  fused optimizer as ours, its images ready on the GPU, and no metrics.
- LRN, forward and backward, against `F.local_response_norm`, and against a copy of the bytes that must move.
- The default precision against float32; each mode of `trainer.compile` against the uncompiled network, whose first
  losses it must repeat.
- The ladder's last rung, from memory on the GPU.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_exp.bench.peak_flops import measure_peak
from alexnet_exp.bench.run import endless
from alexnet_exp.config.compose import compose
from alexnet_exp.config.schema import COMPILE_MODES, Config
from alexnet_exp.config.validate import validate
from alexnet_exp.model.cost import layers
from alexnet_exp.model.lrn import LRN
from alexnet_exp.model.spec import Convention, Network
from alexnet_exp.optim.optimizers import build_optimizer
from alexnet_exp.runs.reader import read_result
from alexnet_exp.training.build import Experiment, build, lay_out, prepare
from alexnet_exp.training.compilation import compile_network
from alexnet_exp.training.devices import Placement, place
from alexnet_exp.training.module import AlexNetModule
from alexnet_exp.training.trainer import build_trainer
from benchmarks import cifar as images_of
from benchmarks.cuda_checks import LOSSES, difference
from benchmarks.cuda_part import Check, Setup
from benchmarks.roofline import floor
from benchmarks.rows import Goal, Row, alternate

STEPS = 30  # in a turn
WARM = 5
LRN_SHAPES = ((512, 96, 55, 55), (512, 256, 27, 27))  # its places in the paper's network
# Of LRN, in tensors: forward reads one and writes one; backward reads two and writes one. A copy reads one, writes one.
LRN_TENSORS, COPY_TENSORS = 5, 2
LEAST_OF_LOOP, LRN_TIMES, COPY_TIMES, RUNG_SECONDS = 0.97, 15.0, 2.0, 15.0
COMPILED_LOSS = 1e-3  # relative difference of the first losses of float32
GOOD = 0.9  # of the test, for the last rung
SMALL_IMAGES = ("data.size=32", "data.classes=10", "data.batch_size=128")
RANDOM = ("data=random", "data.val=none", "test.run=false", "schedule=constant")
NETWORKS = {
    "tutorial": ("model=tutorial", "optim=adam", *SMALL_IMAGES),
    "bn": ("model=bn", "optim=adam", *SMALL_IMAGES),
    "lrn": ("model=lrn", "optim=adam", *SMALL_IMAGES),
    "paper": ("model=paper", "optim=sgd", "data.size=224", "data.batch_size=512"),
}
SMALLER = ("data.batch_size=4", "model.width=0.05")


def settings(setup: Setup, *overrides: str) -> Config:
    """Returns the configuration of random images on the device, small where the setup is."""
    images = "data.n=64" if setup.small else "data.n=2048"
    return validate(compose([*RANDOM, images, *overrides, *(SMALLER if setup.small else ()), *setup.overrides()]))


def opened(config: Config) -> tuple[Experiment, Placement]:
    """Returns the experiment with its data, in the layout of its placement, and its images repeated."""
    experiment = build(config)
    where = place(config.trainer, experiment.multiply_adds)
    lay_out(experiment, where.channels_last)
    prepare(experiment)
    data: Any = experiment.data
    train = data.source.train
    times = max(1, (WARM + 100 * STEPS) * data.spec.batch_size // len(train))
    data.source = replace(data.source, train=train.select(torch.arange(len(train)).repeat(times)))
    return experiment, where


class Turns(pl.Callback):
    """Times `steps` steps of a training, then calls `other`, and again for `turns` turns; then ends the training.

    seconds: of a step, in each turn. losses: of the first steps, before anything is timed.
    """

    def __init__(self, device: str, steps: int, turns: int, other: Callable[[], None] = lambda: None):
        self.device, self.steps, self.turns, self.other = device, steps, turns, other
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._done, self._start = 0, 0.0
        self._warm = max(WARM, LOSSES)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._done += 1
        if self._done <= LOSSES:
            assert isinstance(pl_module, AlexNetModule)
            assert pl_module.last_loss is not None
            self.losses.append(float(pl_module.last_loss))
        timed = self._done - self._warm
        if timed < 0 or timed % self.steps:
            return
        settle(self.device)
        if timed:
            self.seconds.append((time.perf_counter() - self._start) / self.steps)
            self.other()
        trainer.should_stop = len(self.seconds) == self.turns
        settle(self.device)
        self._start = time.perf_counter()


def fit(setup: Setup, config: Config, turns: int, other: Callable[[], None] = lambda: None) -> Turns:
    """Trains with the settings of a run, without validation and files, for so many turns."""
    experiment, where = opened(config)
    compile_network(experiment, where.accelerator)
    timer = Turns(setup.device, steps_of(setup), turns, other)
    build_trainer(endless(config.trainer), where, [timer], []).fit(experiment.module, datamodule=experiment.data)
    return timer


def steps_of(setup: Setup) -> int:
    """Returns the steps of a turn."""
    return 2 if setup.small else STEPS


def settle(device: str) -> None:
    """Waits until the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(setup: Setup, call: Callable[[], object], repeats: int | None = None) -> float:
    """Returns the seconds of one call, of several after some that warm up, until the device has done them."""
    repeats = repeats or steps_of(setup)
    for _ in range(2):
        call()
    settle(setup.device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    settle(setup.device)
    return (time.perf_counter() - start) / repeats


# --- against a loop of torch's modules


def throughput(setup: Setup) -> Iterator[Check | Row]:
    """A row for each network; for the paper's also its share of the roofline."""
    for name, overrides in NETWORKS.items():
        config = settings(setup, *overrides)
        loop, bare = BareLoop(setup, config), list[float]()
        timer = fit(setup, config, setup.turns, lambda: bare.append(seconds_of(setup, loop.step)))  # noqa: B023
        size = config.data.batch_size
        turns = [(size / ours, size / theirs) for ours, theirs in zip(timer.seconds, bare, strict=True)]
        what = f"{name}, batch {size}, {loop.precision}: a run's training steps"
        rate: dict[str, Any] = {"unit": "images/s", "higher_is_better": True, "goal": Goal.at_least}
        yield Row(name, what, "a loop of torch's modules", turns=turns, target=LEAST_OF_LOOP, note=loop.note, **rate)
        if name == "paper" and not setup.small:
            assert isinstance(loop.spec, Network)
            product = 1e9 * measure_peak("cuda", torch.bfloat16)
            best = floor(layers(loop.spec), (3, 224, 224), size, product, copied_bytes_per_s(setup))
            steps = [(each, best) for each in timer.seconds]
            yield Row("paper, roofline", what, "the roofline's floor", "s", steps)


class BareLoop:
    """The network of an experiment from torch's modules, trained on one batch of images that is ready."""

    def __init__(self, setup: Setup, config: Config):
        experiment, where = opened(config)
        self.device, self.precision, self.spec = setup.device, where.precision, experiment.spec
        network, normalized = with_torchs_lrn(experiment.network)
        self.network = network.to(setup.device).train()
        self.optimizer = build_optimizer(config.optim, self.network)
        self.note = "torch's LRN does not know columns" if normalized else ""
        card, size = experiment.card, config.data.batch_size
        side = card["input_size"]
        images = torch.randn(size, card["in_channels"], side, side, device=setup.device)
        layout = torch.channels_last if where.channels_last else torch.contiguous_format
        self.images = images.contiguous(memory_format=layout)
        self.labels = torch.randint(len(card["classes"]), (size,), device=setup.device)

    def step(self) -> None:
        """Takes one step."""
        with self._autocast():
            loss = F.cross_entropy(self.network(self.images).float(), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16-mixed" else nullcontext()


def with_torchs_lrn(network: nn.Module) -> tuple[nn.Module, bool]:
    """Replaces our LRN by torch's in place; returns the network, and whether one with columns was replaced."""
    columns = False
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LRN):
                alpha = child.alpha * (child.size if child.convention == Convention.paper else 1)
                setattr(module, name, nn.LocalResponseNorm(child.size, alpha, child.beta, child.k))
                columns |= child.columns > 1
    return network, columns


def copied_bytes_per_s(setup: Setup, size: int = 1 << 30) -> float:
    """Returns what copying a large array on the device moves, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    return COPY_TENSORS * size / seconds_of(setup, lambda: target.copy_(source))


# --- LRN


def lrn(setup: Setup) -> Iterator[Check | Row]:
    """Forward and backward in bfloat16, channels_last; in NCHW too, which is torch's own layout."""
    shapes = ((2, 12, 9, 9),) if setup.small else LRN_SHAPES
    # torch's has no bfloat16 on the CPU
    layer, dtype = LRN(), torch.float32 if setup.device == "cpu" else torch.bfloat16
    for shape in shapes:
        for layout, memory in (("NHWC", torch.channels_last), ("NCHW", torch.contiguous_format)):
            maps = torch.randn(shape, device=setup.device, dtype=dtype).contiguous(memory_format=memory)
            upstream = torch.randn_like(maps)
            target = torch.empty_like(upstream)

            def both(call: Callable[[Tensor], Tensor], maps: Tensor = maps, upstream: Tensor = upstream) -> float:
                maps.requires_grad_()

                def step() -> None:
                    maps.grad = None
                    call(maps).backward(upstream)  # type: ignore[no-untyped-call]

                return seconds_of(setup, step)

            def torchs(values: Tensor) -> Tensor:
                return F.local_response_norm(values, layer.size, layer.alpha, layer.beta, layer.k)

            def copied(target: Tensor = target, source: Tensor = upstream) -> float:
                return seconds_of(setup, lambda: target.copy_(source)) * LRN_TENSORS / COPY_TENSORS

            what = f"LRN forward and backward, {'x'.join(map(str, shape))}, {str(dtype)[6:]}, {layout}"
            name = f"lrn {shape[1]}, {layout}"
            turns = alternate(lambda: both(layer), lambda: both(torchs), setup.turns)
            yield Row(name, what, "F.local_response_norm", "s", turns, target=LRN_TIMES)
            limit: dict[str, Any] = {"goal": Goal.at_most_ratio, "target": COPY_TIMES}
            turns = alternate(lambda: both(layer), copied, setup.turns)
            yield Row(f"{name}, copy", what, f"copying {LRN_TENSORS} such tensors' bytes", "s", turns, **limit)


# --- settings against each other


def precision(setup: Setup) -> Iterator[Check | Row]:
    """The default precision against float32. Neither has a target."""
    for name in ("tutorial", "paper"):
        default = settings(setup, *NETWORKS[name])
        whole = settings(setup, *NETWORKS[name], "trainer.precision=32-true")
        kind = place(default.trainer, 10**9).precision
        turns = paired(setup, default, whole)
        size = default.data.batch_size
        yield Row(f"{name}, precision", f"{name}, batch {size}: a step in {kind}", "32-true, without TF32", "s", turns)


def paired(setup: Setup, ours: Config, peer: Config) -> list[tuple[float, float]]:
    """Returns the seconds of a step of two trainings, one after the other: half of the peer's before, half after."""
    half = math.ceil(setup.turns / 2)
    before = fit(setup, peer, half).seconds
    mine = fit(setup, ours, setup.turns).seconds
    after = fit(setup, peer, setup.turns - half).seconds if setup.turns > half else []
    return list(zip(mine, [*before, *after], strict=True))


def compile_modes(setup: Setup) -> Iterator[Check | Row]:
    """First whether each mode repeats the losses of float32, then its step in the default precision."""
    small = ("model.width=0.1",)
    modes = COMPILE_MODES[:1] if setup.small else COMPILE_MODES
    network = ("model=lrn", "optim=sgd", *SMALL_IMAGES, "model.dropout=0", "trainer.precision=32-true", *small)
    eager = fit(setup, settings(setup, *network), 1).losses
    for mode in modes:
        found = fit(setup, settings(setup, *network, f"trainer.compile={mode}"), 1).losses
        apart = difference(found, eager)
        yield Check(f"compile={mode}: the losses of eager", apart <= COMPILED_LOSS, f"{apart:.1e}, {COMPILED_LOSS:g}")
    if setup.small:
        return
    note = "the uncompiled steps half before, half after"
    for mode in modes:
        for name in ("tutorial", "lrn"):
            config = settings(setup, *NETWORKS[name], f"trainer.compile={mode}")
            turns = paired(setup, config, settings(setup, *NETWORKS[name]))
            what = f"{name}, batch 128: a step with trainer.compile={mode}"
            yield Row(f"{name}, compile={mode}", what, "trainer.compile=false", "s", turns, note=note)


def ladder(setup: Setup) -> Iterator[Check | Row]:
    """experiment=ladder/7 as a user runs it: seconds of its training; what compiles is in its first epoch's."""
    folder_of = None if setup.cifar is None else Path(setup.cifar)
    images_of.opened(folder_of)
    with tempfile.TemporaryDirectory() as folder:
        words = ["experiment=ladder/7", *images_of.overrides(folder_of), *setup.overrides(), "hydra.run.dir=run"]
        _command(["-m", "alexnet_exp", *words], folder)
        result = read_result(Path(folder) / "run")
    reached = result["metrics"]["test/top1"]
    note = f"test accuracy {reached:.2%}" + ("" if reached >= GOOD else f": NOT the {GOOD:.0%} that was to be reached")
    limit: dict[str, Any] = {"goal": Goal.at_most_ratio, "target": 1.0, "note": note}
    what, against = "experiment=ladder/7: its training, images on the device", f"{RUNG_SECONDS:g} s on an H100"
    yield Row("ladder/7", what, against, "s", [(float(result["seconds"]), RUNG_SECONDS)], **limit)


def _command(words: Sequence[str], folder: str) -> None:
    subprocess.run([sys.executable, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
