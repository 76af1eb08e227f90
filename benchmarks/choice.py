"""Whole training steps with the measured choice of kernels against the same steps with each candidate forced.

    python -m benchmarks choice
    python -m benchmarks choice --rows tutorial/bfloat16/128,paper

The choice is that of this machine; it is measured first where there is none. All sides share one network in one
process and take one step each in turn: data, augmentation, forward, loss, backward and optimizer. A row's figure is the
throughput of the default as a multiple of the best candidate's, that with the least median. bfloat16 only where the
processor computes in it. Cost: half a minute a row, 12 minutes in all. --rows measures some rows again and keeps the
others of the file.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from alexnet_exp.config.compose import compose
from alexnet_exp.config.validate import validate
from alexnet_exp.kernels.calibration import calibrated
from alexnet_exp.kernels.choice import ANY, CONVOLUTION, Candidate, Choice, Operator, active, forced, using
from alexnet_exp.processes.memory import keep_freed_memory
from alexnet_exp.training.devices import cpu_computes_in_bf16
from benchmarks.overhead import Bare
from benchmarks.rows import Measured, Row

LEAST = 0.97  # of the best candidate's throughput
SECONDS = 24.0  # of the steps of a row
FEWEST, MOST = 5, 120  # turns
WARMUP = 2
DEFAULT, MEASURED = "default", "measured"
SMALL = ("data.size=32", "data.classes=10")
RANDOM = ("data=random", "data.val=none", "test.run=false", "schedule=constant", "trainer=cpu")
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "tutorial": ("model=tutorial", "optim=adam", *SMALL),
    "bn": ("model=bn", *SMALL),
    "lrn": ("model=lrn", *SMALL),
    "fast": ("model=fast", "optim=adamw", *SMALL),
    "paper": ("model=paper", "optim=krizhevsky"),
}
PRECISIONS = {"bfloat16": "bf16-mixed", "float32": "32-true"}
BATCHES = {"paper": (16, 32)}
OTHER_BATCHES = (32, 128)


def rows(turns: int | None = None, only: Sequence[str] = ()) -> Measured:
    """A row for each network, precision and batch, or for those of which `only` has the name or its beginning.

    data: by row the seconds of every step of each side; by precision the choice.
    """
    keep_freed_memory()
    found: list[Row] = []
    data: dict[str, Any] = {}
    for name, network, dtype, batch in cases():
        if not only or any(f"{name}/".startswith(f"{each}/") for each in only):
            chosen = calibrated(dtype)
            seconds = measure(network, dtype, batch, chosen, turns)
            found.append(_row(name, batch, seconds))
            data[name] = {"seconds": seconds}
            data[dtype] = {"phrase": str(chosen), "choice": chosen.to_json()}
            print(f"  {name}: {_told(seconds)}", file=sys.stderr, flush=True)
    return Measured(found, data)


def cases() -> Iterator[tuple[str, str, str, int]]:
    """Yields the name, the network, the precision and the batch of each row."""
    for network in NETWORKS:
        for dtype in PRECISIONS:
            if dtype != "bfloat16" or cpu_computes_in_bf16():
                for batch in BATCHES.get(network, OTHER_BATCHES):
                    yield f"{network}/{dtype}/{batch}", network, dtype, batch


def candidates(dtype: str) -> dict[str, Choice]:
    """Returns the choices that use the same candidate at every shape.

    packed and torch+native differ in the convolutions alone: the other operators are our kernels. The kernels of
    convolutions are those of bfloat16, so that in float32 native would be torch+native.
    """
    made = {each: forced(each, dtype, f"benchmark: {each}") for each in (Candidate.TORCH, Candidate.NATIVE)}
    found = {"torch": made[Candidate.TORCH]}
    if dtype == "bfloat16":
        found["native"] = made[Candidate.NATIVE]
    for name, kind in (("torch+native", Candidate.TORCH), ("packed", Candidate.PACKED)):
        kinds = {each: {ANY: kind if each in CONVOLUTION else Candidate.NATIVE} for each in Operator}
        found[name] = Choice(dtype, f"benchmark: {name}", kinds)
    return found


def measure(network: str, dtype: str, batch: int, chosen: Choice, turns: int | None = None) -> dict[str, list[float]]:
    """Returns the seconds of each step by side: the default and the candidates, in an order that rotates."""
    words = [*NETWORKS[network], *RANDOM, f"data.batch_size={batch}", f"data.n={2 * batch}"]
    words += [f"trainer.precision={PRECISIONS[dtype]}", "trainer.max_epochs=null", "trainer.max_steps=1"]
    bare = Bare(validate(compose(words)))
    sides = {DEFAULT: chosen} | candidates(dtype)
    for _ in range(WARMUP):  # the last warm step of each tells how many fit into the time
        all_sides = sum(_step(bare, side) for side in sides.values())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = [*sides]
    for _ in range(turns or max(FEWEST, min(MOST, int(SECONDS / all_sides)))):
        for name in order:
            seconds[name].append(_step(bare, sides[name]))
        order = [*order[1:], order[0]]
    return seconds


def _step(bare: Bare, side: Choice) -> float:
    images = active("float32") if side.source == MEASURED else replace(side, dtype="float32")
    with using(images), using(side):  # the scaling of images asks for the choice of float32
        start = time.perf_counter()
        bare.step()
        return time.perf_counter() - start


def best(seconds: Mapping[str, Sequence[float]]) -> str:
    """Returns the candidate with the least median."""
    return min((name for name in seconds if name != DEFAULT), key=lambda name: statistics.median(seconds[name]))


def _row(name: str, batch: int, seconds: Mapping[str, Sequence[float]]) -> Row:
    fastest = best(seconds)
    turns = [(batch / ours, batch / peer) for ours, peer in zip(seconds[DEFAULT], seconds[fastest], strict=True)]
    network, dtype, _ = name.split("/")
    what, against = f"{network}, {dtype}, batch {batch}", "the best candidate forced"
    note = f"best: {fastest}; {_told(seconds)}"
    return Row(name, what, against, "images/s", turns, higher_is_better=True, target=LEAST, note=note)


def _told(seconds: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name} {1e3 * statistics.median(each):.3g} ms" for name, each in seconds.items())
