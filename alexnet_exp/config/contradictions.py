"""Finds settings that are valid by themselves but contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from alexnet_exp.config.schema import (
    COLUMNS,
    METRICS,
    PRECISE_METRICS,
    TRAIN_EVAL,
    Config,
    EarlyStopping,
    Ema,
    PreciseBn,
    TrainError,
)
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.errors import NO_VALUE, Problem, suggest_name
from alexnet_exp.model.spec import Network
from alexnet_exp.optim.optimizer_spec import Muon, Optimizer
from alexnet_exp.optim.schedule_spec import Plateau, Schedule


def contradictions(config: Config) -> Iterator[Problem]:
    """Yields a problem for each contradiction between settings."""
    yield from _monitors(config)
    yield from _without_validation(config)
    chosen = {type(callback): name for name, callback in config.callbacks.items()}
    if Ema in chosen and PreciseBn in chosen:
        yield Problem(
            f"callbacks.{chosen[PreciseBn]}",
            NO_VALUE,
            f"would compare the trained weights with the average that callbacks.{chosen[Ema]} validates; choose one",
        )
    if Ema in chosen and TrainError in chosen:
        yield Problem(
            f"callbacks.{chosen[TrainError]}",
            NO_VALUE,
            f"would measure the trained weights and not the average that callbacks.{chosen[Ema]} makes; choose one",
        )
    if isinstance(config.data, UserClass) and config.test.run and not config.data.overrides("test_dataloader"):
        yield Problem("test.run", True, f"{config.data.target} has no test_dataloader; write test.run=false")
    if isinstance(config.model, Network) and isinstance(config.optim, Optimizer):
        stages = list(config.model.present)
        keys = [f"optim.layers.{name}" for name in config.optim.layers]
        if isinstance(config.schedule, Schedule):
            keys += [f"schedule.layers.{name}" for name in config.schedule.layers]
        for key in keys:
            name = key.split(".", 2)[2]
            if name not in stages:
                yield Problem(key, NO_VALUE, f"the network has no such stage; {suggest_name(name, stages)}")
    if isinstance(config.optim, UserClass) and isinstance(config.schedule, Schedule):
        for key in ("biases", "layers"):
            if getattr(config.schedule, key):
                own = f"{config.optim.target} has parameter groups of its own; choose one of our optimizers"
                yield Problem(f"schedule.{key}", NO_VALUE, f"{own}, or leave it out")
    trainer = config.trainer
    if trainer.limit_train_batches == 0:
        yield Problem(
            "trainer.limit_train_batches", trainer.limit_train_batches, "trains nothing; write 1 batch or more, or null"
        )
    if isinstance(config.optim, Muon) and trainer.strategy in (COLUMNS, "fsdp"):
        instead = "does not go with optim=muon, which needs whole matrices on each rank; write ddp"
        yield Problem("trainer.strategy", trainer.strategy, instead)
    if trainer.strategy == COLUMNS:
        yield from _no_columns(config)
    if trainer.max_epochs is not None and trainer.min_epochs is not None and trainer.min_epochs > trainer.max_epochs:
        yield Problem(
            "trainer.min_epochs", trainer.min_epochs, f"must be at most trainer.max_epochs={trainer.max_epochs}"
        )
    endless = trainer.max_epochs is None and trainer.max_steps == -1
    if endless and isinstance(config.schedule, Schedule) and config.schedule.needs_total:
        yield Problem(
            "trainer.max_epochs",
            None,
            f"schedule={config.schedule.name} needs the run's length; write a number of epochs",
        )


def _no_columns(config: Config) -> Iterator[Problem]:
    """Yields a problem for each user's class that does not support a network in columns."""
    own = []
    if isinstance(config.model, UserClass):
        own.append(f"{config.model.target} has no columns; choose a model of stages, such as model=paper")
    if config.module is not None:
        own.append(f"{config.module.target} does not know of columns; leave module out")
    if isinstance(config.data, UserClass) and not hasattr(config.data.cls, "global_size"):
        own.append(
            f"{config.data.target} must give every rank all images; subclass alexnet_exp.training.datamodule.ImageData"
        )
    for instead in own:
        yield Problem("trainer.strategy", COLUMNS, instead)


def _monitors(config: Config) -> Iterator[Problem]:
    """Yields a problem for each monitored metric that will not exist."""
    has_val = isinstance(config.data, UserClass) or config.data.has_val
    missing = {} if has_val else dict(validation_monitors(config))
    for key, monitor in missing.items():
        instead = f"there is no validation; write data.val=split, or monitor {training_metric(monitor)}"
        yield Problem(key, monitor, instead)
    callbacks = config.callbacks.values()
    if config.module is not None or any(isinstance(callback, UserClass) for callback in callbacks):
        return  # the user's classes may log other metrics
    known = METRICS + (PRECISE_METRICS if any(isinstance(callback, PreciseBn) for callback in callbacks) else ())
    known += (TRAIN_EVAL,) if any(isinstance(callback, TrainError) for callback in callbacks) else ()
    for name, callback in config.callbacks.items():
        key = f"callbacks.{name}.monitor"
        if isinstance(callback, EarlyStopping) and callback.monitor not in known and key not in missing:
            yield Problem(key, callback.monitor, suggest_name(callback.monitor, known))


def _without_validation(config: Config) -> Iterator[Problem]:
    """Yields a problem for each monitored validation metric if the trainer runs no validation."""
    trainer = config.trainer
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if trainer.limit_val_batches == 0:
        why, instead = "trainer.limit_val_batches=0 leaves no validation", "write 1 batch or more, or null"
    elif every is not None and epochs is not None and 0 < epochs < every:
        why = f"trainer.check_val_every_n_epoch={every} of {epochs} epochs leaves no validation"
        instead = f"write {epochs} or less"
    else:
        return
    for key, monitor in validation_monitors(config):
        if monitor not in PRECISE_METRICS:  # these have a validation of their own
            yield Problem(key, monitor, f"{why}; {instead}, or monitor {training_metric(monitor)}")


def training_metric(monitor: str) -> str:
    """Returns the training metric with the direction of a validation metric, so that `mode` stays valid."""
    return "train/top1" if "top" in monitor else "train/loss"


def validation_monitors(config: Config) -> Iterator[tuple[str, str]]:
    """Returns the settings that monitor a validation metric, with that metric."""
    monitors = {
        f"callbacks.{name}.monitor": callback.monitor
        for name, callback in config.callbacks.items()
        if isinstance(callback, EarlyStopping)
    }
    if isinstance(config.schedule, Plateau):
        monitors["schedule.monitor"] = config.schedule.monitor
    for key, monitor in monitors.items():
        if monitor.startswith("val/"):
            yield key, monitor
