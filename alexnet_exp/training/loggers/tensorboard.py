"""TensorBoard: the curves, and one row a run in its table of hyperparameters (HParams), however the run ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.metadata import (
    PLUGIN_DATA_VERSION,
    PLUGIN_NAME,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from alexnet_exp.atomic import atomic_write
from alexnet_exp.runs.status import Ending, Status
from alexnet_exp.training.loggers.base import ROW, Tracker
from alexnet_exp.training.loggers.naming import as_typed, final

NOTE = "tensorboard.json"  # in the run's folder: where its events are
EVENTS = "events.out.tfevents.*"
ASIDE = "earlier"  # in place of the word by which TensorBoard knows a file of its own


class HParamsLogger(TensorBoardLogger, Tracker):
    """Writes the row's settings at the start and its status at the end.

    It writes no list of columns, as Lightning's does into each run: TensorBoard takes the first list that it finds for
    all runs, so that one run which failed before its first metric would hide the metrics of all others. Without any,
    it makes the columns from what all the runs have, and puts first the settings that differ.
    """

    def log_hyperparams(  # type: ignore[override]
        self, params: dict[str, Any], metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """The row, with the settings under the names they have in the configuration."""
        super().log_hyperparams(params)  # for hparams.yaml
        row = SessionStartInfo(start_time_secs=time())
        for key, value in params.items():
            if isinstance(value, bool):
                row.hparams[key].bool_value = value
            elif isinstance(value, int | float):
                row.hparams[key].number_value = value
            else:
                row.hparams[key].string_value = as_typed(value)
        self._write(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=row))

    def finalize(self, status: str) -> None:
        """Nothing yet: Lightning calls it as training ends, but the test's metrics are still to come."""

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Adds the final metrics and the status to the row, and closes the file."""
        self.log_metrics(final(metrics), step)
        end = SessionEndInfo(
            status=STATUS_SUCCESS if ending.status == Status.DONE else STATUS_FAILURE, end_time_secs=time()
        )
        self._write(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))
        self.save()
        self.experiment.close()

    def abandon(self) -> None:
        """Its writer is a thread with an open file."""
        if self._experiment is not None:
            with suppress(Exception):  # it has failed before
                self._experiment.close()

    def _write(self, tag: str, data: HParamsPluginData) -> None:
        data.version = PLUGIN_DATA_VERSION
        plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=data.SerializeToString())
        value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
        self.experiment._get_file_writer().add_summary(Summary(value=[value]))


def start(folder: Path | None, run: Path) -> HParamsLogger:
    """In the run's folder; where a folder of several runs is given, under the run's name in it.

    Where this run wrote there before it was cut off, it goes on: its row of hyperparameters is written anew, once.
    What an earlier attempt has written, which was set aside, is renamed, so that TensorBoard passes over it: a run is
    one row.
    """
    if folder is None:
        logger = HParamsLogger(run, name="", version="tensorboard", default_hp_metric=False)
    else:
        logger = HParamsLogger(folder, name=run.parent.name, version=run.name, default_hp_metric=False)
    place, note = Path(logger.log_dir), run / NOTE
    goes_on = _noted(note) == str(place.resolve())
    if goes_on:
        steps = [_without_row(file) for file in sorted(place.glob(EVENTS))]
        logger.logged = max((step for step in steps if step is not None), default=None)
    for earlier in [*([] if goes_on else [place]), *run.glob("earlier/*/tensorboard")]:
        for file in earlier.glob(EVENTS):
            file.rename(file.with_name(file.name.replace("tfevents", ASIDE)))
    with atomic_write(note) as written:
        written.write((json.dumps({"dir": str(place.resolve())}) + "\n").encode())
    return logger


def _noted(note: Path) -> str | None:
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _without_row(file: Path) -> int | None:
    """Takes the row of hyperparameters out of a file of events, and returns the step of its last row of metrics.

    TensorBoard believes the first row that it finds of a run, which says how that ended before it went on.
    """
    kept, dropped, last = [], False, None
    for content in RawEventFileLoader(str(file)).Load():
        event = Event.FromString(content)
        tags = {value.tag for value in event.summary.value}
        if tags & {SESSION_START_INFO_TAG, SESSION_END_INFO_TAG}:
            dropped = True
            continue
        kept.append(content)
        if ROW in tags:
            last = event.step
    if dropped:
        with atomic_write(file) as written:
            writer = RecordWriter(written)
            for content in kept:
                writer.write(content)
    return last
