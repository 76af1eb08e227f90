"""Builds the loggers of a run: each gets hyperparameters, metrics, and how the run ended."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from alexnet_exp.config.schema import Config, Mlflow, TensorBoard, Wandb
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.errors import ExitCode, UserError, missing_package
from alexnet_exp.runs.status import Ending, Status, ending_of
from alexnet_exp.training.loggers.base import ClosableLogger
from alexnet_exp.training.loggers.guard import GuardedLogger
from alexnet_exp.training.loggers.naming import test_metrics

log = logging.getLogger(__name__)


class RunLoggers:
    """The loggers of a run, as a context manager that closes them at its end and reports how the run ended.

    metrics: the final ones, logged at the trainer's last step; the code in the block sets them.
    """

    def __init__(self) -> None:
        self.loggers: list[Logger] = []
        self.metrics: Mapping[str, float] = {}
        self.trainer: pl.Trainer | None = None

    def __enter__(self) -> RunLoggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = Ending(Status.DONE, ExitCode.OK) if error is None else ending_of(error)
        step = self.trainer.global_step if self.trainer is not None else 0
        for logger in self.loggers:
            try:
                _close(logger, ending, self.metrics, step)
            except Exception as failure:  # the run's own result must be written all the same
                log.warning(f"final status was not sent to {type(logger).__name__}: {failure}")


def build_loggers(config: Config, run: Path, parameters: Mapping[str, Any]) -> RunLoggers:
    """Opens the loggers of `config.logger` with the run's flat `parameters`. Raises `UserError` for a missing package.

    A failure of a tracker, at the start too, is logged as a warning, and the run continues (see `GuardedLogger`); a
    logger of the user's own class is not guarded. In a resumed run, the loggers continue what the folder has of them.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(RunLoggers())
        for settings in config.logger.values():
            logger = _build(settings, config, run, parameters)
            if logger is None:
                continue
            opened.loggers.append(logger)
            if isinstance(logger, GuardedLogger):
                logger.begin()
            else:
                logger.log_hyperparams(dict(parameters))
        stack.pop_all()  # all are open: the caller closes them
    return opened


def _close(logger: Logger, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
    if isinstance(logger, ClosableLogger):
        logger.close(ending, metrics, step)
        return
    if test_metrics(metrics):
        logger.log_metrics(test_metrics(metrics), step)
    logger.finalize("success" if ending.code == ExitCode.OK else "failed")


def _build(settings: Any, config: Config, run: Path, parameters: Mapping[str, Any]) -> Logger | None:
    # Each is imported when it is selected: none is needed to train.
    if isinstance(settings, UserClass):
        built = settings.build()
        assert isinstance(built, Logger)
        return built
    if isinstance(settings, TensorBoard):
        from alexnet_exp.training.loggers import tensorboard

        board = Path(settings.dir) if settings.dir is not None else None
        return GuardedLogger("tensorboard", partial(tensorboard.start, board, run), run, parameters, server=False)
    if isinstance(settings, Mlflow):
        _need("mlflow")
        from alexnet_exp.training.loggers import mlflow, mlflow_runs

        server = mlflow_runs.is_server(mlflow_runs.tracking_uri(settings))
        return GuardedLogger("mlflow", partial(mlflow.start, settings, config, run), run, parameters, server)
    if isinstance(settings, Wandb):
        _need("wandb")
        from alexnet_exp.training.loggers import wandb

        start = partial(wandb.start, settings, config, run)
        return GuardedLogger("wandb", start, run, parameters, server=not settings.offline)
    return None  # csv: the run folder has it always


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"logger={package}: {missing_package(package)}")
    import_module(package)  # here: it takes seconds, which must not count as a time without an answer of the server
