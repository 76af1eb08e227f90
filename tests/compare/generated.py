"""Run folders as training leaves them, without training: made up, but with the shapes of real ones."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from PIL import Image, ImageDraw

from alexnet_exp.compare.result import Arm, Claim, ClaimStatus, Comparison, Difference, Metric, Verdict
from alexnet_exp.compare.select import runs_table, sort_by_metric
from alexnet_exp.config.paper_claim import PaperClaim
from alexnet_exp.runs.read_runs import read_runs
from alexnet_exp.runs.run import Run

COLUMNS = ("epoch", "step", "lr", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5", "seconds")
VERDICTS = (Verdict.better, Verdict.inconclusive, Verdict.no_difference, Verdict.worse)
CLAIM = Claim(
    PaperClaim("1.4 points of top-1 (section 3.3)", difference=0.014),
    ClaimStatus.same_direction,
    "smaller than the paper's",
)
VERSIONS = {"python": "3.11.7", "torch": "2.14.1", "pytorch-lightning": "2.6.6", "alexnet_exp": "0.3.0"}
# what a real configuration has beside what varies, so that the size of a page is real too
CONSTANT = {
    f"model.stages.conv{n}.{key}": n * 64 for n in range(1, 6) for key in ("out", "kernel", "stride", "pad")
} | {f"data.augment.{key}": 0.5 for key in ("crop", "mirror", "colour", "cutout", "rotate", "scale")}


def write_run(
    folder: Path,
    model: str,
    lr: float,
    seed: int,
    *,
    epochs: int = 30,
    status: str = "done",
    pictures: int = 0,
    **facts: Any,
) -> None:
    """One run: faster and higher with lrn and with a rate near 0.02; a failed one has the first third of its epochs."""
    noise = random.Random(f"{model} {lr} {seed}")
    top = 0.975 + 0.008 * (model == "lrn") - 0.006 * abs(math.log10(lr / 0.02)) + noise.gauss(0, 0.0025)
    done = epochs if status == "done" else epochs // 3
    lines = [",".join(COLUMNS)]
    value = 0.0
    for epoch in range(done):
        reached = 1 - math.exp(-(epoch + 1) / (epochs / 6))
        value = min(1.0, top * (0.1 + 0.9 * reached) + noise.gauss(0, 0.004))
        loss = 2.3 * (1 - reached) + 0.08 + abs(noise.gauss(0, 0.02))
        row = (epoch, 41 * (epoch + 1), lr, loss * 0.8, min(1.0, value + 0.01), loss, value, min(1.0, value + 0.02))
        lines.append(",".join(str(cell) for cell in (*row, 1.73 + noise.random())))
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    metrics = {"val/top1": value, "val/loss": 0.09, "test/top1": top, "test/loss": 0.11 - top / 100, "test/top5": 0.999}
    result = {
        "format": 1,
        "status": status,
        "config": {"seed": seed, "optim.lr": lr, "model.norm": "lrn" if model == "lrn" else "bn", "name": model}
        | CONSTANT,
        "choices": {"model": model, "optim": "sgd", "data": "digits"},
        "overrides": [f"model={model}", f"optim.lr={lr}", f"seed={seed}"],
        "metrics": metrics if status == "done" else {},
        "seconds": 50 + 10 * noise.random(),
        "images_per_s": 5200 + 400 * noise.random(),
        "commit": "3f2a91c07be44d10aa0c5d2c4c2f0e5b1a9d7e66",
        "dirty": False,
        "device": "cpu",
        "precision": "32-true",
        "versions": VERSIONS,
        "fingerprint": "9b1de0a4",
    }
    (folder / "result.json").write_text(json.dumps(result | facts))
    for number in range(pictures):
        write_picture(folder / "plots" / ("confusion_matrix.png", "learning_curves.png", "filters.png")[number], noise)


def write_picture(file: Path, noise: random.Random, size: tuple[int, int] = (900, 540)) -> None:
    """A picture with about as much in it as a plot has."""
    file.parent.mkdir(exist_ok=True)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for row in range(10):
        for column in range(10):
            shade = 255 - noise.randrange(40) - 180 * (row == column)
            corner = (60 + column * 60, 20 + row * 48)
            pen.rectangle((*corner, corner[0] + 58, corner[1] + 46), fill=(shade, shade, 255))
            pen.text((corner[0] + 20, corner[1] + 16), str(noise.randrange(99)), fill="black")
    picture.save(file)


def write_sweep(outputs: Path, *, seeds: int = 3, **options: Any) -> None:
    """2 models x 2 rates x `seeds`; one failed and one that was interrupted, of further seeds."""
    for model in ("lrn", "bn"):
        for lr in (0.1, 0.01):
            for seed in range(1, seeds + 1):
                write_run(outputs / "norms" / f"model-{model}_lr-{lr}_seed-{seed}", model, lr, seed, **options)
    error = "Traceback (most recent call last):\n  ...\nRuntimeError: the loss is not finite at step 217 (lr 0.1)"
    write_run(outputs / "norms" / "model-bn_lr-0.1_seed-9", "bn", 0.1, 9, status="failed", error=error)
    write_run(outputs / "norms" / "model-lrn_lr-0.01_seed-9", "lrn", 0.01, 9, status="interrupted")


def compared(*paths: Path, verdicts: Sequence[Verdict] = VERDICTS) -> Comparison:
    """A comparison of generated runs with given verdicts, whatever the values say: what is tested shows them."""
    runs = sort_by_metric(read_runs(*paths), "test/top1")
    keys = dict.fromkeys((run.choices["model"], run.config["optim.lr"]) for run in runs)
    arms = sorted((_arm(runs, *key) for key in keys), key=lambda arm: -(arm.mean or 0))
    metric = Metric("test/top1", "test top-1", higher_is_better=True, percent=True)
    differences = [
        _difference(arm, arms[-1], verdicts[place % len(verdicts)]) for place, arm in enumerate(arms[:-1]) if arm.mean
    ]
    table = runs_table(runs, ["model", "optim.lr"])
    return Comparison(
        metric=metric,
        sentence="model=lrn optim.lr=0.01 beats model=bn optim.lr=0.1 by 0.83 points of test top-1 "
        "(95% interval 0.31 to 1.35; 3 seeds each).",
        arms=arms,
        differences=differences,
        table=table,
        runs_table=table,
        caveats=[
            "1 run failed, 1 was interrupted; neither is counted: model-bn_lr-0.1_seed-9, model-lrn_lr-0.01_seed-9",
            "seeds 4 to 6 of model=bn were run in a later batch",
        ],
        varying=["model", "optim.lr"],
        runs=runs,
        margin=0.005,
    )


def _arm(runs: Sequence[Run], model: str, lr: float) -> Arm:
    mine = [run for run in runs if (run.choices["model"], run.config["optim.lr"]) == (model, lr)]
    counted = sorted((run for run in mine if run.status == "done"), key=lambda run: run.seed or 0)
    values = [run.metrics["test/top1"] for run in counted]
    middle = mean(values) if values else None
    sd = stdev(values) if len(values) > 1 else None
    interval = (middle - 2.5 * sd, middle + 2.5 * sd) if middle and sd and len(values) > 2 else None
    return Arm(
        settings={"model": model, "optim.lr": lr},
        label=f"model={model} optim.lr={lr}",
        runs=counted,
        values=values,
        seeds=[run.seed for run in counted],
        mean=middle,
        sd=sd,
        interval=interval,
        uncounted=[run for run in mine if run.status != "done"],
    )


def _difference(arm: Arm, baseline: Arm, verdict: Verdict) -> Difference:
    assert arm.mean is not None
    assert baseline.mean is not None
    found = arm.mean - baseline.mean
    undecided = verdict is Verdict.inconclusive
    return Difference(
        arm=arm,
        baseline=baseline,
        difference=found,
        interval=(found - 0.0052, found + 0.0052),
        p=0.01,
        method="Welch with Holm",
        verdict=verdict,
        bound={Verdict.no_difference: 0.005, Verdict.inconclusive: 0.0061}.get(verdict),
        sentence=f"{arm.label}: {verdict.value} {100 * found:.2f} points of test top-1.",
        images_interval=(found - 0.008, found + 0.008) if verdict is Verdict.better else None,
        more_seeds=4 if undecided else None,
        command="python -m alexnet_exp -m model=lrn,bn optim.lr=0.1 seed=4,5,6,7" if undecided else None,
        claim=CLAIM if verdict is Verdict.better else None,
    )
