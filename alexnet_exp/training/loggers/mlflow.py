"""MLflow's logger: on a run that `mlflow_runs` has made, and closes."""

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
from alexnet_exp.training.loggers.base import ROW, Tracker
from alexnet_exp.training.loggers.naming import as_typed, final

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_VALUE, AT_ONCE = 6000, 100  # MLflow's limits: characters a parameter, parameters a call


class MlflowLogger(MLFlowLogger, Tracker):
    """Lightning's logger of metrics, on a run that is there, and that is closed when all of it has ended."""

    @property
    def experiment(self) -> Any:
        """MLflow's client. Lightning's also sets `MLFLOW_TRACKING_URI`, which the process's next run would take for
        the user's; so it is put back.
        """
        users = os.environ.get(mlflow_runs.TRACKING_URI)
        try:
            return super().experiment
        finally:
            if users is None:
                os.environ.pop(mlflow_runs.TRACKING_URI, None)
            else:
                os.environ[mlflow_runs.TRACKING_URI] = users

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """Each setting as a parameter, under its dotted name; what is too long for MLflow says how much is missing.

        Those that the run has stay, since MLflow does not change any: one that a resumed run has otherwise is a tag.
        """
        from mlflow.entities import Param

        named = {re.sub(r"[^\w.\-: /]", "_", key)[:250]: _cut(as_typed(value)) for key, value in params.items()}
        there = dict(self.experiment.get_run(self.run_id).data.params)
        found = [Param(key, value) for key, value in named.items() if key not in there]
        for key in named.keys() & there.keys():
            if named[key] != there[key]:
                tag = named[key][: mlflow_runs.LONGEST_TAG]
                self.experiment.set_tag(self.run_id, f"resumed.{key}"[:250], tag)
        for first in range(0, len(found), AT_ONCE):
            self.experiment.log_batch(self.run_id, params=found[first : first + AT_ONCE])

    def finalize(self, status: str = "success") -> None:
        """Nothing yet: Lightning calls it as training ends, but the test's metrics are still to come."""

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Adds the final metrics and how the run ended, closes it, and its sweep if that is over."""
        self.log_metrics(final(metrics), step)
        client: MlflowClient = self.experiment
        run_id = str(self.run_id)
        client.set_tag(run_id, "status", ending.status)
        if ending.reason:
            client.set_tag(run_id, "error", ending.reason[: mlflow_runs.LONGEST_TAG])
        mlflow_runs.end(client, run_id, ending.status)


def start(settings: Mlflow, config: Config, run: Path) -> MlflowLogger:
    """The logger of the MLflow run that stands for the folder `run`: the one it had, or a new one."""
    uri, run_id = mlflow_runs.begin(settings, config, run)
    logger = MlflowLogger(tracking_uri=uri, run_id=run_id)
    history = logger.experiment.get_metric_history(run_id, ROW)
    logger.logged = max((point.step for point in history), default=None)
    return logger


def _cut(text: str) -> str:
    if len(text) <= LONGEST_VALUE:
        return text
    rest = f"... ({len(text)} characters; all of it is in .hydra/config.yaml)"
    return text[: LONGEST_VALUE - len(rest)] + rest
