"""Whether each path of a GPU is correct, against a reference of its own.

- LRN's Triton kernels against the formula in float64, forward and backward: float32, bfloat16 and float16, both
  layouts, also with addresses of 64 bits.
- Convolutions in channels_last and in autocast's type, a fused optimizer, images that reach the GPU unchanged from
  pinned memory.
- Two runs with `trainer.deterministic=true` have the same bits, and so has one that is killed and resumed.
- The losses of float32 on the GPU against those of the CPU; bfloat16, float16 with its scaler, and averaged weights
  against float32; torch's LRN against Triton's.
- Two ranks against one, by NCCL, where there are two GPUs.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from alexnet_exp.config.compose import compose
from alexnet_exp.config.validate import validate
from alexnet_exp.kernels import lrn as kernel
from alexnet_exp.kernels.native import NATIVE_VARIABLE
from alexnet_exp.model.lrn import LRN
from alexnet_exp.runs.reader import read_result, read_steps
from alexnet_exp.training import datamodule
from alexnet_exp.training.build import build, lay_out, prepare
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.devices import place
from alexnet_exp.training.trainer import build_trainer
from benchmarks.cuda_part import Check, Setup
from benchmarks.equal_runs import unequal
from benchmarks.rows import Missing, Row

# LRN's errors: of float32 relative to the result, and to the largest incoming gradient.
OUTPUT_ERROR, GRADIENT_ERROR = 2e-6, 4e-6
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 1.01 * 2**-8, torch.float16: 1.01 * 2**-11}  # of the result, relative
# a, g and b of this many values are 10 GB in bfloat16
WIDE_SHAPE, WIDE_BYTES = (40, 96, 600, 600), 16 << 30
FLOAT32_LOSS, HALF_LOSS = 1e-3, 2e-2  # relative differences of the first losses of equal runs
LOSSES = 12  # steps whose losses are compared: later ones differ by more than rounding
SEEN = 93  # exit code of a run that is ended on purpose
# Ends a run at its n-th training step as SIGKILL does: nothing is flushed, no handler runs.
KILLED_RUN = f"""
import os, sys
from alexnet_exp.__main__ import main
from alexnet_exp.training.module import AlexNetModule
step, left = AlexNetModule.training_step, [int(sys.argv.pop(1))]
def training_step(self, batch, batch_idx):
    left[0] -= 1
    if left[0] < 0:
        os._exit({SEEN})
    return step(self, batch, batch_idx)
