"""The loggers a run reports to beside its own CSV files; each gets the hyperparameters, the metrics and the final ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from alexnet_exp.extend import UserClass
from alexnet_exp.schema import Config, Mlflow, TensorBoard, Wandb
from alexnet_exp.settings import UserError


def build_loggers(config: Config, run: Path, parameters: Mapping[str, Any]) -> list[Logger]:
    """The loggers of `config.logger`, told the run's `parameters` (flat). Raises `UserError` where a package is missing."""
    loggers = []
    for key, settings in config.logger.items():
        logger = _build(key, settings, config, run)
        if logger is not None:
            logger.log_hyperparams(dict(parameters))
            loggers.append(logger)
    return loggers


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
    from pytorch_lightning.loggers import TensorBoardLogger

    folder = Path(settings.dir) if settings.dir else run
    name = "" if settings.dir is None else run.parent.name
    return TensorBoardLogger(folder, name=name, version="tensorboard" if settings.dir is None else run.name, default_hp_metric=False)


def _mlflow(settings: Mlflow, config: Config, run: Path) -> Logger:
    _need("mlflow", "mlflow")
    from pytorch_lightning.loggers import MLFlowLogger

    uri = settings.uri or f"sqlite:///{(run.parent.parent / 'mlflow.db').resolve()}"
    tags = {"run": str(run), "note": config.note, **{f"tag.{tag}": "true" for tag in config.tags}}
    artifacts = None if settings.uri else (run.parent.parent / "mlartifacts").resolve().as_uri()
    return MLFlowLogger(settings.experiment or config.name, run_name=run.name, tracking_uri=uri, tags=tags, artifact_location=artifacts)


def _wandb(settings: Wandb, config: Config, run: Path) -> Logger:
    _need("wandb", "wandb")
    from pytorch_lightning.loggers import WandbLogger

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
