"""One experiment, from a validated configuration to a finished run folder."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from alexnet_exp import logs
from alexnet_exp.build import Experiment, build
from alexnet_exp.callbacks.checkpoints import Checkpoints, FlushedIO
from alexnet_exp.callbacks.progress import Progress, wants_bar
from alexnet_exp.callbacks.recorder import NotFinite, Recorder
from alexnet_exp.callbacks.watch import Watch
from alexnet_exp.datamodule import ImageData
from alexnet_exp.devices import Placement, launched, place
from alexnet_exp.evaluate import evaluate, save_predictions
from alexnet_exp.launch import run_ranks
from alexnet_exp.loggers import build_loggers
from alexnet_exp.model.preprocess import Preprocess
from alexnet_exp.callbacks.chosen import build_callbacks
from alexnet_exp.runs import provenance
from alexnet_exp.runs.folder import RunFolder, flatten
from alexnet_exp.schema import Config, Trainer, Which
from alexnet_exp.seeds import derive
from alexnet_exp.settings import UserError
from alexnet_exp.validate import validate

log = logging.getLogger(__name__)

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
# Settings of ours that Lightning's Trainer does not know.
OURS = ("gpus", "compile", "channels_last", "accelerator", "devices", "strategy", "precision", "enable_progress_bar")


def train(container: Mapping[str, Any], path: Path) -> int:
    """Runs the experiment into the folder `path`; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted.

    Where several devices are asked for, every one gets a process, of which this one only waits for the end.
    """
    config = validate(container)
    placement = place(config.trainer)
    if placement.ranks > 1 and config.trainer.num_nodes == 1 and not launched():
        return run_ranks(placement.ranks, "nccl" if placement.accelerator == "cuda" else "gloo", container, path)
    return train_rank(container, path)


def train_rank(container: Mapping[str, Any], path: Path) -> int:
    """One rank's whole life; the only rank there is, on one device. Rank 0 writes the folder."""
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    folder = RunFolder(path)
    logs.configure(path, rank)
    try:
        config = validate(container)
        with folder.lock() if rank == 0 else nullcontext():
            return _recorded(config, container, folder, rank)
    except UserError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT


def _recorded(config: Config, container: Mapping[str, Any], folder: RunFolder, rank: int) -> int:
    """Runs, and writes into result.json how it ended, whatever happens."""
    writer = folder if rank == 0 else None
    if writer:
        code = provenance.code()
        writer.begin(container, _first_facts(config, code))
        writer.write_patch(code.patch)
        writer.link_latest(folder.path.parent.parent)
    try:
        with _interruptible():
            facts = _run(config, container, writer)
    except KeyboardInterrupt:
        return _ended(writer, INTERRUPTED, "interrupted", "interrupted")
    except UserError as error:
        return _ended(writer, BAD_INPUT, "failed", str(error))
    except NotFinite as error:
        return _ended(writer, FAILED, "failed", str(error))
    except Exception as error:
        if os.environ.get("ALEXNET_EXP_TRACEBACK"):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logging.getLogger("alexnet_exp.traceback").debug("", exc_info=True)
        return _ended(writer, FAILED, "failed", reason, traceback.format_exc())
    if writer:
        writer.finish("done", **facts)
    return DONE


def _ended(folder: RunFolder | None, code: int, status: str, reason: str, trace: str | None = None) -> int:
    if folder is None:
        return code
    log.error(f"{status}: {reason}" if reason != status else status)
    if trace:
        with folder.log.open("a", encoding="utf-8") as file:
            file.write(trace)
    folder.finish(status, error=reason, **({"traceback": trace} if trace else {}))
    return code


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a script started us with SIGINT ignored."""
    try:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:  # not the main thread: whoever owns that handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Interrupt(pl.Callback):
    """Lightning turns Ctrl-C into its own exit; this hands it on as the KeyboardInterrupt that it was."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            raise exception


def _first_facts(config: Config, code: provenance.Code) -> dict[str, Any]:
    said = {key: getattr(config, key) for key in ("name", "seed", "tags", "note", "paper_claim")}
    return {**said, "commit": code.commit, "dirty": code.dirty, **provenance.environment()}