AlexNetModule.training_step = training_step
sys.exit(main(sys.argv[1:]))
"""
IMAGES = ("data=random", "data.size=32", "data.classes=10", "data.val=none", "model=lrn", "schedule=constant")
LEARNS = (
    *("data=digits", "data.val=none", "data.batch_size=64", "model=lrn", "schedule=constant", "optim=sgd"),
    *("optim.lr=0.01", "model.dropout=0", "test.run=false"),
)


# --- LRN


def lrn(setup: Setup) -> Iterator[Check | Row]:
    """The Triton kernels against the formula."""
    device = torch.device(setup.device)
    maps = 12 if setup.small else 96
    shapes = ((2, maps, 5, 7), (3, maps, 1, 1)) if setup.small else ((4, maps, 27, 27), (2, maps, 55, 53), (5, maps))
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    layers = {"code": LRN(alpha=0.4), "2 columns": LRN(alpha=0.4, columns=2), "beta 0.6": LRN(alpha=0.1, beta=0.6)}
    for dtype, (name, layer) in product(dtypes, layers.items()):
        formula = kernel.Formula(layer.alpha / layer.size, layer.beta, layer.k, layer.size // 2, layer.columns)
        title = f"LRN, {str(dtype).removeprefix('torch.')}, {name}"
        if device.type != kernel.TRITON_DEVICE or not kernel.takes(torch.ones(1, maps, device=device), formula):
            yield Check(title, None if device.type == "cpu" else False, "no Triton kernels for this device")
            continue
        worst = [0.0, 0.0]
        for shape, last in product(shapes, (False, True)):
            a, g = (random_maps(shape, dtype, device, last, scale) for scale in (3.0, 1.0))
            found = forward_backward(layer, a, g)
            errors = relative_errors(found, by_formula(a, g, formula), g, dtype)
            worst = [max(pair) for pair in zip(worst, errors, strict=True)]
            if found[0].stride() != a.stride():
                raise AssertionError(f"{title}: the layout of {list(shape)} changed")
        detail = f"{worst[0]:.2f} and {worst[1]:.2f} of the permitted error, forward and backward"
        yield Check(title, all(each <= 1 for each in worst), detail)
    if setup.small or torch.cuda.mem_get_info()[0] < WIDE_BYTES:
        yield Check("LRN, addresses of 64 bits", None, f"needs {WIDE_BYTES >> 30} GB of free memory")
        return
    for last in (False, True):
        a = random_maps(WIDE_SHAPE, torch.bfloat16, device, last, 3.0)
        g = torch.ones_like(a)
        same = all(
            torch.equal(whole[-1:], part)
            for whole, part in zip(forward_backward(LRN(), a, g), forward_backward(LRN(), a[-1:], g[-1:]), strict=True)
        )
        yield Check(f"LRN, addresses of 64 bits, {'NHWC' if last else 'NCHW'}", same)
        del a, g


def random_maps(shape: Sequence[int], dtype: torch.dtype, device: torch.device, last: bool, scale: float) -> Tensor:
    """Returns normal values; with the maps innermost where `last`."""
    generator = torch.Generator(device).manual_seed(math.prod(shape))
    values = torch.randn(*shape, generator=generator, device=device).mul_(scale).to(dtype)
    return values.movedim(1, -1).contiguous().movedim(-1, 1) if last else values


def forward_backward(layer: Callable[[Tensor], Tensor], a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the output and the gradient of the input."""
    a = a.detach().requires_grad_()
    b = layer(a)
    return b.detach(), torch.autograd.grad(b, a, g)[0]


def by_formula(a: Tensor, g: Tensor, formula: kernel.Formula) -> tuple[Tensor, Tensor]:
    """Returns both in float64, the sum map by map, the gradient by autograd."""
    wide = a.double().requires_grad_()
    maps = a.shape[1] // formula.columns
    columns = []
    for column in wide.split(maps, 1):  # type: ignore[no-untyped-call]
        squares = column.square()
        total = torch.stack(
            [squares[:, max(0, i - formula.reach) : i + formula.reach + 1].sum(1) for i in range(maps)], 1
        )
        columns.append(column * (formula.k + formula.alpha * total) ** -formula.beta)
    b = torch.cat(columns, 1)
    return b.detach(), torch.autograd.grad(b, wide, g.double())[0]


def relative_errors(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], g: Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """Returns the largest errors of output and gradient, as parts of what is permitted; rounding to `dtype` is."""
    rounding = ROUNDING[dtype]
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    (b, slope), (wanted, wanted_slope) = found, expected
    output = wanted.abs() * (OUTPUT_ERROR + rounding) + smallest
    gradient = GRADIENT_ERROR * g.double().abs().max() + rounding * wanted_slope.abs() + smallest
    return (
        float(((b.double() - wanted).abs() / output).max().nan_to_num(nan=math.inf)),
        float(((slope.double() - wanted_slope).abs() / gradient).max().nan_to_num(nan=math.inf)),
    )


# --- where and how a step computes


