"""One experiment, from a validated configuration to a finished run folder."""

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
from alexnet_exp.config.schema import COLUMNS, Config, Interval, OnNan, Which
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import ExitCode, UserError, error_text
from alexnet_exp.kernels.native import native
from alexnet_exp.kernels.selection import fused_path
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
from alexnet_exp.training.callbacks.diagnostics import Watch
from alexnet_exp.training.callbacks.progress import Progress, wants_bar
from alexnet_exp.training.callbacks.prune import Prune
from alexnet_exp.training.callbacks.recorder import Recorder
from alexnet_exp.training.callbacks.skip_nonfinite import SkipNotFinite
from alexnet_exp.training.callbacks.train_error import TrainError
from alexnet_exp.training.checkpoints.callback import CONDITIONS, Checkpoints
from alexnet_exp.training.checkpoints.format import WEIGHTS, ResumePoint, read_checkpoint
from alexnet_exp.training.checkpoints.resume import (
    attempts,
    find_resume_point,
    refuse_another_run,
    refuse_other_data,
    settle,
)
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.devices import Placement, check_ranks, chosen, count, no_gpu_looked_for, place
from alexnet_exp.training.evaluate import evaluate
from alexnet_exp.training.info import at_start, before_training
from alexnet_exp.training.launch import run_ranks
from alexnet_exp.training.loggers.build import Reports, build_loggers
from alexnet_exp.training.trainer import build_trainer

log = logging.getLogger(__name__)

ANYHOW = Start()  # begins a run, or resumes the one that is in the folder


def train(container: Mapping[str, Any], path: Path) -> int:
    """Runs the experiment into the folder `path`; returns the exit code, see `endings`."""
    return run_experiment(container, path).code


def run_experiment(container: Mapping[str, Any], path: Path, start: Start = ANYHOW) -> Ending:
    """Runs the experiment into the folder `path`, and prints why it was refused, where it was.

    Where several devices are asked for, every one gets a process, of which this one only waits for the end. A folder
    that has a checkpoint is gone on with from there, and ends as it would have, had nothing come between.
    """
    config = validate(container)
    accelerator, devices, _ = chosen(config.trainer)
    check_ranks(config)
    number = rank()
    if count(devices) == 1 or config.trainer.num_nodes > 1 or is_rank():
        ending = train_rank(container, path, start)
    else:
        backend = "nccl" if accelerator == "cuda" else "gloo"
        ending = run_ranks(partial(train_rank, start=start), count(devices), backend, container, path)
        if ending.status != Status.REFUSED and not ending.recorded and path.exists():  # else it would be made anew
            ending = _record_for_ranks(container, path, ending)
    if ending.status == Status.REFUSED:
        print(error_text(UserError(f"rank {number}: {ending.reason}" if number else ending.reason)), file=sys.stderr)
    elif number and ending.code not in (
        ExitCode.OK,
        ExitCode.TERMINATED,
        ExitCode.INTERRUPTED,
    ):
        print(error_text(UserError(f"rank {number}: {ending.status}: {ending.reason}")), file=sys.stderr)
    return ending


def train_rank(container: Mapping[str, Any], path: Path, start: Start = ANYHOW) -> Ending:
    """One rank's whole life; the only rank there is, on one device. Rank 0 writes the folder.

    Nothing is written there before the folder is locked, `start` has been checked and, of a run that is resumed, its
    data is known to be the same.
    """
    folder = RunFolder(path)
    logs.configure(path, rank(), buffered=True)
    with signals.stop_on_signals():
        try:
            config = validate(container)
            if rank() != 0:
                return _recorded(config, container, folder, None)
            with folder.lock():
                start.check(path)
                return _recorded(config, container, folder, start)
        except UserError as error:
            return Ending(Status.REFUSED, ExitCode.BAD_INPUT, str(error))


def _record_for_ranks(container: Mapping[str, Any], path: Path, ending: Ending) -> Ending:
    """Records how a run ended whose ranks could not."""
    folder = RunFolder(path)
    try:
        with folder.lock():
            logs.configure(path)
            _say(ending)
            return record(folder, container, ending)
    except UserError as error:  # another process writes the folder
        logs.configure(None)
        _say(ending)
        log.error(str(error))
        return ending


