"""How long `compare` takes over many run folders, and how much memory: process start and all.

    python -m benchmarks.compare_runs --runs 10000

Makes the folders in a temporary folder, as a sweep over model, learning rate, weight decay and seed would leave them,
with a real configuration each; the metrics are drawn. Expected on 2 CPU cores: under 3 s for 10,000 runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS, RATES, DECAYS = ("bn", "lrn"), (0.1, 0.03, 0.01, 0.003, 0.001), (0.0, 1e-4, 5e-4, 1e-3, 5e-3)
SWEPT = ("optim.lr", "optim.weight_decay", "seed")


def main() -> None:
    """Makes the runs, times the commands, prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="makes the folders here and leaves them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        if not folder.exists() or not any(folder.iterdir()):
            made = time.perf_counter()
            generate(folder, given.runs)
            print(
                f"{given.runs:,} run folders made in {time.perf_counter() - made:.1f} s; the best of {given.repeats}:"
            )
        for words in (["compare"], ["compare", "--baseline", "model=bn", "--group-by", "model"], ["runs"]):
            measured = [measure([*words[:1], str(folder), *words[1:]]) for _ in range(given.repeats)]
            seconds, cpu, memory = (min(found) for found in zip(*measured, strict=True))
            print(f"{' '.join(words)}: {seconds:.2f} s, {cpu:.2f} s of CPU, {memory / 2**20:.0f} MB at most")


def generate(folder: Path, count: int) -> None:
    """`count` run folders below `folder`, each a result.json; one in a hundred has failed."""
    from alexnet_exp.config.compose import compose
    from alexnet_exp.runs.folder import flatten

    configs = {model: flatten(compose([f"model={model}", "optim=sgd"])) for model in MODELS}
    draw = random.Random(1)
    grid = itertools.product(range(1, 1 + -(-count // 50)), MODELS, RATES, DECAYS)
    for number, (seed, model, rate, decay) in enumerate(itertools.islice(grid, count)):
        path = folder / "sweep" / f"model-{model}_lr-{rate}_weight_decay-{decay}_seed-{seed}-{number:08x}"
        path.mkdir(parents=True)
        config = configs[model] | {"seed": seed, "optim.lr": rate, "optim.weight_decay": decay}
        top1 = 0.9 + 0.01 * (model == "bn") - abs(rate - 0.01) + draw.gauss(0, 0.005)
        (path / "result.json").write_text(json.dumps(result(config, model, top1, failed=number % 100 == 99), indent=2))


def result(config: dict[str, Any], model: str, top1: float, *, failed: bool) -> dict[str, Any]:
    """What a run of that configuration would have written."""
    metrics = {f"{split}/{name}": top1 for split in ("train", "val", "test") for name in ("top1", "top5")}
    metrics |= {f"{split}/loss": 2 * (1 - top1) for split in ("train", "val", "test")}
    facts: dict[str, Any] = {
        "format": 1,
        "status": "done",
        "start": "2026-11-24T09:33:07.819+00:00",
        "pid": 21335,
        "host": "host",
        "platform": "Linux",
        "cpu": "CPU",
        "name": "sweep",
        "seed": config["seed"],
        "commit": "0" * 40,
        "dirty": False,
        "versions": {"torch": "2.9.0", "numpy": "2.3.1", "python": "3.13.1"},
        "device": "CPU",
        "precision": "32-true",
        "effective_batch": 128,
        "fingerprint": "c0046d3634abe052",
        "test_images": 360,
        "parameters": 1883882,
        "multiply_adds": 19993088,
        "seconds": 7.45,
        "epochs": 10,
        "images_per_s": 567.36,
        "overrides": [f"model={model}", "optim=sgd", *(f"{key}={config[key]}" for key in SWEPT)],
        "choices": {"model": model, "data": "digits", "optim": "sgd", "trainer": "default"},
        "config": config,
    }
    if failed:
        return facts | {"status": "failed", "error": "the loss is nan at step 3", "metrics": {}}
    return facts | {"best_epoch": 9, "metrics_epoch": 9, "tested": "best", "metrics": metrics}


def measure(words: list[str]) -> tuple[float, float, int]:
    """Seconds of one command from its process's start to its end, of the CPU, and peak resident memory in bytes."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "alexnet_exp", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
