"""The loggers a run reports to beside its own CSV files. Each gets hyperparameters, metrics, and how the run ended."""

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
from alexnet_exp.training.loggers.base import Closing
from alexnet_exp.training.loggers.guard import Guarded
from alexnet_exp.training.loggers.naming import tested

log = logging.getLogger(__name__)


class Reports:
    """The loggers of a run, as a block that closes them when it ends, and tells them how it ended.

    `metrics` are what they are told as final, at the step the trainer has come to; whoever runs in the block sets them.
    """

    def __init__(self) -> None:
        self.loggers: list[Logger] = []
        self.metrics: Mapping[str, float] = {}
        self.trainer: pl.Trainer | None = None

    def __enter__(self) -> Reports:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = Ending(Status.DONE, ExitCode.OK) if error is None else ending_of(error)
        step = self.trainer.global_step if self.trainer is not None else 0
        for logger in self.loggers:
            try:
                _close(logger, ending, self.metrics, step)
            except Exception as failure:  # the run's own record must be written all the same
                log.warning(f"{type(logger).__name__} was not told how the run ended: {failure}")


def build_loggers(config: Config, run: Path, parameters: Mapping[str, Any]) -> Reports:
    """The loggers of `config.logger`, told the run's flat `parameters`. Raises `UserError` if a package is missing.

    What a tracker cannot be told, at the start too, is a warning, and the run goes on (see `Guarded`); a logger of the
    user's own class is as it is. In the folder of a run that goes on, they go on with what they had there.
    """
    with ExitStack() as stack:
        reports = stack.enter_context(Reports())
        for settings in config.logger.values():
            logger = _build(settings, config, run, parameters)
            if logger is None:
                continue
            reports.loggers.append(logger)
            if isinstance(logger, Guarded):
                logger.begin()
            else:
                logger.log_hyperparams(dict(parameters))
        stack.pop_all()  # all are there: whoever called closes them
    return reports


def _close(logger: Logger, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
    if isinstance(logger, Closing):
        logger.close(ending, metrics, step)
        return
    if tested(metrics):
        logger.log_metrics(tested(metrics), step)
    logger.finalize("success" if ending.code == ExitCode.OK else "failed")


def _build(settings: Any, config: Config, run: Path, parameters: Mapping[str, Any]) -> Logger | None:
    # each imported when it is chosen: none is needed to train
    if isinstance(settings, UserClass):
        built = settings.build()
        assert isinstance(built, Logger)
        return built
    if isinstance(settings, TensorBoard):
        from alexnet_exp.training.loggers import tensorboard

        board = Path(settings.dir) if settings.dir is not None else None
        return Guarded("tensorboard", partial(tensorboard.start, board, run), run, parameters, server=False)
    if isinstance(settings, Mlflow):
        _need("mlflow")
        from alexnet_exp.training.loggers import mlflow, mlflow_runs

        server = mlflow_runs.is_server(mlflow_runs.tracking_uri(settings))
        return Guarded("mlflow", partial(mlflow.start, settings, config, run), run, parameters, server)
    if isinstance(settings, Wandb):
        _need("wandb")
        from alexnet_exp.training.loggers import wandb

        start = partial(wandb.start, settings, config, run)
        return Guarded("wandb", start, run, parameters, server=not settings.offline)
    return None  # csv: the run folder's own


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"logger={package}: {missing_package(package)}")
    import_module(package)  # here: it takes seconds, in which no server is to blame
