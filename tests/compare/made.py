"""Runs as `compare` gets them, made up: the settings of `model=... optim.lr=... seed=...` and their consequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

# what each option of the group sets, some of it shared
MODELS: dict[str, dict[str, Any]] = {
    "bn": {"model.norm": "bn", "model.init": "torch", "model.stages.conv1.then": ["norm", "act"]},
    "lrn": {"model.norm": "lrn", "model.init": "he", "model.stages.conv1.then": ["act", "norm"]},
    "none": {"model.norm": "none", "model.init": "he", "model.stages.conv1.then": ["act", "norm"]},
}


def made(
    model: str,
    seed: int | None,
    top1: float | None = None,
    *,
    lr: float = 0.1,
    val: float | None = None,
    status: str = Status.DONE,
    config: Mapping[str, Any] | None = None,
    sweep: str = "outputs/sweep",
    metrics: Mapping[str, float] | None = None,
    overrides: Sequence[str] | None = (),
    **facts: Any,
) -> Run:
    """overrides: more than those of the model, the rate and the seed; None: nobody recorded what was typed."""
    typed = [f"model={model}", f"optim.lr={lr}", f"seed={seed}", *(overrides or ())]
    name = f"{model}-{lr}-{seed}-{len(typed)}-{status}"
    settings = {
        "name": "train",
        "seed": seed,
        "objective": "val/top1",
        **MODELS[model],
        "optim.lr": lr,
        **(config or {}),
    }
    if seed is None:
        del settings["seed"]
    found = {} if top1 is None else {"val/top1": top1 if val is None else val, "test/top1": top1}
    known = {
        "start": "2026-01-01T00:00:00+00:00",
        "end": "2026-01-01T00:01:00+00:00",
        "commit": "a" * 40,
        "fingerprint": "digits",
        "test_images": 360,
        "paper_claim": {},
    }
    if overrides is not None:
        known["overrides"] = typed
    choices = {} if overrides is None else {"model": model}
    return Run(Path(sweep) / name, name, status, settings, found | dict(metrics or {}), choices, known | facts)


def arm(model: str, values: Sequence[float], **more: Any) -> list[Run]:
    """One run a value, with seeds from 1."""
    return [made(model, seed, value, **more) for seed, value in enumerate(values, start=1)]
