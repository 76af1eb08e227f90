"""Tests of trackers that fail, hang, and restart during a run, with real servers and readers."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_exp.config.compose import compose_run
from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.status import Ending
from alexnet_exp.training.loggers import guard
from alexnet_exp.training.loggers.base import EPOCH_KEY
from alexnet_exp.training.loggers.build import build_loggers
from alexnet_exp.training.loggers.guard import GuardedLogger
from tests.conftest import Run

TrainRun = Callable[..., Run]
DONE = Ending("done", 0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(guard, "MOST_RETRY_SECONDS", 0.02)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a tracker sets in the environment is gone after the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


class Board:
    """A tracker in memory that can be made to fail. rows: those received, over all openings."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.ending: Ending | None = None
        self.opened = self.abandoned = 0
        self.broken: Exception | None = None
        self.refused: int | None = None
        self.answers = threading.Event()
        self.answers.set()

    def open(self) -> Board:
        self._answer()
        self.opened += 1
        return self

    @property
    def logged(self) -> int | None:
        return max((step for step, _ in self.rows if step is not None), default=None)

    @property
    def experiment(self) -> str:
        return "the board"

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self._answer()
        self.params = params

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._answer()
        if step is not None and step == self.refused:
            raise ValueError(f"no room for step {step}")
        self.rows.append((step, metrics))

    def save(self) -> None:
        self._answer()

    def close(self, ending: Ending, metrics: Any, step: int) -> None:
        self._answer()
        self.ending = ending

    def abandon(self) -> None:
        self.abandoned += 1

    def _answer(self) -> None:
        self.answers.wait(60)
        if self.broken is not None:
            raise self.broken


