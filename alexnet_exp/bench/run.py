"""Measures the training speed of an experiment: builds it as training does, trains some seconds, writes no run."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from alexnet_exp import logs
from alexnet_exp.bench import candidates
from alexnet_exp.bench.bottleneck import bound
from alexnet_exp.bench.candidates import LayerOperator, image_operator, layer_operators
from alexnet_exp.bench.flop import Flop, counted, counted_by_running
from alexnet_exp.bench.layers import PREPROCESS, LayerTimes, leaves
from alexnet_exp.bench.peak_flops import measure_peak
from alexnet_exp.bench.rows import layer_rows, outside_rows, part_rows
from alexnet_exp.bench.steps import COUNTED, FIRST, LAYERED, WARM, BenchSteps, Timed, usual
from alexnet_exp.bench.timer import Clock, Stopwatch
from alexnet_exp.config.schema import COLUMNS, Config, Ema, Trainer
from alexnet_exp.data.split import StreamedSplit
from alexnet_exp.errors import ExitCode, UserError
from alexnet_exp.model import columns_layout
from alexnet_exp.model.cost import layers
from alexnet_exp.model.spec import Network
from alexnet_exp.processes.memory import keep_freed_memory
from alexnet_exp.processes.ranks import rank
from alexnet_exp.processes.signals import stop_on_signals
from alexnet_exp.runs.status import Ending, Status, own_interrupts
from alexnet_exp.training.build import Experiment, build, lay_out, prepare
from alexnet_exp.training.callbacks.build import build_callbacks
from alexnet_exp.training.callbacks.recorder import Recorder, memory_used
from alexnet_exp.training.compilation import compile_network
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.devices import Placement, place
from alexnet_exp.training.distributed import replicas
from alexnet_exp.training.kernel_choice import DTYPES, RunKernels, choose_kernels
from alexnet_exp.training.trainer import build_trainer

log = logging.getLogger(__name__)

RESULT_FILE = "bench.json"  # rank 0 writes it for the parent process
PRECISION_DTYPES = {"64": torch.float64, "32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}
# Kinds of torch's modules in a user's network.
MODULE_KINDS = {
    **{f"Conv{n}d": "conv" for n in (1, 2, 3)},
    **{f"BatchNorm{n}d": "bn" for n in (1, 2, 3)},
    **{f"MaxPool{n}d": "pool" for n in (1, 2, 3)},
    **{f"AvgPool{n}d": "avg" for n in (1, 2, 3)},
    "Linear": "fc",
    "ReLU": "relu",
    "Dropout": "drop",
    "LocalResponseNorm": "lrn",
    "Flatten": "flat",
}
ENDLESS_EPOCHS = 10**6  # a schedule needs a number of epochs


@dataclass(frozen=True)
class BenchRequest:
    """What to measure. steps: None: by time. batches: batch sizes; empty: that of the data.

    candidates: whether to measure the candidates of each operator.
    """

    steps: int | None = None
    batches: tuple[int, ...] = ()
    layers: bool = True
    candidates: bool = False


def bench_rank(given: tuple[Config, BenchRequest], folder: Path) -> Ending:
    """Measures on one of several ranks; rank 0 writes the result to `folder`."""
    logs.configure(None, rank())
    found = measure(*given)
    if rank() == 0:
        (folder / RESULT_FILE).write_text(json.dumps(found), encoding="utf-8")
    return Ending(Status.DONE, ExitCode.OK)


def measure(config: Config, ask: BenchRequest) -> dict[str, Any]:
    """Returns the result as plain containers. Every rank must call it; the result of rank 0 covers all ranks."""
    with stop_on_signals():
        experiment = build(config)
        placement = place(config.trainer, experiment.multiply_adds)
        memory = keep_freed_memory() if placement.accelerator == "cpu" else ""
        kernels = choose_kernels(placement, config.trainer.compile_mode is not None)
        lay_out(experiment, placement.channels_last)
        prepare(experiment)
        flop = _flop(experiment)
        operators = _operators(experiment, placement)
        compile_network(experiment, placement.accelerator)
        found = []
        for size in ask.batches or (None,):
            _set_length(experiment, size, ask.steps)
            timed, trainer = _timed(experiment, placement, ask)
            found.append(_result(experiment, timed, flop, trainer))
            names = candidates.phrases(operators)
            for row in found[-1]["layers"]:
                row["kernels"] = names.get(row["name"], "")
            if ask.candidates:
                images = usual(timed.counted)[0].images // config.trainer.accumulate_grad_batches
                found[-1]["candidates"] = candidates.rows(operators, images)
        dtype = PRECISION_DTYPES[placement.precision.partition("-")[0]]
        ceiling = _ceiling(torch.device(placement.accelerator), dtype)
        for each in found:
            each["ceiling_gflops"] = ceiling
            each["mfu"] = each["gflops"] / ceiling if each["gflops"] and ceiling else None
            each["bound"] = bound(each, _workers(experiment), not isinstance(experiment.data, ImageData))
        about = _about(experiment, placement, dtype, memory, kernels) | {"ceiling_gflops": ceiling}
        return about | ({"batches": found} if ask.batches else found[0])


def _timed(experiment: Experiment, placement: Placement, ask: BenchRequest) -> tuple[Timed, pl.Trainer]:
    """Trains with the settings of the run, except for length, validation and files."""
    config = experiment.config
    kept = {key: node for key, node in config.callbacks.items() if isinstance(node, Ema)}  # they run in every step
    device = torch.device(placement.accelerator)
    stopwatch = Stopwatch(Clock(device))
    layered = ask.layers and not ask.batches and config.trainer.compile_mode is None

    def watch() -> LayerTimes:
        preprocess = getattr(experiment.module, "preprocess", None)
        beside = {PREPROCESS: preprocess} if isinstance(preprocess, torch.nn.Module) else {}
        fused = _may_fuse(placement)
        ddp = placement.strategy == "ddp"
        return LayerTimes(stopwatch.clock, experiment.network, beside, exchanged=ddp, fused=fused)

    steps = BenchSteps(
        stopwatch, ask.steps, watch if layered else None, lambda: memory_used(device), 1 / max(1, len(ask.batches))
    )
    trainer = build_trainer(endless(config.trainer), placement, [*build_callbacks(kept), steps, Recorder(None)], [])
    trainer.profiler = stopwatch  # type: ignore[attr-defined]
    with own_interrupts(trainer):
        trainer.fit(experiment.module, datamodule=experiment.data)
    return steps.timed, trainer


def _may_fuse(placement: Placement) -> bool:
    """Whether stages of the network may use kernels."""
    return placement.accelerator == "cpu" and placement.precision in DTYPES and placement.channels_last


def _operators(experiment: Experiment, placement: Placement) -> list[LayerOperator]:
    """Returns the operators of the network that have candidates; none where its stages use no kernels."""
    if not _may_fuse(placement) or experiment.config.trainer.compile_mode is not None:
        return []
    card = experiment.card
    try:
        bf16 = placement.precision == "bf16-mixed"
        sizes = card["in_channels"], card["input_size"], bf16
        images = [image_operator(*sizes)] if isinstance(experiment.data, ImageData) else []
        return [*images, *layer_operators(experiment.network, *sizes)]
    except Exception as error:  # a user's network may reject two zero images
        log.warning(f"kernels of layers not listed: {type(error).__name__}: {error}")
        return []


def endless(trainer: Trainer) -> Trainer:
    """Returns the settings of a training without validation and without an end."""
    off = ("min_epochs", "min_steps", "max_time", "limit_train_batches", "val_check_interval", "profiler")
    none = ("limit_val_batches", "num_sanity_val_steps", "overfit_batches", "reload_dataloaders_every_n_epochs")
    length = {"max_epochs": ENDLESS_EPOCHS, "max_steps": -1, "check_val_every_n_epoch": 1, "fast_dev_run": False}
    changed: dict[str, Any] = {**dict.fromkeys(off), **dict.fromkeys(none, 0), **length}
    return replace(trainer, **changed)


def _set_length(experiment: Experiment, batch: int | None, steps: int | None) -> None:
    """Sets the batch size (None: unchanged), and repeats the training images so that one epoch has all steps.

    The images are not copied. A user's data module is not changed.
    """
    data = experiment.data
    if not isinstance(data, ImageData):
        if batch:
            raise UserError("bench: --batch: your own data module sets the batch size; leave it out")
        return
    data.spec.batch_size = batch or data.spec.batch_size
    each = data.spec.batch_size * experiment.config.trainer.accumulate_grad_batches
    wanted = each * (FIRST + WARM[2] + (steps or COUNTED[2]) + LAYERED[2] + 2)
    train = data.source.train
    if len(train) < wanted:
        again = torch.arange(len(train)).repeat(math.ceil(wanted / len(train)))
        data.source = replace(data.source, train=train.select(again))


def _flop(experiment: Experiment) -> dict[str, Flop]:
    """Returns the FLOP of a training image on one rank, by layer."""
    if isinstance(experiment.spec, Network):
        columns = experiment.config.trainer.strategy == COLUMNS
        return counted(columns_layout.rank_layers(experiment.spec) if columns else layers(experiment.spec))
    try:
        return counted_by_running(experiment.network, experiment.card["in_channels"], experiment.card["input_size"])
    except Exception as error:  # a user's network may reject two zero images
        log.warning(f"FLOP not counted: {type(error).__name__}: {error}")
        return {}


def _result(experiment: Experiment, timed: Timed, flop: Mapping[str, Flop], trainer: pl.Trainer) -> dict[str, Any]:
    """Returns the measurements of one batch size, without the peak and what depends on it."""
    config, steps = experiment.config, usual(timed.counted)
    seconds = [step.seconds for step in steps]
    middle = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [middle] * 3
    columns = config.trainer.strategy == COLUMNS
    mine = steps[0].images
    if isinstance(experiment.data, ImageData):
        size = experiment.data.spec.batch_size
        images = size * config.trainer.accumulate_grad_batches  # not `mine` times ranks, because the shares may differ
    else:
        size, images = None, mine * replicas(trainer)
    # in columns every rank processes all images, and a part of each layer
    per_image = sum(each.all for each in flop.values()) * (trainer.world_size if columns else 1)
    layered = usual(timed.layered)
    parts = part_rows(steps)
    return {
        "batch_size": size,
        "images_per_step": images,
        "steps": len(steps),
        "step_ms": {"median": 1e3 * middle, "q1": 1e3 * low, "q3": 1e3 * high},
        "images_per_s": images / middle,
        "parts": parts,
        "data_wait": next((part["share"] for part in parts if part["name"] == "data wait"), 0.0),
        "warm_up": {
            "steps": timed.warm_steps,
            "seconds": timed.warm_seconds,
            "first_step_seconds": timed.first_seconds,
        },
        "flop_per_image": per_image or None,
        "flop_per_step": per_image * images or None,
        "gflops": per_image * images / middle / 1e9 if per_image else None,
        "peak_memory_bytes": timed.memory,
        "layers": layer_rows(layered, _kinds(experiment), flop, mine),
        "outside_layers": outside_rows(layered),
    }


def _kinds(experiment: Experiment) -> dict[str, str]:
    """Returns the kind of each layer: its slot in a stage, or its class."""
    if isinstance(experiment.spec, Network):
        columns = experiment.config.trainer.strategy == COLUMNS
        table = columns_layout.rank_layers(experiment.spec) if columns else layers(experiment.spec)
        return {layer.name: layer.kind for layer in table}
    return {
        name: MODULE_KINDS.get(type(module).__name__, type(module).__name__)
        for name, module in leaves(experiment.network).items()
    }


def _ceiling(device: torch.device, dtype: torch.dtype) -> float | None:
    """Returns the GFLOP/s of all ranks, measured at the same time; None if the device has no such products."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    try:
        mine: float | None = measure_peak(device, dtype)
    except RuntimeError as error:
        log.warning(f"peak not measured: {error}")
        mine = None
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    everyone: list[float | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    known = [each for each in everyone if each is not None]
    return sum(known) if len(known) == len(everyone) else None


def _workers(experiment: Experiment) -> str | None:
    """Returns `data.workers` if images are decoded while training, else None."""
    data = experiment.data
    if isinstance(data, ImageData) and not isinstance(data.source.train, StreamedSplit):
        return None
    workers = getattr(experiment.config.data, "workers", None)
    return "null" if workers is None else str(workers)


def _about(
    experiment: Experiment, placement: Placement, dtype: torch.dtype, memory: str, kernels: RunKernels
) -> dict[str, Any]:
    """Returns what was measured, on which device and with which kernels."""
    config = experiment.config
    names = {key: getattr(node, "name", "") for key, node in (("model", config.model), ("data", config.data))}
    left_out = [key for key, node in config.callbacks.items() if not isinstance(node, Ema)]
    return {
        **names,
        "optim": getattr(config.optim, "name", ""),
        "parameters": sum(parameter.numel() for parameter in experiment.module.parameters()),
        "device": placement.device_name,
        "accelerator": placement.accelerator,
        "ranks": placement.ranks,
        "threads": torch.get_num_threads(),
        "precision": placement.precision,
        "dtype": str(dtype).removeprefix("torch."),
        "channels_last": placement.channels_last,
        "compile": config.trainer.compile_mode or False,
        "kernels": str(kernels),
        "why": "; ".join(filter(None, (placement.why, memory))),
        "left_out": left_out,
    }
