"""The loggers a run reports to beside its own CSV files. Each gets hyperparameters, metrics and the final metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from alexnet_exp.extend import UserClass
from alexnet_exp.runs.find import outputs_of
from alexnet_exp.schema import Config, Mlflow, TensorBoard, Wandb
from alexnet_exp.settings import UserError


def build_loggers(config: Config, run: Path, parameters: Mapping[str, Any]) -> list[Logger]:
    """The loggers of `config.logger`, told the run's flat `parameters`. Raises `UserError` if a package is missing."""
    loggers = []
    for key, settings in config.logger.items():
        logger = _build(key, settings, config, run)
        if logger is not None:
            logger.log_hyperparams(dict(parameters))
            loggers.append(logger)
    return loggers


def finish_loggers(
    loggers: list[Logger], parameters: Mapping[str, Any], metrics: Mapping[str, float], step: int
) -> None:
    """Gives each the test's metrics (those of the epochs it has), and closes it."""
    tested = {key: value for key, value in metrics.items() if key.startswith("test/")}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # its table of hyperparameters wants all metrics beside them
            logger.log_hyperparams(dict(parameters), dict(metrics), step)
        else:
            logger.log_metrics(tested, step)
        logger.finalize("success")
        if isinstance(logger, WandbLogger):  # it would wait for the process's end: a sweep has more runs in it
            logger.experiment.finish()


def _build(key: str, settings: Any, config: Config, run: Path) -> Logger | None:
    if isinstance(settings, UserClass):
        built = settings.build()
        assert isinstance(built, Logger)
        return built
    if isinstance(settings, TensorBoard):
        return _tensorboard(settings, run)
    if isinstance(settings, Mlflow):
        return _mlflow(settings, config, run)
    if isinstance(settings, Wandb):
        return _wandb(settings, config, run)
    return None  # csv: the run folder's own


def _tensorboard(settings: TensorBoard, run: Path) -> Logger:
    """In the run's folder; where a folder of several runs is given, under the run's name in it."""
    if settings.dir is None:
        return TensorBoardLogger(run, name="", version="tensorboard", default_hp_metric=False)
    return TensorBoardLogger(settings.dir, name=run.parent.name, version=run.name, default_hp_metric=False)


def _mlflow(settings: Mlflow, config: Config, run: Path) -> Logger:
    _need("mlflow", "mlflow")
    from pytorch_lightning.loggers import MLFlowLogger

    outputs = outputs_of(run) or run.resolve()
    return MLFlowLogger(
        settings.experiment or config.name,
        run_name=run.name,
        tracking_uri=settings.uri or f"sqlite:///{outputs / 'mlflow.db'}",
        artifact_location=None if settings.uri else (outputs / "mlartifacts").as_uri(),
        tags={"run": str(run), "note": config.note, **{f"tag.{tag}": "true" for tag in config.tags}},
    )


def _wandb(settings: Wandb, config: Config, run: Path) -> Logger:
    _need("wandb", "wandb")
    return WandbLogger(
        name=f"{config.name}/{run.name}",
        save_dir=run,
        project=settings.project,
        entity=settings.entity,
        offline=settings.offline,
        tags=list(config.tags),
        notes=config.note or None,
    )


def _need(module: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise UserError(f"logger={extra}: the package {module} is not installed; pip install 'alexnet_exp[{extra}]'")
