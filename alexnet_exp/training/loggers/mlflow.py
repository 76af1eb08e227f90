"""Provides the MLflow logger, on a run that `mlflow_runs` creates and closes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import MLFlowLogger

from alexnet_exp.config.schema import Config, Mlflow
from alexnet_exp.runs.status import Ending
from alexnet_exp.training.loggers import mlflow_runs
from alexnet_exp.training.loggers.base import EPOCH_KEY, Tracker
from alexnet_exp.training.loggers.naming import as_typed, final_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's limits: characters of a parameter, parameters per call.
MOST_VALUE_CHARACTERS, MOST_PARAMETERS_PER_CALL = 6000, 100


class MlflowLogger(MLFlowLogger, Tracker):
    """Lightning's logger on an existing MLflow run, which is closed when the whole run has ended."""

    @property
    def experiment(self) -> Any:
        """MLflow's client. Lightning also sets `MLFLOW_TRACKING_URI`, which the next run of the process would take for
        the user's; so it is restored.
        """
        users = os.environ.get(mlflow_runs.TRACKING_URI_VARIABLE)
        try:
            return super().experiment
        finally:
            if users is None:
                os.environ.pop(mlflow_runs.TRACKING_URI_VARIABLE, None)
            else:
                os.environ[mlflow_runs.TRACKING_URI_VARIABLE] = users

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """Logs each setting as a parameter under its dotted name; a value that is too long is shortened, with a note.

        MLflow does not change existing parameters: a setting that differs in a resumed run is logged as a tag.
        """
        from mlflow.entities import Param

        named = {re.sub(r"[^\w.\-: /]", "_", key)[:250]: _cut(as_typed(value)) for key, value in params.items()}
        there = dict(self.experiment.get_run(self.run_id).data.params)
        found = [Param(key, value) for key, value in named.items() if key not in there]
        for key in named.keys() & there.keys():
            if named[key] != there[key]:
                tag = named[key][: mlflow_runs.MOST_TAG_CHARACTERS]
                self.experiment.set_tag(self.run_id, f"resumed.{key}"[:250], tag)
        for first in range(0, len(found), MOST_PARAMETERS_PER_CALL):
            self.experiment.log_batch(self.run_id, params=found[first : first + MOST_PARAMETERS_PER_CALL])

    def finalize(self, status: str = "success") -> None:
        """Does nothing: Lightning calls it after training, before the metrics of the test are known."""

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Logs the final metrics and how the run ended, closes the MLflow run, and its sweep's if that is over."""
        self.log_metrics(final_metrics(metrics), step)
        client: MlflowClient = self.experiment
        run_id = str(self.run_id)
        client.set_tag(run_id, "status", str(ending.status))
        if ending.reason:
            client.set_tag(run_id, "error", ending.reason[: mlflow_runs.MOST_TAG_CHARACTERS])
        mlflow_runs.end(client, run_id, ending.status)


def start(settings: Mlflow, config: Config, run: Path) -> MlflowLogger:
    """Returns the logger of the MLflow run for the folder `run`: the one that the folder has, or a new one."""
    uri, run_id = mlflow_runs.begin(settings, config, run)
    logger = MlflowLogger(tracking_uri=uri, run_id=run_id)
    history = logger.experiment.get_metric_history(run_id, EPOCH_KEY)
    logger.logged = max((point.step for point in history), default=None)
    return logger


def _cut(text: str) -> str:
    if len(text) <= MOST_VALUE_CHARACTERS:
        return text
    rest = f"... ({len(text)} characters; the whole is in .hydra/config.yaml)"
    return text[: MOST_VALUE_CHARACTERS - len(rest)] + rest
