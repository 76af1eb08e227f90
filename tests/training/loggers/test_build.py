"""Tests of TensorBoard, MLflow and Weights & Biases, with the libraries' own readers."""

from __future__ import annotations

import importlib.util
import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alexnet_exp.config.compose import compose_run
from alexnet_exp.config.schema import LOGGERS, Wandb
from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.training.loggers.build import build_loggers
from tests.conftest import Run, train_into

TrainRun = Callable[..., Run]


def test_tensorboard_has_curves_hyperparameters_and_final_metrics(train_run: TrainRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = train_run("run", "logger=[csv,tensorboard]")
    scalars: dict[str, dict[int, float]] = {}
    parameters: dict[str, object] = {}
    for file in sorted((run.path / "tensorboard").glob("events.*")):
        events = EventAccumulator(str(file)).Reload()
        for name in events.Tags()["scalars"]:
            scalars.setdefault(name, {}).update({event.step: event.value for event in events.Scalars(name)})
        content = events.summary_metadata.get("_hparams_/session_start_info")
        if content is not None:
            start = HParamsPluginData.FromString(content.plugin_data.content).session_start_info
            parameters |= {key: value.number_value or value.string_value for key, value in start.hparams.items()}
    rows = {row["step"]: row["val/top1"] for row in run.metrics}
    assert {step: pytest.approx(value, rel=1e-6) for step, value in scalars["val/top1"].items()} == rows
    assert not [name for name in scalars if "hp_metric" in name]
    assert scalars["test/top1"] == {6: pytest.approx(run.result["metrics"]["test/top1"], rel=1e-6)}
    assert parameters["model.width"] == 0.05
    assert parameters["optim.name"] == "adamw"
    assert (run.path / "tensorboard" / "hparams.yaml").exists()


@pytest.mark.slow
def test_mlflow_and_wandb_together(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = train_run("run", "logger=[csv,mlflow,wandb]", "tags=[first,second]", "note=why")
    assert run.code == 0, run.log
    final = run.result["metrics"]["test/top1"]

    outputs = run.path.parents[1]
    client = mlflow.MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "train"]
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["model.width"] == "0.05"
    assert logged.data.metrics["test/top1"] == pytest.approx(final)
    assert logged.data.tags["note"] == "why"
    assert {key for key in logged.data.tags if key.startswith("tag.")} == {"tag.first", "tag.second"}
    curve = client.get_metric_history(logged.info.run_id, "val/loss")
    assert [point.value for point in curve] == pytest.approx([row["val/loss"] for row in run.metrics])

    logged = _of_wandb(run.path)
    assert logged.history["test/top1"] == [pytest.approx(final)]
    assert logged.history["val/loss"] == pytest.approx([row["val/loss"] for row in run.metrics])
    assert logged.config["model.width"] == 0.05
    assert logged.config["data_root"] is None
    assert (logged.group, logged.job_type, logged.exit_code) == ("", "train", 0)
    assert (logged.tags, logged.notes) == (["first", "second"], "why")


@pytest.mark.slow
@pytest.mark.parametrize(("status", "code"), [("done", 0), ("failed", 1)])
def test_wandb_has_the_jobs_of_a_sweep_as_a_group_and_how_each_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "outputs" / "train" / "seed-12345678"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    if status == "failed":
        monkeypatch.setattr("alexnet_exp.training.train._test", _raise)
    run = train_into(folder / "seed-1", "logger=wandb", "test.checkpoint=best", "trainer.max_epochs=3")
    assert (run.code, run.result["status"]) == (code, status)
    logged = _of_wandb(run.path)
    assert (logged.group, logged.job_type, logged.exit_code) == ("seed-12345678", "sweep", code)
    assert logged.summary["status"] == status
    for key, value in run.result["metrics"].items():
        assert logged.summary[key] == pytest.approx(value)


@pytest.mark.slow
def test_mlflow_uses_its_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    mine = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mine)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the variable")
    for number, settings in enumerate([[], [f"logger.mlflow.uri=sqlite:///{tmp_path / 'set.db'}"]]):
        config = compose_run(["logger=mlflow", *settings]).config
        with build_loggers(config, RunFolder(tmp_path / "outputs" / f"run{number}").path, {"seed": 1}):
            pass
    for uri in (mine, f"sqlite:///{tmp_path / 'set.db'}"):  # a setting wins over the variable
        assert mlflow.MlflowClient(uri).get_experiment_by_name("of the variable") is not None
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "project"), [(None, "of the variable"), ("set", "set")])
def test_wandb_uses_its_project_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, project: str
) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from alexnet_exp.training.loggers import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_PROJECT", "of the variable")
    config = compose_run(["logger=wandb"]).config
    (tmp_path / "run").mkdir()
    tracker = wandb.start(Wandb(project=setting), config, tmp_path / "run")
    assert tracker.experiment.project == project
    tracker.experiment.finish()


