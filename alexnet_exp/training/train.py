"""Runs an experiment: from a validated configuration to a finished run folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from alexnet_exp import logs
from alexnet_exp.config.composition import Composition
from alexnet_exp.config.schema import COLUMNS, Config, Interval, OnNan, Which
from alexnet_exp.errors import ExitCode, UserError, error_text
from alexnet_exp.processes import signals
from alexnet_exp.processes.memory import freeze_garbage_collector, keep_freed_memory
from alexnet_exp.processes.ranks import is_rank, rank
from alexnet_exp.runs import provenance
from alexnet_exp.runs.folder import PRUNE_FILE, RunFolder, flatten
from alexnet_exp.runs.lookup import outputs_of
from alexnet_exp.runs.predictions import TEST_FILE
from alexnet_exp.runs.reader import chosen_options
from alexnet_exp.runs.result import record
from alexnet_exp.runs.start import Start
from alexnet_exp.runs.status import Ending, Status, ending_of, own_interrupts
from alexnet_exp.runs.wilson import summary_line
from alexnet_exp.training.build import Experiment, build, lay_out, prepare
from alexnet_exp.training.callbacks.build import build_callbacks
from alexnet_exp.training.callbacks.diagnostics import Diagnostics
from alexnet_exp.training.callbacks.progress import Progress, wants_bar
from alexnet_exp.training.callbacks.prune import Prune
from alexnet_exp.training.callbacks.recorder import Recorder
from alexnet_exp.training.callbacks.skip_nonfinite import SkipNotFinite
from alexnet_exp.training.callbacks.train_error import TrainError
from alexnet_exp.training.checkpoints.callback import RESUME_CONDITIONS, Checkpoints
from alexnet_exp.training.checkpoints.format import WEIGHTS, ResumePoint, read_checkpoint
from alexnet_exp.training.checkpoints.resume import (
    earlier_attempts,
    find_resume_point,
    refuse_another_run,
    refuse_other_data,
    restore_folder,
)
from alexnet_exp.training.compilation import compile_network
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.devices import Placement, check_ranks, device_count, place, select_devices, skip_nvml_check
from alexnet_exp.training.evaluate import evaluate
from alexnet_exp.training.info import build_info, start_info
from alexnet_exp.training.kernel_choice import RunKernels, choose_kernels
from alexnet_exp.training.launch import run_ranks
from alexnet_exp.training.loggers.build import RunLoggers, build_loggers
from alexnet_exp.training.trainer import build_trainer

log = logging.getLogger(__name__)

BEGIN_OR_RESUME = Start()


def train(container: Mapping[str, Any], path: Path) -> int:
    """Validates a configuration and runs the experiment into the folder `path`; returns the exit code, see `status`."""
    return run_experiment(Composition.of(container), path).code


def run_experiment(composition: Composition, path: Path, start: Start = BEGIN_OR_RESUME) -> Ending:
    """Runs the experiment into the folder `path`, and prints the reason where it was rejected.

    With several devices, each has a process of its own, and this one only waits for their end. A folder with a
    checkpoint is resumed from there, and ends as an uninterrupted run would.
    """
    config = composition.config
    accelerator, devices, _ = select_devices(config.trainer)
    check_ranks(config)
    number = rank()
    if device_count(devices) == 1 or config.trainer.num_nodes > 1 or is_rank():
        ending = train_rank(composition, path, start)
    else:
        backend = "nccl" if accelerator == "cuda" else "gloo"
        ending = run_ranks(partial(train_rank, start=start), device_count(devices), backend, composition, path)
        if ending.status != Status.REFUSED and not ending.recorded and path.exists():  # else it would be made anew
            ending = _record_for_ranks(composition.container, path, ending)
    if ending.status == Status.REFUSED:
        print(error_text(UserError(f"rank {number}: {ending.reason}" if number else ending.reason)), file=sys.stderr)
    elif number and ending.code not in (ExitCode.OK, ExitCode.TERMINATED, ExitCode.INTERRUPTED):
        print(error_text(UserError(f"rank {number}: {ending.status}: {ending.reason}")), file=sys.stderr)
    return ending


def train_rank(composition: Composition, path: Path, start: Start = BEGIN_OR_RESUME) -> Ending:
    """Runs one rank, which is the only one on one device. Rank 0 writes the folder.

    Nothing is written before the folder is locked, `start` has been checked and, of a resumed run, the data is known
    to be the same.
    """
    folder = RunFolder(path)
    logs.configure(path, rank(), buffered=True)
    with signals.stop_on_signals():
        try:
            if rank() != 0:
                return _run_and_record(composition, folder, None)
            with folder.lock():
                start.check(path)
                return _run_and_record(composition, folder, start)
        except UserError as error:
            return Ending(Status.REFUSED, ExitCode.BAD_INPUT, str(error))


def _record_for_ranks(container: Mapping[str, Any], path: Path, ending: Ending) -> Ending:
    """Records how a run ended whose ranks could not record it."""
    folder = RunFolder(path)
    try:
        with folder.lock():
            logs.configure(path)
            _log_ending(ending)
            return record(folder, container, ending)
    except UserError as error:  # another process writes the folder
        logs.configure(None)
        _log_ending(ending)
        log.error(str(error))
        return ending


def _run_and_record(composition: Composition, folder: RunFolder, start: Start | None) -> Ending:
    """Runs, and writes into result.json how the run ended, whatever happens. start: None but on rank 0.

    A resumed run is built first: where that is rejected or interrupted, the folder stays as it is.
    """
    config, container = composition.config, composition.container
    found = find_resume_point(folder.path)
    refuse_another_run(folder.path, container, found)
    built: BuiltExperiment | None = None
    broken: Exception | None = None
    if found is not None:
        try:
            built = _build_experiment(config, found)
            refuse_other_data(folder.path, found, getattr(built.experiment.data, "fingerprint", None))
        except UserError:
            raise
        except KeyboardInterrupt as stop:
            ending = ending_of(stop)
            _log_ending(ending)
            return replace(ending, recorded=True)  # this attempt leaves no record
        except Exception as error:  # recorded below, with its traceback
            broken = error
    if start is not None:
        _begin(config, container, folder, start, found)
    logs.write_buffered()
    try:
        if broken is not None:
            raise broken
        with ExitStack() as stack:
            built = built or _build_experiment(config, None)
            facts = _run(config, container, folder, built, found, start is not None, stack)
    except BaseException as error:
        ending = ending_of(error)
        _log_ending(ending)
        return record(folder, container, ending) if start is not None else ending
    ending = Ending(Status.DONE, ExitCode.OK)
    return record(folder, container, ending, facts) if start is not None else ending


def _begin(
    config: Config, container: Mapping[str, Any], folder: RunFolder, start: Start, found: ResumePoint | None
) -> None:
    """Prepares the folder for this attempt. The lock is held."""
    code = provenance.running()
    if code.why_unknown:
        log.warning(f"the commit of the code is not recorded: {code.why_unknown}")
    earlier = earlier_attempts(folder.path, code)
    restore_folder(folder, found)
    if start.resumed:
        (folder.path / PRUNE_FILE).unlink(missing_ok=True)
    folder.write_settings(start.files)
    folder.write_patch(code.patch)
    folder.begin(container, {**start_info(config, code), **chosen_options(folder.path), **earlier})


def _log_ending(ending: Ending) -> None:
    if ending.status == Status.DONE:
        return
    where = " (train.log shows where)" if ending.trace else ""
    log.error(f"{ending.status}: {ending.reason}{where}")
    if ending.trace:
        log.debug(ending.trace)  # only in train.log, unless debug output is on


@dataclass(frozen=True)
class BuiltExperiment:
    """An experiment with open data, its placement on devices, and the kernels that it uses."""

    experiment: Experiment
    placement: Placement
    kernels: RunKernels


def _build_experiment(config: Config, point: ResumePoint | None) -> BuiltExperiment:
    """Builds the experiment and opens its data; with the kernels of the resume point, if there is one."""
    freeze_garbage_collector()
    experiment = build(config)
    placement, mode = place(config.trainer, experiment.multiply_adds), config.trainer.compile_mode
    memory = keep_freed_memory() if placement.accelerator == "cpu" else ""
    kernels = choose_kernels(placement, mode is not None, None if point is None else point.state)
    lay_out(experiment, placement.channels_last)
    ranks = placement.ranks * config.trainer.num_nodes
    prepare(experiment, replicas=1 if config.trainer.strategy == COLUMNS else ranks)
    speedups = (str(kernels), memory) if placement.accelerator == "cpu" else ()
    compiled = f"compiled, {mode}" if mode else ""
    facts = (f"seed {config.seed}", placement.device_name, placement.why, *speedups, compiled)
    log.info("; ".join(filter(None, facts)))
    return BuiltExperiment(experiment, placement, kernels)


def _run(
    config: Config,
    container: Mapping[str, Any],
    folder: RunFolder,
    built: BuiltExperiment,
    point: ResumePoint | None,
    writes: bool,
    stack: ExitStack,
) -> dict[str, Any]:
    """Trains, tests and saves the predictions; returns entries of result.json. Leaves open loggers on `stack`."""
    experiment, placement = built.experiment, built.placement
    every = Interval.read(config.checkpoint.every)
    assert every is not None
    recorder = Recorder(folder if writes else None, config.trainer.on_nan)
    fingerprint = getattr(experiment.data, "fingerprint", None)
    known = build_info(experiment, placement, built.kernels)
    conditions = {**{key: known[key] for key in RESUME_CONDITIONS}, **built.kernels.record()}
    checkpoints = Checkpoints(folder, experiment.card, recorder, every, config.checkpoint.keep, fingerprint, conditions)
    diagnostics = Diagnostics(len(experiment.card["classes"]), getattr(experiment.spec, "norm", None))
    callbacks = [*build_callbacks(config.callbacks), diagnostics, recorder, checkpoints, Prune(folder.path)]
    if config.trainer.on_nan is OnNan.skip and placement.precision != "16-mixed":
        callbacks.insert(0, SkipNotFinite())
    if wants_bar(config.trainer.enable_progress_bar):
        callbacks.append(Progress())
    loggers = stack.enter_context(build_loggers(config, folder.path, flatten(container)) if writes else RunLoggers())
    loggers.metrics = recorder.newest  # the final metrics of a run that ends before its test
    trainer = build_trainer(config.trainer, placement, callbacks, loggers.loggers)
    loggers.trainer = trainer
    if writes:
        folder.update(**known)
        outputs = outputs_of(folder.path)
        if outputs is not None:  # only now: a run that was rejected before this point must not become `latest`
            folder.link_latest(outputs)
    with skip_nvml_check(placement.accelerator):
        facts = _fit(experiment, trainer, checkpoints, point, placement.accelerator)
    facts |= {"images_per_s": recorder.images_per_s, "best_epoch": checkpoints.best_epoch}
    which, epoch = "last", checkpoints.epoch  # the weights in memory, also where saving them failed
    if config.test.checkpoint is Which.best and checkpoints.best_epoch and checkpoints.file("best").exists():
        which, epoch = "best", checkpoints.best_epoch
    # all metrics are those of one state of the network: the checkpoint that is tested
    metrics = recorder.by_epoch.get(epoch, recorder.newest)
    facts["metrics_epoch"] = epoch
    if _is_validated(recorder.newest) and not _is_validated(metrics):
        log.warning(
            f"epoch {epoch}, the last one, was not validated: the run has no validation metric; write a "
            "trainer.check_val_every_n_epoch that divides trainer.max_epochs"
        )
    if config.test.run:
        tested = _test(experiment, placement, folder if writes else None, checkpoints.file("best"), which, epoch)
        metrics = metrics | tested.pop("metrics", {})
        facts |= tested
    for callback in callbacks:
        if isinstance(callback, TrainError):
            metrics = metrics | callback.metrics  # of the whole run, not of the tested state
    loggers.metrics = metrics
    if writes:
        checkpoints.finish()
    return {**facts, "metrics": metrics}


def _is_validated(metrics: Mapping[str, float]) -> bool:
    return any(key.startswith("val/") for key in metrics)


def _fit(
    experiment: Experiment, trainer: pl.Trainer, checkpoints: Checkpoints, point: ResumePoint | None, accelerator: str
) -> dict[str, Any]:
    """Trains from the resume point, or from the beginning, and leaves the last weights in the network."""
    compile_network(experiment, accelerator)
    if point is not None:
        log.info(f"resuming from {point}")
    with own_interrupts(trainer), signals.stop_at_boundaries():
        trainer.fit(
            experiment.module,
            datamodule=experiment.data,
            ckpt_path=None if point is None else point.path,
            weights_only=None if point is None else True,
        )
    if point is not None and point.step == trainer.global_step:
        # Nothing was left to train, so that Lightning has not called the callbacks which load the averaged weights.
        experiment.module.load_state_dict(point.weights())
    facts: dict[str, Any] = {"seconds": round(checkpoints.seconds, 3), "epochs": trainer.current_epoch}
    reason = checkpoints.stopped_early(trainer) or _out_of_time(trainer)
    if reason:
        facts["stopped_early"] = reason
        log.info(f"stopped early, after epoch {trainer.current_epoch}: {reason}")
    return facts


def _out_of_time(trainer: pl.Trainer) -> str | None:
    """Returns a reason where `trainer.max_time` ended the training before its other limits, else None."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    over = any((timer.time_remaining() or 0) <= 0 for timer in timers)
    epochs, steps = trainer.max_epochs, trainer.max_steps
    complete = (epochs is not None and 0 <= epochs <= trainer.current_epoch) or 0 <= steps <= trainer.global_step
    return "trainer.max_time is over" if over and not complete else None


def _test(
    experiment: Experiment, placement: Placement, folder: RunFolder | None, best: Path, which: str, epoch: int
) -> dict[str, Any]:
    """Tests the weights of the checkpoint `which`, of that epoch; returns {} where the data has no test images."""
    if isinstance(experiment.data, ImageData) and experiment.data.source.test is None:
        log.info("no test images: the run ends after validation")
        return {}
    if which == "best":
        experiment.module.load_state_dict(read_checkpoint(best)[WEIGHTS])
    views = experiment.config.test.views
    tested = evaluate(experiment, placement, "test", views)
    predictions = tested.predictions
    images = len(predictions.labels) if predictions else None
    if folder:
        if predictions is not None:
            folder.save(TEST_FILE, lambda: predictions.save(folder.predictions("test")))
        log.info(summary_line(tested.metrics, images, which, epoch, views, tested.centre))
    facts = {"metrics": tested.metrics, "tested": which, "test_images": images, "test_views": views}
    return facts | ({"test_centre": tested.centre} if views > 1 else {})
