"""Tests of runs and sweeps in MLflow and TensorBoard's HParams, read through their own APIs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from alexnet_exp.config.compose import compose_run
from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import PRUNE_FILE, RunFolder
from alexnet_exp.runs.status import Pruned
from alexnet_exp.runs.sweep_plan import Job, SweepPlan
from alexnet_exp.training.loggers.build import build_loggers
from alexnet_exp.training.loggers.naming import as_typed
from tests.conftest import Run, train_into

TrainRun = Callable[..., Run]
ENDINGS = {
    "failed": (RuntimeError("no more"), "FAILED", 1),
    "interrupted": (KeyboardInterrupt(), "KILLED", 130),
    "pruned": (Pruned("by the pruner"), "KILLED", 0),
}


def sweep(folder: Path, *jobs: str) -> Path:
    """Plans a sweep over the seed; returns its folder."""
    found = [
        Job(number, folder / job, (f"seed={number}",), {"seed": str(number)})
        for number, job in enumerate(jobs, start=1)
    ]
    SweepPlan(folder, ["-m"], str(folder), "val/top1", jobs=found).write()
    return folder


def client_of(outputs: Path) -> Any:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    return mlflow.MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")


def children_of(client: Any, parent: Any, view: int = 1) -> list[Any]:
    query = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    return list(client.search_runs([parent.info.experiment_id], query, view, order_by=["attributes.start_time"]))


def only_parent(client: Any, experiment: str) -> Any:
    (parent,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], "tags.kind = 'sweep'")
    return parent


def ending_with(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    """Has trainings raise `error` in place of the test, after all that Lightning does at the end."""
    from alexnet_exp.training import train

    def test(*arguments: Any) -> dict[str, Any]:
        if error is not None:
            raise error
        return {}

    monkeypatch.setattr(train, "_test", test)


@pytest.mark.slow
def test_a_sweep_is_a_parent_with_a_child_for_each_job(tmp_path: Path) -> None:
    client = client_of(tmp_path / "outputs")
    folder = sweep(tmp_path / "outputs" / "train" / "seed-12345678", "seed-1", "seed-2")
    first = train_into(folder / "seed-1", "logger=mlflow", "seed=1", "note=why", "tags=[a]")
    assert only_parent(client, "train").info.status == "RUNNING"  # one job has not started
    second = train_into(folder / "seed-2", "logger=mlflow", "seed=2")

    parent = only_parent(client, "train")
    assert (parent.info.run_name, parent.info.status) == ("seed-12345678", "FINISHED")
    children = children_of(client, parent)
    assert [child.info.run_name for child in children] == ["seed-1", "seed-2"]
    for run, child in zip((first, second), children, strict=True):
        final = run.result["metrics"]
        assert child.info.status == "FINISHED"
        assert child.data.params["seed"] == str(run.result["config"]["seed"])
        assert child.data.tags["run"] == str(run.path)
        assert child.data.metrics["test/top1"] == pytest.approx(final["test/top1"])
        assert child.data.metrics["final/val/top1"] == pytest.approx(final["val/top1"])
        curve = client.get_metric_history(child.info.run_id, "val/top1")
        assert [(point.step, point.value) for point in curve] == [
            (row["step"], pytest.approx(row["val/top1"])) for row in run.metrics
        ]
    tags = children[0].data.tags
    assert (tags["seed"], tags["note"], tags["tag.a"], tags["status"]) == ("1", "why", "true", "done")


@pytest.mark.slow
@pytest.mark.parametrize("status", ENDINGS)
def test_a_job_is_closed_with_its_status_and_a_retried_job_is_one_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    client = client_of(tmp_path / "outputs")
    error, expected, code = ENDINGS[status]
    folder = sweep(tmp_path / "outputs" / "train" / "s-1", "a")
    ending_with(monkeypatch, error)
    assert train_into(folder / "a", "logger=[mlflow,tensorboard]").code == code

    parent = only_parent(client, "train")
    (child,) = children_of(client, parent)
    assert (child.info.status, child.data.tags["status"]) == (expected, status)
    assert child.info.end_time is not None
    assert child.data.metrics["final/val/top1"] >= 0  # the metrics that it has are logged
    assert parent.info.status == {"failed": "FAILED", "interrupted": "KILLED", "pruned": "FINISHED"}[status]
    assert rows_of(tmp_path / "outputs" / "train") == [("s-1/a/tensorboard", "FAILURE")]
    if status == "pruned":
        return  # is not run again

    ending_with(monkeypatch, None)
    aside = folder / "a" / "earlier" / "1"
    aside.mkdir(parents=True)
    for name in ("tensorboard", "result.json", "mlflow.json", ".hydra"):
        (folder / "a" / name).rename(aside / name)
    assert train_into(folder / "a", "logger=[mlflow,tensorboard]").code == 0
    parent = only_parent(client, "train")
    assert parent.info.status == "FINISHED"
    (again,) = children_of(client, parent)
    assert (again.info.status, again.info.run_id != child.info.run_id) == ("FINISHED", True)
    (hidden,) = children_of(client, parent, view=2)  # ViewType.DELETED_ONLY
    assert hidden.info.run_id == child.info.run_id
    assert rows_of(tmp_path / "outputs" / "train") == [("s-1/a/tensorboard", "SUCCESS")]


@pytest.mark.slow
def test_a_killed_job_is_closed_by_the_command_of_the_sweep(tmp_path: Path) -> None:
    from alexnet_exp.training.loggers.mlflow_runs import close_sweep

    client = client_of(tmp_path / "outputs")
    folder = sweep(tmp_path / "outputs" / "train" / "s-1", "a", "b")
    close_sweep(folder)  # nothing was tracked yet
    config = compose_run(["logger=mlflow"]).config
    for job in ("a", "b"):
        run = RunFolder(folder / job)
        run.begin({}, {})
        build_loggers(config, run.path, {"seed": 1})  # and its process dies before it can close them
    close_sweep(folder)
    parent = only_parent(client, "train")
    assert [each.info.status for each in (parent, *children_of(client, parent))] == ["RUNNING"] * 3
    RunFolder(folder / "a").finish("done")
    RunFolder(folder / "b").finish("failed", error="killed")
    close_sweep(folder)
    parent = only_parent(client, "train")
    statuses = [each.info.status for each in (parent, *children_of(client, parent))]
    assert statuses == ["FAILED", "FINISHED", "FAILED"]


RACER = """
import sys, time
from pathlib import Path
import mlflow
from alexnet_exp.config.compose import compose_run
from alexnet_exp.training.loggers.build import build_loggers
folder, start = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(parents=True)
config = compose_run(["logger=mlflow"]).config
folder.with_suffix(".ready").touch()
while not start.exists():
    time.sleep(0.001)
