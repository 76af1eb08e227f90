"""MLflow's logger: on a run that `mlflow_runs` has made, and closes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import MLFlowLogger

from alexnet_exp.endings import Ending
from alexnet_exp.schema import Config, Mlflow
from alexnet_exp.trackers import mlflow_runs
from alexnet_exp.trackers.closing import Closing
from alexnet_exp.trackers.values import as_typed, final

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_VALUE, AT_ONCE = 6000, 100  # MLflow's limits: characters a parameter, parameters a call


class MlflowLogger(MLFlowLogger, Closing):
    """Lightning's logger of metrics, on a run that is there, and that is closed when all of it has ended."""

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """Each setting as a parameter, under its dotted name; what is too long for MLflow says how much is missing."""
        from mlflow.entities import Param

        found = [Param(re.sub(r"[^\w.\-: /]", "_", key)[:250], _cut(as_typed(value))) for key, value in params.items()]
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
    """The logger of a new MLflow run, which stands for the folder `run`."""
    uri, run_id = mlflow_runs.begin(settings, config, run)
    return MlflowLogger(tracking_uri=uri, run_id=run_id)


def _cut(text: str) -> str:
    if len(text) <= LONGEST_VALUE:
        return text
    rest = f"... ({len(text)} characters; all of it is in .hydra/config.yaml)"
    return text[: LONGEST_VALUE - len(rest)] + rest