def _recorded(config: Config, container: Mapping[str, Any], folder: RunFolder, start: Start | None) -> Ending:
    """Runs, and writes into result.json how it ended, whatever happens. start: of rank 0, which writes the folder.

    A run that is resumed is built first: where that is refused or interrupted the folder stays as it is.
    """
    found = find_resume_point(folder.path)
    refuse_another_run(folder.path, container, found)
    built: Built | None = None
    broken: Exception | None = None
    if found is not None:
        try:
            built = _built(config)
            refuse_other_data(folder.path, found, getattr(built.experiment.data, "fingerprint", None))
        except UserError:
            raise
        except KeyboardInterrupt as stop:
            ending = ending_of(stop)
            _say(ending)
            return replace(ending, recorded=True)  # nothing of this attempt is to be recorded
        except Exception as error:  # has a traceback that somebody will look for: recorded below
            broken = error
    if start is not None:
        _begin(config, container, folder, start, found)
    logs.write_buffered()
    try:
        if broken is not None:
            raise broken
        with ExitStack() as stack:
            built = built or _built(config)
            facts = _run(config, container, folder, built, found, start is not None, stack)
    except BaseException as error:
        ending = ending_of(error)
        _say(ending)
        return record(folder, container, ending) if start is not None else ending
    ending = Ending(Status.DONE, ExitCode.OK)
    return record(folder, container, ending, facts) if start is not None else ending


def _begin(
    config: Config, container: Mapping[str, Any], folder: RunFolder, start: Start, found: ResumePoint | None
) -> None:
    """Makes the folder that of this attempt. The lock is held."""
    code = provenance.running()
    if code.why_unknown:
        log.warning(f"the commit of the code is not recorded: {code.why_unknown}")
    earlier = attempts(folder.path, code)
    settle(folder, found)
    if start.resumed:
        (folder.path / PRUNE_FILE).unlink(missing_ok=True)
    folder.write_settings(start.files)
    folder.write_patch(code.patch)
    folder.begin(container, {**at_start(config, code), **chosen_options(folder.path), **earlier})


def _say(ending: Ending) -> None:
    if ending.status == Status.DONE:
        return
    where = " (train.log shows where)" if ending.trace else ""
    log.error(f"{ending.status}: {ending.reason}{where}")
    if ending.trace:
        log.debug(ending.trace)  # train.log alone has it, unless it was asked for


@dataclass(frozen=True)
class Built:
    """An experiment whose data is open, and where it computes."""

    experiment: Experiment
    placement: Placement


def _built(config: Config) -> Built:
    """Builds the experiment and opens its data."""
    freeze_garbage_collector()
    experiment = build(config)
    placement = place(config.trainer, experiment.multiply_adds)
    ways = _on_cpu(placement, config.trainer.compile) if placement.accelerator == "cpu" else ()
    lay_out(experiment, placement.channels_last)
    ranks = placement.ranks * config.trainer.num_nodes
    prepare(experiment, replicas=1 if config.trainer.strategy == COLUMNS else ranks)
    said = (f"seed {config.seed}", placement.device_name, placement.why, *ways)
    log.info("; ".join(filter(None, said)))
    return Built(experiment, placement)


