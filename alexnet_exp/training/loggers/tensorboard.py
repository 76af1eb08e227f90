"""Provides the TensorBoard logger: curves, and one row per run in the table of hyperparameters (HParams)."""

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
from alexnet_exp.training.loggers.base import EPOCH_KEY, Tracker
from alexnet_exp.training.loggers.naming import as_typed, final_metrics

TENSORBOARD_NOTE_FILE = "tensorboard.json"  # in the run folder: the folder of its events
EVENTS_PATTERN = "events.out.tfevents.*"
EARLIER_NAME = "earlier"  # replaces the part of a file's name by which TensorBoard recognizes its files


class HParamsLogger(TensorBoardLogger, Tracker):
    """Writes the row's settings at the start and its status at the end.

    It writes no list of columns, as Lightning does for each run: TensorBoard uses the first list that it finds for all
    runs, so that one run which failed before its first metric would hide the metrics of all others. Without a list, it
    builds the columns from all runs, and puts first the settings that differ.
    """

    def log_hyperparams(  # type: ignore[override]
        self, params: dict[str, Any], metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Writes the row, with the settings under their names in the configuration."""
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
        """Does nothing: Lightning calls it after training, before the metrics of the test are known."""

    def close(self, ending: Ending, metrics: Mapping[str, float], step: int) -> None:
        """Adds the final metrics and the status to the row, and closes the file."""
        self.log_metrics(final_metrics(metrics), step)
        end = SessionEndInfo(
            status=STATUS_SUCCESS if ending.status == Status.DONE else STATUS_FAILURE, end_time_secs=time()
        )
        self._write(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))
        self.save()
        self.experiment.close()

    def abandon(self) -> None:
        """Closes the writer, a thread with an open file."""
        if self._experiment is not None:
            with suppress(Exception):  # the failure has been reported
                self._experiment.close()

    def _write(self, tag: str, data: HParamsPluginData) -> None:
        data.version = PLUGIN_DATA_VERSION
        plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=data.SerializeToString())
        value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
        self.experiment._get_file_writer().add_summary(Summary(value=[value]))


def start(folder: Path | None, run: Path) -> HParamsLogger:
    """Returns the logger, which writes to the run folder, or under the run's name in the given folder of several runs.

    A resumed run continues its files; its row of hyperparameters is replaced. Files of an earlier attempt, which was
    set aside, are renamed so that TensorBoard ignores them: a run is one row.
    """
    if folder is None:
        logger = HParamsLogger(run, name="", version="tensorboard", default_hp_metric=False)
    else:
        logger = HParamsLogger(folder, name=run.parent.name, version=run.name, default_hp_metric=False)
    place, note = Path(logger.log_dir), run / TENSORBOARD_NOTE_FILE
    resumed = _read_note(note) == str(place.resolve())
    if resumed:
        steps = [_remove_row(file) for file in sorted(place.glob(EVENTS_PATTERN))]
        logger.logged = max((step for step in steps if step is not None), default=None)
    for earlier in [*([] if resumed else [place]), *run.glob("earlier/*/tensorboard")]:
        for file in earlier.glob(EVENTS_PATTERN):
            file.rename(file.with_name(file.name.replace("tfevents", EARLIER_NAME)))
    with atomic_write(note) as written:
        written.write((json.dumps({"dir": str(place.resolve())}) + "\n").encode())
    return logger


def _read_note(note: Path) -> str | None:
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove_row(file: Path) -> int | None:
    """Removes the row of hyperparameters from a file of events, and returns the step of its last row of metrics.

    TensorBoard uses the first row that it finds of a run, which has the status before the run was resumed.
    """
    kept, dropped, last = [], False, None
    for content in RawEventFileLoader(str(file)).Load():
        event = Event.FromString(content)
        tags = {value.tag for value in event.summary.value}
        if tags & {SESSION_START_INFO_TAG, SESSION_END_INFO_TAG}:
            dropped = True
            continue
        kept.append(content)
        if EPOCH_KEY in tags:
            last = event.step
    if dropped:
        with atomic_write(file) as written:
            writer = RecordWriter(written)
            for content in kept:
                writer.write(content)
    return last