class Seen(pl.Callback):
    """Records what the modules of a network get and give in a step, and ends the training after a few."""

    def __init__(self, network: nn.Module, steps: int):
        self.layouts: list[bool] = []
        self.types: set[torch.dtype] = set()
        self.left = steps
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(self._see)

    def _see(self, module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        self.layouts += [each.is_contiguous(memory_format=torch.channels_last) for each in (given[0], result)]
        self.layouts.append(module._parameters["weight"].is_contiguous(memory_format=torch.channels_last))  # type: ignore[union-attr]
        self.types.add(result.dtype)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.left -= 1
        trainer.should_stop = self.left <= 0


class Copies(ImageData):
    """Records whether batches are pinned, and whether what arrives on the device is what was sent."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.pinned: list[bool] = []
        self.sent: list[Tensor] = []
        self.arrived: list[Tensor] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.pinned.append(batch[0].is_pinned())
        self.sent.append(batch[0].clone())
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.arrived.append(batch[0].clone())  # in the stream of the computation: it waits for nothing
        return super().on_after_batch_transfer(batch, dataloader_idx)


def placement(setup: Setup) -> Iterator[Check | Row]:
    """The layout, the type and the optimizer of a step, and the copies to the GPU."""
    size = ["data.n=512", "data.batch_size=32", *(["model.width=0.1"] if setup.small else [])]
    config = validate(compose([*IMAGES, *size, *setup.overrides(), "optim=adam", "test.run=false"]))
    experiment = build(config)
    where = place(config.trainer, experiment.multiply_adds)
    spec, input_size, channels = config.data, experiment.card["input_size"], experiment.card["in_channels"]
    experiment.data = copies = Copies(spec, input_size, channels, config.seed)
    lay_out(experiment, where.channels_last)
    prepare(experiment)
    steps = 8 if setup.small else 16
    seen = Seen(experiment.network, steps)
    resident, datamodule.MOST_DEVICE_MEMORY_SHARE = datamodule.MOST_DEVICE_MEMORY_SHARE, 0.0
    try:
        trainer = build_trainer(config.trainer, where, [seen], [])
        trainer.fit(experiment.module, datamodule=copies)
    finally:
        datamodule.MOST_DEVICE_MEMORY_SHARE = resident
    weights = {each.device.type for each in experiment.network.parameters()}
    yield Check("weights on the device", weights == {setup.device}, str(weights))
    if where.channels_last:
        yield Check("convolutions in channels_last", all(seen.layouts), f"{sum(seen.layouts)} of {len(seen.layouts)}")
    else:
        yield Check("convolutions in channels_last", None, f"not the default with {where.precision}")
    wanted = torch.bfloat16 if where.precision == "bf16-mixed" else torch.float32
    yield Check(f"convolutions with {where.precision}", seen.types == {wanted}, str(seen.types))
    masters = {each.dtype for each in experiment.network.parameters()}
    yield Check("weights in float32", masters == {torch.float32}, str(masters))
    fused = {bool(group["fused"]) for group in trainer.optimizers[0].param_groups}
    yield Check("fused optimizer", fused == {True}, str(fused))
    same = len(copies.sent) == len(copies.arrived) >= steps and all(
        torch.equal(sent, arrived.cpu()) for sent, arrived in zip(copies.sent, copies.arrived, strict=True)
    )
    yield Check("images arrive unchanged", same, f"{len(copies.arrived)} batches")
    if setup.device == "cpu":
        yield Check("batches in pinned memory", None, "the device is the CPU")
    else:
        yield Check("batches in pinned memory", all(copies.pinned), f"{sum(copies.pinned)} of {len(copies.pinned)}")


# --- whole runs


def train(
    folder: Path, name: str, overrides: Sequence[str], kill_at: int | None = None, native: str | None = None
) -> Path:
    """Trains a run as a user does and returns its folder; raises AssertionError where it does not end as it should."""
    words = [*overrides, f"hydra.run.dir={name}", "checkpoint.every='5 steps'"]
    start = ["-m", "alexnet_exp"] if kill_at is None else ["-c", KILLED_RUN, str(kill_at)]
    _run([*start, *words], folder, 0 if kill_at is None else SEEN, native)
    return folder / name


def _run(words: Sequence[str], folder: Path, code: int, native: str | None = None) -> None:
    environment = dict(os.environ) | ({} if native is None else {NATIVE_VARIABLE: native})
    environment["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != code:
        last = " ".join(done.stderr.splitlines()[-3:])
        raise AssertionError(f"a run ended with exit code {done.returncode}, not {code}: {last}")


def losses(run: Path) -> list[float]:
    """Returns the losses of the first steps."""
    return [loss for _, loss, _ in read_steps(run)[:LOSSES]]


def difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the largest relative difference; infinite where the numbers of losses differ or one is not finite."""
    if not one or len(one) != len(other):
        return math.inf
    apart = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(one, other, strict=True)]
    return max(apart) if all(map(math.isfinite, apart)) else math.inf


