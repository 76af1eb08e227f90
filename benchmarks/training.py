"""Training the tutorial's network with its optimizer on the CPU: images/s against the tutorial's Keras script.

    python -m benchmarks training --keras PYTHON --images NPZ

Both train the same layers on 32x32 images with Adam. Ours in the precision that a CPU gets by default: bfloat16 where
it has that, else float32; Keras' as the script is, float32 at batch 32. Ours is measured twice: as a whole run
(Lightning, metrics, files, progress bar) and as a bare loop of the same operations, steps of the two alternating. The
script runs between ours, in its own environment. On all sides the figure is that of the median step.

The share of the ceiling: multiply-adds of the layers' definition, windows over the padding counted whole, against the
best product of two matrices in the same precision, measured in the same turn. Kernels that leave the padding out do not
make those multiplications; the note says how many they are.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path

import torch

from alexnet_exp.bench.flop import counted
from alexnet_exp.bench.peak_flops import measure_peak
from alexnet_exp.config.compose import compose
from alexnet_exp.config.resolve import resolve_network
from alexnet_exp.config.schema import Config
from alexnet_exp.config.validate import validate
from alexnet_exp.model.cost import layers
from alexnet_exp.model.shapes import Part, parts
from alexnet_exp.model.spec import Network
from alexnet_exp.processes.memory import keep_freed_memory
from alexnet_exp.training.devices import cpu_computes_in_bf16, place
from benchmarks import cifar as images_of
from benchmarks import overhead
from benchmarks.processor import this_processor
from benchmarks.rows import Goal, Missing, Row

SCRIPT = Path(__file__).parent / "keras_tutorial.py"
# The script's images/s, by our batch.
TIMES = {32: 2.2, 128: 3.0}
TIMES_IN_FLOAT32 = {32: 1.3, 128: 1.6}
SHARES = {"AVX512-BF16": 0.8, "AMX": 0.35}  # of the ceiling, by the processor's instructions
KERAS_STEPS = 150
RANDOM = ("data=random", "data.size=32", "data.n=1280", "data.classes=10", "data.val=none", "test.run=false")


def rows(turns: int = 7, keras: Path | None = None, images: Path | None = None, cifar: Path | None = None) -> list[Row]:
    """For batch 32 and 128 the run's and the bare loop's images/s against the script's, and the share of the ceiling.

    Raises `Missing` without `keras`, the Python of an environment with tensorflow-cpu.
    """
    if keras is None:
        raise Missing("--keras PYTHON, one of an environment with tensorflow-cpu")
    file = images_of.npz(images or Path("cifar10.npz"), cifar)
    keep_freed_memory()
    spec = network(config(128))
    run: dict[int, list[tuple[float, float]]] = {batch: [] for batch in TIMES}
    bare: dict[int, list[tuple[float, float]]] = {batch: [] for batch in TIMES}
    share: list[tuple[float, float]] = []
    for _ in range(turns):
        script = keras_images_per_s(keras, file)
        for batch in TIMES:
            ours, alone = (batch / statistics.median(each) for each in overhead.measure(words(batch), turns=1)[0])
            run[batch].append((ours, script))
            bare[batch].append((alone, script))
        share.append((gflop(spec) * bare[128][-1][0], ceiling(config(128))))
    found = []
    for batch, target in (TIMES if cpu_computes_in_bf16() else TIMES_IN_FLOAT32).items():
        shared = {"against": "Keras script, batch 32", "unit": "images/s", "higher_is_better": True}
        for name, what, measured in (("run", "run", run), ("bare", "bare loop", bare)):
            told = f"{what}, batch {batch}"
            found.append(Row(f"{name}_{batch}", told, turns=measured[batch], target=target, **shared))  # type: ignore[arg-type]
    return [
        *found,
        Row(
            "share_of_ceiling",
            "bare loop's multiply-adds, batch 128",
            "best product of two matrices",
            "GFLOP/s",
            share,
            higher_is_better=True,
            target=SHARES.get(this_processor().instructions),
            goal=Goal.share,
            note=f"{padded(spec):.0%} of the multiply-adds counted are with the padding's zeros",
        ),
    ]


def words(batch: int) -> tuple[str, ...]:
    """The overrides of the run: the tutorial's network and optimizer, images that need no file."""
    return ("model=tutorial", "optim=adam", "schedule=constant", f"data.batch_size={batch}", *RANDOM)


def config(batch: int) -> Config:
    return validate(compose([*words(batch), "trainer=cpu"]))


def network(config: Config) -> Network:
    spec = resolve_network(config)[0]
    assert isinstance(spec, Network)
    return spec


def gflop(spec: Network) -> float:
    """GFLOP of an image's training step."""
    return sum(flop.all for flop in counted(layers(spec)).values()) / 1e9


def padded(spec: Network) -> float:
    """The share of a forward pass's multiply-adds that are with the padding's zeros."""
    inside, everything = 0.0, 0.0
    for part in parts(spec):
        if part.slot in ("conv", "fc"):
            each = 1.0 * part.after[0] * part.before[0]
            shares = [_taps(part, side) for side in (1, 2)] if part.slot == "conv" else [(1, 1)]
            whole, seen = each, each
            for taps, real in shares:
                whole, seen = whole * taps, seen * real
            everything, inside = everything + whole, inside + seen
    return 1 - inside / everything


def _taps(part: Part, side: int) -> tuple[int, int]:
    """Along one side of the maps: how many values the windows cover together, and how many of them are no padding."""
    stage = part.stage
    assert stage.kernel is not None
    pad, size = stage.pad[0] if len(stage.pad) == 1 else 0, part.before[side]
    starts = [at * stage.stride - pad for at in range(part.after[side])]
    real = sum(0 <= start + tap < size for start in starts for tap in range(stage.kernel))
    return len(starts) * stage.kernel, real


def ceiling(config: Config) -> float:
    """GFLOP/s of the best product, in the precision that the run has."""
    half = (
        place(config.trainer, sum(layer.multiply_adds for layer in layers(network(config)))).precision == "bf16-mixed"
    )
    return measure_peak("cpu", torch.bfloat16 if half else torch.float32)


def keras_images_per_s(python: Path, images: Path) -> float:
    """The script's, by its median step, after a call of `fit` that warms up."""
    command = [str(python), str(SCRIPT), str(images), "--batch", "32", "--steps", str(KERAS_STEPS), "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Missing(f"{python} {SCRIPT.name} failed: {last}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["images_per_s"])