def _run(config: Config, container: Mapping[str, Any], folder: RunFolder | None) -> dict[str, Any]:
    """Trains, tests and saves the predictions; returns the facts of the result."""
    placement = place(config.trainer)
    torch.manual_seed(derive(config.seed, "weights"))
    experiment = build(config)
    data, module = experiment.data, experiment.module
    prepare(experiment)
    log.info(f"seed {config.seed}; {placement.device_name}; precision {placement.precision} ({placement.why or 'as set'})")
    recorder = Recorder(folder)
    run_path = folder.path if folder else Path()
    checkpoints = Checkpoints(RunFolder(run_path), experiment.card, config.checkpoint.keep)
    watch = Watch(len(experiment.card["classes"]))
    callbacks: list[pl.Callback] = [*build_callbacks(config.callbacks), watch, recorder, checkpoints, _Interrupt()]
    if wants_bar(config.trainer.enable_progress_bar):
        callbacks.append(Progress())
    loggers = build_loggers(config, run_path, flatten(container)) if folder else []
    trainer = build_trainer(config.trainer, placement, callbacks, loggers)
    facts = describe(experiment, placement, trainer)
    if folder:
        folder.update(**facts)
    if config.trainer.compile:
        experiment.network.compile()  # in place: `torch.compile(network)` would rename every key of the checkpoint
    started = time.perf_counter()
    trainer.fit(module, datamodule=data)
    _check_ended_well(trainer)
    seconds = time.perf_counter() - started
    throughput = recorder.total_images / recorder.total_seconds if recorder.total_seconds else None
    metrics = dict(getattr(module, "metrics", {})) or {key: float(value) for key, value in trainer.callback_metrics.items()}
    ended = {"seconds": round(seconds, 3), "images_per_s": throughput, "epochs": trainer.current_epoch, "best_epoch": checkpoints.best_epoch}
    tested = _test(experiment, placement, folder, checkpoints) if config.test.run else {}
    metrics |= tested.pop("metrics", {})
    for logger in loggers:
        logger.log_metrics({key: value for key, value in metrics.items() if key.startswith("test/")}, step=trainer.global_step)
        logger.finalize("success")
    if folder:
        checkpoints.finish()
    return {**ended, **tested, "metrics": metrics}


def prepare(experiment: Experiment) -> None:
    """Opens the data and fits the network's preprocessing to the statistics of its training images."""
    data = experiment.data
    data.prepare_data()
    data.setup("fit")
    preprocess = getattr(experiment.module, "preprocess", None)
    if isinstance(data, ImageData):
        for line in data.describe().splitlines():
            log.info(line)
        if isinstance(preprocess, Preprocess) and preprocess.needs:
            preprocess.fit(data.statistics(preprocess.needs))


def build_trainer(settings: Trainer, placement: Placement, callbacks: list[pl.Callback], loggers: list[Any]) -> pl.Trainer:
    """Lightning's Trainer as the settings say. Sampling and checkpoints are ours, and the log says what its summaries would."""
    passed = {key: value for key, value in vars(settings).items() if key not in OURS}
    return pl.Trainer(
        **passed,
        accelerator=placement.accelerator,
        devices=placement.devices,
        strategy=placement.strategy,
        precision=placement.precision,  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[FlushedIO()],
        # True with ours among the callbacks, or Lightning would add its own (True) or refuse ours (False)
        enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, Progress) for callback in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
        enable_autolog_hparams=False,
        default_root_dir=os.devnull,
    )


def _check_ended_well(trainer: pl.Trainer) -> None:
    if trainer.interrupted:
        raise KeyboardInterrupt


def describe(experiment: Experiment, placement: Placement, trainer: pl.Trainer) -> dict[str, Any]:
    """The facts of a run that do not depend on how it goes."""
    from alexnet_exp.model.count import layers, totals
    from alexnet_exp.model.spec import Network

    parameters = sum(p.numel() for p in experiment.network.parameters())
    counted = totals(layers(experiment.spec)) if isinstance(experiment.spec, Network) else None
    batch = getattr(experiment.config.data, "batch_size", None)
    return {
        "parameters": parameters,
        "multiply_adds": counted.multiply_adds if counted else None,
        "device": placement.device_name,
        "accelerator": placement.accelerator,
        "ranks": trainer.world_size,
        "precision": placement.precision,
        "deterministic": bool(experiment.config.trainer.deterministic),
        "effective_batch": batch * experiment.config.trainer.accumulate_grad_batches if batch else None,
        "fingerprint": getattr(experiment.data, "fingerprint", None),
        "classes": len(experiment.card["classes"]),
    }


def _test(experiment: Experiment, placement: Placement, folder: RunFolder | None, checkpoints: Checkpoints) -> dict[str, Any]:
    """Tests the chosen checkpoint's weights; without a test split there is nothing to say."""
    data = experiment.data
    if isinstance(data, ImageData) and data.source.test is None:
        log.info("no test images: the run ends with validation")
        return {}
    wanted = experiment.config.test.checkpoint
    which = "best" if wanted is Which.best and checkpoints.best_epoch is not None else "last"
    path = checkpoints.folder.checkpoints / f"{which}.ckpt"
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        experiment.module.load_state_dict(state)
    else:  # saving failed: what is in memory is the last epoch
        which = "last"
    metrics, predictions = evaluate(experiment, placement, "test")
    if folder and predictions is not None:
        save_predictions(folder.predictions("test"), predictions)
    return {"metrics": metrics, "tested": which, "test_images": len(predictions.labels) if predictions else None}
