"""On a GPU: AlexNet at 224 pixels, LRN, and the ladder's last rung from memory on the device.

Without a CUDA GPU the group is skipped. The training rows take `bench`'s figure for ours:
the Trainer of a run with its crops, mirrors and metrics. The peer gets images that are ready, and no metrics.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from alexnet_exp.bench.peak_flops import measure_peak
from alexnet_exp.bench.run import BenchRequest
from alexnet_exp.bench.run import measure as bench
from alexnet_exp.config.compose import compose
from alexnet_exp.config.resolve import resolve_network
from alexnet_exp.config.validate import validate
from alexnet_exp.model.cost import layers
from alexnet_exp.model.lrn import LRN
from alexnet_exp.model.spec import Network
from alexnet_exp.runs.reader import read_result
from benchmarks import cifar as images_of
from benchmarks.roofline import floor
from benchmarks.rows import Goal, Missing, Row, alternate

BATCH, SIDE = 512, 224
STEPS = 30
SHAPES = ((BATCH, 96, 55, 55), (BATCH, 256, 27, 27))  # LRN's places in the paper's network
# Of LRN, in tensors: forward reads one and writes one; backward reads two and writes one. A copy reads one, writes one.
LRN_TENSORS, COPY_TENSORS = 5, 2
FASTER, TIMES_COPY, SECONDS = 2.0, 1.5, 15.0
GOOD = 0.9  # of the test, for the last row
ALEXNET = (
    *("model=torchvision", "data=random", f"data.size={SIDE}", "data.n=2048", f"data.batch_size={BATCH}"),
    *("optim=sgd", "schedule=constant", "trainer.gpus=1", "trainer.precision=bf16-mixed"),
)


def rows(turns: int = 5, cifar: Path | None = None) -> list[Row]:
    """All rows; raises `Missing` where there is no GPU."""
    if not torch.cuda.is_available():
        raise Missing("no GPU here")
    made = [*_training(turns), *(row for shape in SHAPES for row in _lrn(shape, turns))]
    return [*made, *_rung(cifar)]


def _training(turns: int) -> list[Row]:
    """The step as it is and compiled, against torchvision's network; and against the roofline's floor."""
    made = []
    for name, more in (("as it is", ()), ("compiled", ("trainer.compile=true",))):
        config = validate(compose([*ALEXNET, *more]))

        def ours(config: Any = config) -> float:
            return float(bench(config, BenchRequest(steps=STEPS, layers=False))["images_per_s"])

        measured = alternate(ours, torchvision_images_per_s, turns)
        what = f"AlexNet, {SIDE} pixels, bf16, batch {BATCH}: a run's training steps, {name}"
        against = "torchvision.models.alexnet, autocast to bf16, channels_last"
        rate: dict[str, Any] = {"unit": "images/s", "higher_is_better": True}
        made.append(Row(f"alexnet, {name}", what, against, turns=measured, target=FASTER, **rate))
        spec = resolve_network(config)[0]
        assert isinstance(spec, Network)
        product = 1e9 * measure_peak("cuda", torch.bfloat16)
        best = floor(layers(spec), (3, SIDE, SIDE), BATCH, product, copied_bytes_per_s())
        steps = [(BATCH / each, best) for each, _ in measured]
        made.append(Row(f"roofline, {name}", what, "the roofline's floor", "s", steps))
    return made


def torchvision_images_per_s() -> float:
    """The usual loop, its images on the device and ready."""
    torch.manual_seed(1)
    network = torchvision.models.alexnet().cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(BATCH, 3, SIDE, SIDE, device="cuda").contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (BATCH,), device="cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return BATCH / on_device(step, STEPS)


def _lrn(shape: tuple[int, ...], turns: int) -> list[Row]:
    """Forward and backward, as it is and compiled, against a copy of as many bytes."""
    maps = torch.randn(shape, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    maps.requires_grad_()
    upstream = torch.randn_like(maps)
    target, source = torch.empty_like(upstream), upstream.clone()
    made = []
    lrn = LRN()
    for name, call in (("as it is", lrn), ("compiled", torch.compile(lrn))):

        def both(call: Callable[[Tensor], Tensor] = call) -> None:
            maps.grad = None
            call(maps).backward(upstream)

        measured = alternate(
            lambda both=both: on_device(both, STEPS),  # type: ignore[misc]
            lambda: on_device(lambda: target.copy_(source), STEPS) * LRN_TENSORS / COPY_TENSORS,
            turns,
        )
        what = f"LRN forward and backward, {'x'.join(map(str, shape))}, bf16, channels_last, {name}"
        limit: dict[str, Any] = {"goal": Goal.at_most_ratio, "target": TIMES_COPY}
        made.append(
            Row(f"lrn {shape[1]}, {name}", what, f"copying {LRN_TENSORS} such tensors' bytes", "s", measured, **limit)
        )
    return made


def copied_bytes_per_s(size: int = 1 << 30) -> float:
    """What copying a large array on the device moves, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return COPY_TENSORS * size / on_device(lambda: target.copy_(source), STEPS)


def on_device(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, of so many after some that warm up, until the device has done them."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def _rung(cifar: Path | None) -> list[Row]:
    """experiment=ladder/7 as a user runs it: seconds of its training; what compiles is in its first epoch's."""
    try:
        images_of.opened(cifar)
    except Missing as missing:
        print(f"the ladder's last rung is left out: {missing}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder:
        words = ["experiment=ladder/7", *images_of.overrides(cifar), "trainer.gpus=1", "hydra.run.dir=run"]
        command = [sys.executable, "-m", "alexnet_exp", *words]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        result = read_result(Path(folder) / "run")
    reached = result["metrics"]["test/top1"]
    note = f"test accuracy {reached:.2%}" + ("" if reached >= GOOD else f": NOT the {GOOD:.0%} that was to be reached")
    limit: dict[str, Any] = {"goal": Goal.at_most_ratio, "target": 1.0, "note": note}
    what, against = "experiment=ladder/7: its training, images on the device", f"{SECONDS:g} s on an H100"
    return [Row("ladder/7", what, against, "s", [(float(result["seconds"]), SECONDS)], **limit)]