def runs(setup: Setup) -> Iterator[Check | Row]:
    """Runs with `trainer.deterministic=true`: again, killed and resumed. Then how far the default repeats."""
    size = ["data.n=512", "data.batch_size=32", "trainer.max_epochs=2", "optim=adam"]
    size += ["model.width=0.05"] if setup.small else []
    fixed = [*IMAGES, *size, *setup.overrides(), "trainer.deterministic=true"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        first = train(folder, "first", fixed)
        apart = unequal(first, train(folder, "again", fixed))
        yield Check("deterministic=true twice: the same bits", not apart, _few(apart))
        killed = train(folder, "killed", fixed, kill_at=23)  # the second epoch's first half
        _run(["-m", "alexnet_exp", "resume", str(killed)], folder, 0)
        apart = unequal(first, killed)
        yield Check("deterministic=true, killed and resumed: the same bits", not apart, _few(apart))
        if setup.small:
            return
        default = [*IMAGES, *size, *setup.overrides()]
        apart = unequal(train(folder, "default", default), train(folder, "default2", default))
        # Not promised, so neither passed nor failed: what was found is recorded.
        yield Check("the default twice", None, "not promised; " + (_few(apart) or "the same bits"))


def _few(differences: Sequence[object]) -> str:
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return ", ".join(map(str, differences[:3])) + more


def precisions(setup: Setup) -> Iterator[Check | Row]:
    """The first losses on digits, against a run in float32 on the device."""
    common = [*LEARNS, "trainer.max_epochs=1", *(["model.width=0.1"] if setup.small else [])]
    here = [*common, *setup.overrides()]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole = losses(train(folder, "float32", [*here, "trainer.precision=32-true"]))

        def against(name: str, most: float, overrides: Sequence[str], native: str | None = None) -> Check:
            found = losses(train(folder, name.replace(" ", "_"), overrides, native=native))
            apart = difference(found, whole)
            return Check(f"{name}: losses as in float32", apart <= most, f"relative difference {apart:.1e}, {most:g}")

        if setup.device == "cpu":
            yield Check("CPU: losses as in float32", None, "the device is the CPU")
            yield Check("16-mixed: losses as in float32", None, "the CPU does not train in float16")
        else:
            yield against("CPU", FLOAT32_LOSS, [*common, "trainer=cpu", "trainer.precision=32-true"])
            yield against("16-mixed", HALF_LOSS, [*here, "trainer.precision=16-mixed", "callbacks=ema"])
        yield against("torch's LRN", FLOAT32_LOSS, [*here, "trainer.precision=32-true"], native="0")
        yield against("bf16-mixed", HALF_LOSS, [*here, "trainer.precision=bf16-mixed", "callbacks=ema"])


def ranks(setup: Setup) -> Iterator[Check | Row]:
    """One epoch on two ranks against one, in float32: the same images, and losses that differ by rounding."""
    if setup.device == "cuda" and torch.cuda.device_count() < 2:
        raise Missing("NCCL needs two GPUs")
    common = [*LEARNS, "trainer.max_epochs=1", "trainer.precision=32-true", "data.subset=768"]
    common += ["model.width=0.1"] if setup.small else []
    two = ["trainer=ddp_cpu"] if setup.device == "cpu" else ["trainer.gpus=2"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        one_rank, two_ranks = train(folder, "one", [*common, *setup.overrides()]), train(folder, "two", [*common, *two])
        means = [read_result(run)["metrics"]["train/loss"] for run in (two_ranks, one_rank)]
        apart = difference(means[:1], means[1:])
        yield Check("two ranks: the epoch's mean loss as on one", apart <= FLOAT32_LOSS, f"{apart:.1e}")