@pytest.mark.slow
def test_wandb_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = compose_run(["logger=wandb"]).config
    folder = RunFolder(tmp_path / "run")
    with build_loggers(config, folder.path, {"seed": 1}) as reports:
        reports.loggers[0].log_metrics({"val/top1": 0.3, "seconds": 1.5}, 3)
    # killed when metrics.csv had one row more than W&B; the checkpoint is of the first one
    for epoch in (1, 2):
        folder.append_metrics({"epoch": epoch, "step": 3 * epoch, "val/top1": 0.3 * epoch, "seconds": 1.5})
    with build_loggers(config, folder.path, {"seed": 1}) as reports:
        for epoch in (2, 3):
            reports.loggers[0].log_metrics({"val/top1": 0.3 * epoch, "seconds": 1.5}, 3 * epoch)
    first, second = _of_wandb(folder.path), _of_wandb(folder.path, attempt=1)
    assert first.id == second.id
    assert first.history["trainer/global_step"] == [3]
    assert second.history["trainer/global_step"] == [6, 9]
    assert second.history["val/top1"] == pytest.approx([0.6, 0.9])


@pytest.mark.slow
def test_wandb_without_a_login_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    wandb.teardown()  # or it keeps what it read from the environment in a test before
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("NETRC", str(tmp_path / "no-such-file"))
    run = train_into(tmp_path / "run", "logger=wandb", "logger.wandb.offline=false")
    assert (run.code, run.result["status"]) == (0, "done")
    assert "the W&B run is offline, upload it later with: wandb sync " in run.log
    assert _of_wandb(run.path).history["trainer/global_step"] == [3, 6, 6]  # the last is of the test


def _raise(*arguments: object) -> None:
    raise RuntimeError("no more")


@dataclass
class Logged:
    """What the file of an offline W&B run says. history: each metric's values, in order."""

    history: dict[str, list[object]] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    id: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    exit_code: int | None = None


def _of_wandb(run: Path, attempt: int = 0) -> Logged:
    found = Logged()
    for record in _ended(sorted(run.glob("wandb/offline-run-*/*.wandb"))[attempt]):
        for item in record.history.item:
            found.history.setdefault("/".join(item.nested_key) or item.key, []).append(json.loads(item.value_json))
        for item in (*record.run.config.update, *record.config.update):
            found.config["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        for item in record.summary.update:
            found.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        if record.HasField("run"):
            found.group, found.job_type = record.run.run_group, record.run.job_type
            found.tags, found.notes = list(record.run.tags), record.run.notes
            found.id = record.run.run_id
        if record.HasField("exit"):
            found.exit_code = record.exit.exit_code
    return found


def _ended(file: Path) -> list[Any]:
    """The records of a run of W&B whose end is among them: its process writes them, and may do so behind `finish`."""
    from wandb.proto import wandb_internal_pb2

    deadline = time.monotonic() + 30
    while True:
        records = [wandb_internal_pb2.Record.FromString(data) for data in _leveldb_records(file.read_bytes())]
        if any(record.HasField("exit") for record in records):
            return records
        assert time.monotonic() < deadline, f"{file} has {len(records)} records, and not how the run ended"
        time.sleep(0.1)


def _leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, in which each piece has a header of checksum, length and kind."""
    block, header, position, record = 32768, struct.Struct("<IHB"), 7, b""
    while position + header.size <= len(content):
        if block - position % block < header.size:
            position += block - position % block
            continue
        _, length, kind = header.unpack_from(content, position)
        position += header.size
        if position + length > len(content):
            return  # it is still being written
        record += content[position : position + length]
        position += length
        if kind in (1, 4):  # the whole of it, or its last piece
            yield record
            record = b""


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_missing_package_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == name else original(module))
    config = compose_run([]).config
    config.logger[name] = LOGGERS[name]()
    said = rf"logger={name}: the package {name} is not installed; pip install -e '\.\[{name}\]'"
    with pytest.raises(UserError, match=said):
        build_loggers(config, tmp_path, {})