def _run(
    config: Config,
    container: Mapping[str, Any],
    folder: RunFolder,
    built: Built,
    begun: ResumePoint | None,
    writes: bool,
    stack: ExitStack,
) -> dict[str, Any]:
    """Trains, tests and saves the predictions; returns the facts of the result. Leaves on `stack` what it opened."""
    experiment, placement = built.experiment, built.placement
    every = Interval.read(config.checkpoint.every)
    assert every is not None
    recorder = Recorder(folder if writes else None, config.trainer.on_nan)
    fingerprint = getattr(experiment.data, "fingerprint", None)
    known = before_training(experiment, placement)
    conditions = {key: known[key] for key in CONDITIONS}
    checkpoints = Checkpoints(folder, experiment.card, recorder, every, config.checkpoint.keep, fingerprint, conditions)
    watch = Watch(len(experiment.card["classes"]), getattr(experiment.spec, "norm", None))
    callbacks = [*build_callbacks(config.callbacks), watch, recorder, checkpoints, Prune(folder.path)]
    if config.trainer.on_nan is OnNan.skip and placement.precision != "16-mixed":
        callbacks.insert(0, SkipNotFinite())
    if wants_bar(config.trainer.enable_progress_bar):
        callbacks.append(Progress())
    reports = stack.enter_context(build_loggers(config, folder.path, flatten(container)) if writes else Reports())
    reports.metrics = recorder.newest  # all that there is to tell of a run that does not get to its test
    trainer = build_trainer(config.trainer, placement, callbacks, reports.loggers)
    reports.trainer = trainer
    if writes:
        folder.update(**known)
        outputs = outputs_of(folder.path)
        if outputs is not None:  # not before: what is refused on its way here is no run to come back to
            folder.link_latest(outputs)
    with no_gpu_looked_for(placement.accelerator):
        facts = _fit(experiment, trainer, checkpoints, begun)
    facts |= {"images_per_s": recorder.images_per_s, "best_epoch": checkpoints.best_epoch}
    which, epoch = "last", checkpoints.epoch  # its weights are those in memory, also where saving them failed
    if config.test.checkpoint is Which.best and checkpoints.best_epoch and checkpoints.file("best").exists():
        which, epoch = "best", checkpoints.best_epoch
    # of one state of the network: that of the checkpoint which is tested
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
            metrics = metrics | callback.metrics  # of the whole run, not of the state that is tested
    reports.metrics = metrics
    if writes:
        checkpoints.finish()
    return {**facts, "metrics": metrics}


def _is_validated(metrics: Mapping[str, float]) -> bool:
    return any(key.startswith("val/") for key in metrics)


def _on_cpu(placement: Placement, compiled: bool) -> tuple[str, str]:
    """What of the fast way is there on this CPU, in words."""
    found = native()
    if found.library is None:
        kernels = f"no native kernels: {found.why}"
    else:
        fused, why = fused_path(placement.accelerator, placement.precision, placement.channels_last, compiled)
        kernels = why if fused else f"native kernels for LRN and images, {why}"
    return kernels, keep_freed_memory()


def _fit(
    experiment: Experiment, trainer: pl.Trainer, checkpoints: Checkpoints, begun: ResumePoint | None
) -> dict[str, Any]:
    """Trains, from where it had `begun`, and leaves the last weights in the network."""
    if experiment.config.trainer.compile:
        experiment.network.compile()  # in place: `torch.compile(network)` would rename every key of the checkpoint
    if begun is not None:
        log.info(f"goes on from {begun}")
    with own_interrupts(trainer), signals.stop_at_boundaries():
        trainer.fit(
            experiment.module,
            datamodule=experiment.data,
            ckpt_path=None if begun is None else begun.path,
            weights_only=None if begun is None else True,
        )
    if begun is not None and begun.step == trainer.global_step:
        # there was nothing left to train, and Lightning has not told its callbacks that training ended
        experiment.module.load_state_dict(begun.weights())
    facts: dict[str, Any] = {"seconds": round(checkpoints.seconds, 3), "epochs": trainer.current_epoch}
    reason = checkpoints.stopped_early(trainer) or _out_of_time(trainer)
    if reason:
        facts["stopped_early"] = reason
        log.info(f"stopped early, after epoch {trainer.current_epoch}: {reason}")
    return facts


def _out_of_time(trainer: pl.Trainer) -> str | None:
    """That `trainer.max_time` ended the training before its other limits, where it did."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    over = any((timer.time_remaining() or 0) <= 0 for timer in timers)
    epochs, steps = trainer.max_epochs, trainer.max_steps
    complete = (epochs is not None and 0 <= epochs <= trainer.current_epoch) or 0 <= steps <= trainer.global_step
    return "trainer.max_time is over" if over and not complete else None


def _test(
    experiment: Experiment, placement: Placement, folder: RunFolder | None, best: Path, which: str, epoch: int
) -> dict[str, Any]:
    """Tests the weights of `which` checkpoint, of that epoch; without test images there is nothing to say."""
    if isinstance(experiment.data, ImageData) and experiment.data.source.test is None:
        log.info("no test images: the run ends with validation")
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