build_loggers(config, folder, {"seed": 1})
"""


def racers(folders: Sequence[Path], start: Path) -> list[str]:
    """Starts processes that open their loggers at the same moment; returns the output of those that failed."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([sys.executable, "-c", RACER, str(folder), str(start)], **pipes) for folder in folders
    ]
    deadline = time.monotonic() + 240
    while not all(folder.with_suffix(".ready").exists() for folder in folders) and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.01)
    start.touch()
    said = [process.communicate(timeout=240)[1] for process in processes]
    return [text for text, process in zip(said, processes, strict=True) if process.returncode != 0]


@pytest.mark.slow
def test_jobs_that_start_together_share_a_new_database_and_a_parent(tmp_path: Path) -> None:
    client_class = type(client_of(tmp_path / "elsewhere"))
    jobs = ("a", "b")
    folder = sweep(tmp_path / "outputs" / "train" / "s-1", *jobs)
    assert racers([folder / job for job in jobs], tmp_path / "start") == []
    client = client_class(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    parent = only_parent(client, "train")
    assert sorted(child.info.run_name for child in children_of(client, parent)) == list(jobs)
    assert json.loads((folder / "mlflow.json").read_text())["run_id"] == parent.info.run_id


def test_long_empty_and_nested_settings(tmp_path: Path) -> None:
    client = client_of(tmp_path / "outputs")
    config = compose_run(["logger=mlflow"]).config
    run = tmp_path / "outputs" / "train" / "run"
    run.mkdir(parents=True)
    settings: dict[str, Any] = {f"many.{number}": number for number in range(250)}
    settings |= {"none": None, "empty": "", "list": [1, [2, None]], "flag": True, "mapping": {}, "rate": 1e-05}
    settings |= {"long": "x" * 7000, "data.classes.gâteau(1)": "ä" * 6000}
    with build_loggers(config, run, settings):
        pass
    (logged,) = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    said = logged.data.params
    assert len(said) == len(settings)
    short = {"none": "null", "empty": "", "list": "[1, [2, null]]", "flag": "true", "mapping": "{}", "rate": "1e-05"}
    assert {key: said[key] for key in short} == short
    assert said["many.249"] == "249"
    assert len(said["long"]) == 6000
    assert said["long"].endswith("x... (7000 characters; the whole is in .hydra/config.yaml)")
    assert said["data.classes.gâteau_1_"] == "ä" * 6000
    assert logged.info.status == "FINISHED"


def test_an_experiment_deleted_in_mlflow_is_an_error(tmp_path: Path) -> None:
    client = client_of(tmp_path / "outputs")
    client.delete_experiment(client.create_experiment("train"))
    config = compose_run(["logger=mlflow"]).config
    (tmp_path / "outputs" / "train" / "run").mkdir(parents=True)
    with pytest.raises(UserError, match="the experiment train is deleted in MLflow; restore it, or write another"):
        build_loggers(config, tmp_path / "outputs" / "train" / "run", {})


def test_a_tracker_that_fails_at_the_end_does_not_fail_the_run(
    train_run: TrainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet_exp.training.loggers.tensorboard import HParamsLogger

    def close(*arguments: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(HParamsLogger, "close", close)
    run = train_run("run", "logger=tensorboard")
    assert (run.code, run.result["status"]) == (0, "done")
    (said,) = [line.split(" WARNING ")[1] for line in run.log.splitlines() if "logger=" in line]
    assert said.startswith("logger=tensorboard: final status was not sent: disk full; ")


@pytest.mark.slow
def test_hparams_has_a_row_for_each_run_whatever_its_status(train_run: TrainRun) -> None:
    done = train_run("done", "logger=tensorboard", "test.checkpoint=best", "trainer.max_epochs=3", "optim.lr=0.003")
    nan = ("optim=sgd", "optim.lr=1e9", "schedule=constant", "model.norm=none")
    failed = train_run("failed", "logger=tensorboard", *nan)
    assert (done.result["status"], failed.result["status"]) == ("done", "failed")
    board = done.path.parent

    rows = {group.sessions[0].name: group for group in session_groups(board)}
    assert rows_of(board) == [("done/tensorboard", "SUCCESS"), ("failed/tensorboard", "FAILURE")]
    of_done, of_failed = rows["done/tensorboard"], rows["failed/tensorboard"]
    final = done.result["metrics"]
    assert values(of_done)["test/top1"] == pytest.approx(final["test/top1"])
    assert values(of_done)["final/val/top1"] == pytest.approx(final["val/top1"])
    assert values(of_done)["val/top1"] == pytest.approx(done.metrics[-1]["val/top1"])  # the curve is the curve
    assert not [name for group in rows.values() for name in values(group) if "hp_metric" in name]
    assert of_failed.hparams["optim.lr"].number_value == 1e9
    assert of_failed.hparams["model.norm"].string_value == "none"
    assert of_done.hparams["trainer.compile"].bool_value is False
    assert of_done.hparams["data_root"].string_value == "null"

    infos = {info.name: info for info in experiment(board).hparam_infos}
    assert infos["optim.lr"].differs
    assert not infos["seed"].differs
    assert {"optim.momentum", "optim.name"} <= set(infos)  # also settings of only one of the runs


def test_a_pruned_run_keeps_its_row(train_run: TrainRun, tmp_path: Path) -> None:
    path = tmp_path / "outputs" / "train" / "run"
    path.mkdir(parents=True)
    (path / PRUNE_FILE).write_text("by the pruner")
    run = train_run("run", f"logger.tensorboard.dir={tmp_path / 'board'}", "logger=tensorboard")
    assert run.result["status"] == "pruned"
    (group,) = session_groups(tmp_path / "board")
    assert values(group)["final/val/top1"] == pytest.approx(run.metrics[0]["val/top1"])
    for file in (".hydra/config.yaml", PRUNE_FILE):
        (path / file).unlink()
    (path / ".hydra").rmdir()
    assert train_run("run", f"logger.tensorboard.dir={tmp_path / 'board'}", "logger=tensorboard").code == 0
    assert rows_of(tmp_path / "board") == [("train/run", "SUCCESS")]


@pytest.mark.parametrize(("value", "text"), [(None, "null"), ("null", "null"), (0.1, "0.1"), (["ä"], '["ä"]')])
def test_settings_are_shown_as_typed(value: object, text: str) -> None:
    assert as_typed(value) == text


def values(group: Any) -> dict[str, float]:
    """Returns the metrics of a row."""
    return {each.name.tag: each.value for each in group.metric_values}


def rows_of(folder: Path) -> list[tuple[str, str]]:
    """Returns the runs in the table with their status."""
    from tensorboard.plugins.hparams.api_pb2 import Status

    sessions = [session for group in session_groups(folder) for session in group.sessions]
    return sorted((each.name, Status.Name(each.status).removeprefix("STATUS_")) for each in sessions)


def session_groups(folder: Path) -> list[Any]:
    """Returns the rows of TensorBoard's HParams page of `folder`."""
    from tensorboard.context import RequestContext
    from tensorboard.plugins.hparams import api_pb2, list_session_groups

    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=100)
    for status in ("SUCCESS", "FAILURE", "RUNNING", "UNKNOWN"):
        request.allowed_statuses.append(api_pb2.Status.Value(f"STATUS_{status}"))
    for metric in experiment(folder).metric_infos:
        request.col_params.add(metric=metric.name)
    return list(list_session_groups.Handler(RequestContext(), _context(folder), "", request).run().session_groups)


def experiment(folder: Path) -> Any:
    """Returns the columns of that page."""
    from tensorboard.context import RequestContext
    from tensorboard.data.provider import ListHyperparametersResult

    context, request = _context(folder), RequestContext()
    nothing = ListHyperparametersResult(hyperparameters=[], session_groups=[])
    return context.experiment_from_metadata(request, "", True, context.hparams_metadata(request, ""), nothing)


def _context(folder: Path) -> Any:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    return Context(TBContext(multiplexer=multiplexer, data_provider=provider))