def started(board: Board, run: Path, server: bool = False) -> GuardedLogger:
    logger = GuardedLogger("board", board.open, run, {"seed": 1}, server)  # type: ignore[arg-type]
    logger.begin()
    return logger


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def until(condition: Callable[[], object]) -> None:
    """Waits until it holds."""
    for _ in range(12_000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to this")


def steps_of(board: Board) -> list[int | None]:
    return [step for step, _ in board.rows]


def test_rows_arrive_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    logger = started(board, tmp_path)
    assert logger.experiment == "the board"
    for step in range(100):
        logger.log_metrics({EPOCH_KEY: 1.0}, step)
    logger.close(DONE, {}, 100)
    assert (steps_of(board), board.params, board.ending) == (list(range(100)), {"seed": 1}, DONE)
    assert said(caplog) == []


def test_failing_tracker_gets_every_row_once_after_reconnecting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board()
    logger = started(board, tmp_path)
    logger.log_metrics({EPOCH_KEY: 1.0}, 1)
    until(lambda: steps_of(board) == [1])
    board.broken = ConnectionError("connection refused\nand much more")
    for step in (2, 3):
        logger.log_metrics({EPOCH_KEY: 1.0}, step)
    until(lambda: said(caplog))
    board.broken = None
    logger.log_metrics({EPOCH_KEY: 1.0}, 4)
    logger.close(DONE, {}, 4)
    assert (steps_of(board), board.ending) == ([1, 2, 3, 4], DONE)
    assert (board.opened, board.abandoned) == (2, 1)
    assert said(caplog) == [
        "logger=board: connection lost at step 2: connection refused; training continues, metrics.csv is complete, "
        "and the backlog is sent after reconnecting",
        "logger=board: reconnected; backlog delivered",
    ]


def test_unreachable_tracker_is_logged_at_the_start_and_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board()
    board.broken = ConnectionError("connection refused")
    logger = started(board, tmp_path)
    logger.experiment.add_scalar("anything", 1)  # does nothing
    logger.log_metrics({EPOCH_KEY: 1.0}, 1)
    logger.close(DONE, {}, 1)
    first, last = said(caplog)
    assert first.startswith("logger=board: connection lost: connection refused; training continues")
    assert last == (
        "logger=board: final status and 1 row were not sent: connection refused; metrics.csv and "
        "result.json are complete"
    )


@pytest.mark.parametrize("hangs", ["at the start", "in the middle"])
def test_hanging_tracker_does_not_delay_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    for name in ("START_SECONDS", "END_SECONDS", "LOST_END_SECONDS"):
        monkeypatch.setattr(guard, name, 0.05)
    board = Board()
    if hangs == "at the start":
        board.answers.clear()
    logger = started(board, tmp_path, server=True)
    board.answers.clear()
    for step in range(10):
        logger.log_metrics({EPOCH_KEY: 1.0}, step)
    logger.close(DONE, {}, 10)  # comes back, though nothing has answered yet
    assert board.ending is None
    *lost, last = [line.partition(";")[0] for line in said(caplog)]
    assert lost == (["logger=board: connection lost: no answer within 0.05 s"] if hangs == "at the start" else [])
    assert last == "logger=board: final status and 10 rows were not sent: no answer"
    board.answers.set()


def test_rejected_row_does_not_block_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    board.refused = 2
    logger = started(board, tmp_path)
    for step in (1, 2, 3):
        logger.log_metrics({"mine": 1.0}, step)
    until(lambda: steps_of(board) == [1, 3])
    logger.close(DONE, {}, 3)
    assert board.ending == DONE
    assert "logger=board: the row of step 2 was not accepted: no room for step 2" in said(caplog)


def test_user_error_of_a_tracker_is_raised(tmp_path: Path) -> None:
    board = Board()
    board.broken = UserError("no such experiment")
    with pytest.raises(UserError, match="no such experiment"):
        started(board, tmp_path)


def recorded(path: Path, *steps: int) -> RunFolder:
    """A run's folder with the rows of some epochs in metrics.csv."""
    folder = RunFolder(path)
    folder.begin({}, {})
    for epoch, step in enumerate(steps, start=1):
        folder.append_metrics({"epoch": epoch, "step": step, "lr": 0.1, "val/top1": step / 100, EPOCH_KEY: 1.5})
    return folder


def row(step: int) -> dict[str, float]:
    return {"lr": 0.1, "val/top1": step / 100, EPOCH_KEY: 1.5}


def test_resumed_run_sends_every_row_once(tmp_path: Path) -> None:
    """It was killed when two rows of three had arrived, and repeats the last two from its checkpoint."""
    board = Board()
    board.rows = [(3, row(3)), (6, row(6))]
    recorded(tmp_path / "run", 3, 6, 9)
    logger = started(board, tmp_path / "run")
    for step in (6, 9, 12):
        logger.log_metrics(row(step), step)
    logger.close(DONE, {}, 12)
    assert board.rows == [(step, row(step)) for step in (3, 6, 9, 12)]


def test_missing_folder_is_not_created_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    recorded(tmp_path / "run", 3)
    logger = started(board, tmp_path / "run")
    until(lambda: steps_of(board) == [3])
    board.broken = ConnectionError("reset")
    logger.log_metrics(row(6), 6)
    until(lambda: said(caplog))
    shutil.rmtree(tmp_path / "run")
    board.broken = None
    logger.close(DONE, {}, 6)
    assert board.ending is None
    assert list(tmp_path.iterdir()) == []


def curves(place: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_tensorboard_resumes_in_its_folder(tmp_path: Path, elsewhere: bool) -> None:
    from tests.sweep.test_loggers import rows_of, session_groups

    board = tmp_path / "board"
    config = compose_run(["logger=tensorboard", *([f"logger.tensorboard.dir={board}"] if elsewhere else [])]).config
    run = recorded(tmp_path / "train" / "run", 3, 6)
    with pytest.raises(KeyboardInterrupt), build_loggers(config, run.path, {"seed": 1, "trainer.max_epochs": 2}):
        raise KeyboardInterrupt
    # Files of one second are read by their number as text, so that the 10th comes before the 9th.
    time.sleep(1.1)
    run.append_metrics({"epoch": 3, "step": 9, "lr": 0.1, "val/top1": 0.09, EPOCH_KEY: 1.5})
    with build_loggers(config, run.path, {"seed": 1, "trainer.max_epochs": 4}) as reports:
        for step in (6, 9, 12):
            reports.loggers[0].log_metrics(row(step), step)
        reports.metrics = {"test/top1": 0.5}
    place = board / "train" / "run" if elsewhere else run.path / "tensorboard"
    top1 = [(step, pytest.approx(step / 100)) for step in (3, 6, 9, 12)]
    assert curves(place)["val/top1"] == top1
    shown = board if elsewhere else run.path.parent
    assert rows_of(shown) == [("train/run" if elsewhere else "run/tensorboard", "SUCCESS")]
    (group,) = session_groups(shown)
    assert group.hparams["trainer.max_epochs"].number_value == 4


def test_unwritable_tensorboard_folder_is_a_warning(train_run: TrainRun, tmp_path: Path) -> None:
    (tmp_path / "board").write_text("a file where a folder should be")
    run = train_run("run", "logger=tensorboard", f"logger.tensorboard.dir={tmp_path / 'board'}")
    assert (run.code, run.result["status"]) == (0, "done")
    lost, not_told = [line.split(" WARNING ")[1] for line in run.log.splitlines() if "logger=" in line]
    assert lost.startswith("logger=tensorboard: connection lost: ")
    assert "Not a directory" in lost
    assert not_told.startswith("logger=tensorboard: final status and 2 rows were not sent: ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nobody listens", "hangs"])
def test_run_finishes_without_its_mlflow_server(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch, environment: None, kind: str
) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setattr(guard, "START_SECONDS", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if kind == "hangs":
            server.listen()  # takes connections, and never answers
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        run = train_run("run", "logger=mlflow", f"logger.mlflow.uri={uri}")
    assert (run.code, run.result["status"]) == (0, "done")
    assert len(run.metrics) == 2
    lost, not_told = [line.split(" WARNING ")[1] for line in run.log.splitlines() if "logger=" in line]
    assert lost.startswith("logger=mlflow: connection lost: ")
    assert not_told.startswith("logger=mlflow: final status and 2 rows were not sent: ")


class Server:
    """A real MLflow server on a SQLite file; it can be ended and started again on its port."""

    def __init__(self, folder: Path) -> None:
        from mlflow.server import handlers
        from mlflow.tracking._tracking_service.utils import _get_store  # noqa: F401 (what the handlers need)

        os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{folder / 'server.db'}"
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(folder / "artifacts")
        handlers._tracking_store = None
        handlers._get_tracking_store()  # makes its tables now: the first request might run out of time
        self.port = 0
        self.start()

    def start(self) -> None:
        from mlflow.server import app
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self.port, app, threaded=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.slow
def test_restarted_mlflow_server_gets_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setattr(guard, "START_SECONDS", 120.0)
    monkeypatch.setattr(guard, "END_SECONDS", 120.0)
    monkeypatch.setattr(guard, "LOST_END_SECONDS", 120.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    server = Server(tmp_path)
    uri = f"http://127.0.0.1:{server.port}"
    client = mlflow.MlflowClient(uri)
    run = recorded(tmp_path / "run")
    config = compose_run(["logger=mlflow", f"logger.mlflow.uri={uri}"]).config

    def history() -> list[tuple[int, float]]:
        (logged,) = client.search_runs([client.get_experiment_by_name("train").experiment_id])
        return [(point.step, point.value) for point in client.get_metric_history(logged.info.run_id, "val/top1")]

    with build_loggers(config, run.path, {"seed": 1, "optim.lr": 0.1}) as reports:
        logger = reports.loggers[0]
        logger.log_metrics(row(3), 3)
        until(lambda: history() == [(3, 0.03)])
        server.end()
        logger.log_metrics(row(6), 6)
        until(lambda: [line for line in said(caplog) if "connection lost at step 6" in line])
        logger.log_metrics(row(9), 9)
        server.start()
        until(lambda: "logger=mlflow: reconnected; backlog delivered" in said(caplog))
        logger.log_metrics(row(12), 12)
        reports.metrics = {"test/top1": 0.5}
    assert history() == [(step, step / 100) for step in (3, 6, 9, 12)]
    (logged,) = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    assert (logged.info.status, logged.data.metrics["test/top1"]) == ("FINISHED", 0.5)

    # and the run that goes on is the same one there
    with build_loggers(config, run.path, {"seed": 1, "optim.lr": 0.2}) as reports:
        reports.loggers[0].log_metrics(row(12), 12)
        reports.loggers[0].log_metrics(row(15), 15)
    assert history() == [(step, step / 100) for step in (3, 6, 9, 12, 15)]
    (again,) = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    assert (again.info.run_id, again.info.status) == (logged.info.run_id, "FINISHED")
    assert (again.data.params["optim.lr"], again.data.tags["resumed.optim.lr"]) == ("0.1", "0.2")
    server.end()


@pytest.mark.slow
def test_sweep_succeeds_without_its_mlflow_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None, caplog: pytest.LogCaptureFixture
) -> None:
    from alexnet_exp.training.loggers import mlflow_runs

    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # and nobody listens
        noted = {"uri": f"http://127.0.0.1:{server.getsockname()[1]}", "run_id": "1"}
        (tmp_path / mlflow_runs.MLFLOW_NOTE_FILE).write_text(json.dumps(noted))
        mlflow_runs.close_sweep(tmp_path)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"  # the user's own
    (line,) = said(caplog)
    assert line.startswith("logger=mlflow: final status of the sweep was not sent: API ")
