"""Tests of `trainer.strategy=columns`: two gloo processes against one, from single steps to whole runs."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import alexnet_exp.training.train  # noqa: F401  the fork server preloads this module, and with it what later tests run in it
from alexnet_exp.config.compose import compose, compose_run
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import UserError
from alexnet_exp.runs.status import Ending
from alexnet_exp.training.devices import check_devices
from alexnet_exp.training.distributed import replica, replicas
from alexnet_exp.training.launch import run_ranks
from benchmarks.columns import compared, train
from tests.conftest import Run

COLUMNS = "trainer.strategy=columns"
# LRN, dropout, two columns; the widths that split evenly
NET = ("model=lrn", "model.groups=2", "model.width=0.0625", "optim=sgd", "optim.lr=0.05")


# --- twenty steps of the network


def compare_twenty_steps(folder: Path, device: str, backend: str) -> None:
    work = {"config": compose([*NET, "data=digits"]), "steps": 20, "batch": 4, "device": device}
    assert run_ranks(train, 2, backend, work, folder) == Ending("done", 0)
    train(work, folder)
    for kind, tolerance in (("float64", 1e-12), ("float32", 1e-4)):
        found = compared(folder, work, kind)
        assert found["last_loss"] != pytest.approx(found["first_loss"], abs=0.01), "it learns something"
        assert found["gradient_size"] > 0.01
        assert max(found["loss"], found["gradient"], found["parameter"]) < tolerance, found
        exchanged = found["bytes_per_image"]
        assert list(exchanged) == ["conv3", "fc6", "fc7", "fc8", "loss"]
        assert all(each["counted"] == each["predicted"] > 0 for each in exchanged.values())


def test_twenty_steps_of_two_columns_equal_one_device(tmp_path: Path) -> None:
    compare_twenty_steps(tmp_path, "cpu", "gloo")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="not run: NCCL needs two GPUs")
def test_twenty_steps_over_nccl(tmp_path: Path) -> None:
    compare_twenty_steps(tmp_path, "cuda", "nccl")


def test_killed_rank_ends_the_other_rank(tmp_path: Path) -> None:
    """Which waits for it in an exchange."""
    work = {"config": compose([*NET, "data=digits"]), "steps": 20, "batch": 4, "dies": 2}
    ending = run_ranks(train, 2, "gloo", work, tmp_path)
    assert (ending.status, ending.code) == ("failed", 1)
    assert "rank 1 exited without reporting a result (signal SIGKILL" in ending.reason
    assert not multiprocessing.active_children()
    assert not list(tmp_path.glob("*.pt"))


# --- a whole run

# Everything that a column could do otherwise than one device: a clipped norm, an average of the weights, batches put
# together, a schedule that follows the validation, a last batch that is smaller, crops and mirrors.
WHOLE = (
    *NET,
    *("trainer.precision=64-true", "data.subset=92", "data.batch_size=32", "data.mirror=true", "data.random_crop=true"),
    *("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.3", "callbacks=ema", "schedule=plateau"),
    *("schedule.patience=0", "schedule.threshold=0.9", "trainer.max_epochs=3"),
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """One experiment on one device, and in columns on two."""
    from tests.conftest import train_into

    outputs = tmp_path_factory.mktemp("columns") / "outputs" / "train"
    one, two = train_into(outputs / "one", *WHOLE), train_into(outputs / "two", *WHOLE, COLUMNS)
    assert (one.code, two.code) == (0, 0), two.log
    return one, two


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested containers."""
    if isinstance(node, Mapping):
        return {key: leaf for name, each in node.items() for key, leaf in flat(each, f"{path}/{name}").items()}
    if isinstance(node, list | tuple):
        return {key: leaf for name, each in enumerate(node) for key, leaf in flat(each, f"{path}/{name}").items()}
    return {path: node}


def test_run_in_columns_equals_the_run_of_one_device(pair: tuple[Run, Run]) -> None:
    one, two = pair
    assert two.result["ranks"] == 2
    assert "two columns, two processes on the CPU" in two.log
    assert len(one.losses) > 4
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-12)
    measured = [key for key in one.metrics[0] if key.partition("/")[0] in ("train", "val")]
    assert len(measured) == 5
    for theirs, ours in zip(one.metrics, two.metrics, strict=True):
        for key in (*measured, "lr", "step"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-10)
    assert len({row["lr"] for row in one.metrics}) > 1, "the plateau was met"
    assert two.result["test_images"] == one.result["test_images"] == 360
    assert two.result["metrics"] == pytest.approx(one.result["metrics"], rel=1e-10)
    assert two.result["parameters"] == one.result["parameters"]


@pytest.mark.parametrize("name", ["last", "best"])
def test_checkpoint_of_columns_equals_that_of_one_device(pair: tuple[Run, Run], name: str) -> None:
    """Weights, their average, and the optimizer's state."""
    theirs, ours = (flat(run.checkpoint(name)) for run in pair)
    kinds = [re.compile(kind) for kind in ("^/state_dict/", "^/current_model_state/", "^/optimizer_states/0/state/")]
    keys = [key for key in theirs if any(kind.match(key) for kind in kinds)]
    assert all(any(kind.match(key) for key in keys) for kind in kinds)
    assert [key for key in ours if any(kind.match(key) for kind in kinds)] == keys
    for key in keys:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12)


def test_predictions_are_of_each_image_once(pair: tuple[Run, Run]) -> None:
    theirs, ours = (np.load(run.path / "predictions" / "test.npz") for run in pair)
    assert ours["labels"].shape == (360,)
    np.testing.assert_array_equal(ours["labels"], theirs["labels"])
    np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], rtol=0, atol=1e-3)  # float16


@pytest.mark.slow
def test_run_in_columns_is_evaluated_loaded_and_plotted_on_one_device(
    pair: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from alexnet_exp.cli import eval as evaluation
    from alexnet_exp.cli import export, plot
    from alexnet_exp.inference.classifier import load

    _, two = pair
    assert evaluation.run([str(two.path)]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert again == pytest.approx({key: two.result["metrics"][key] for key in again}, rel=1e-6)
    assert load(two.path).network.fc6.fc.weight.shape[0] == 256
    assert export.run([str(two.path), "--format", "safetensors", "--out", str(tmp_path)]) == 0
    assert plot.run([str(two.path), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "filters.png").exists()


def go_on(container: Mapping[str, Any], folder: Path) -> Ending:
    """Two epochs more from a checkpoint."""
    from alexnet_exp.config.schema import Interval, Keep, Unit
    from alexnet_exp.runs.folder import RunFolder
    from alexnet_exp.training.build import build, prepare
    from alexnet_exp.training.callbacks.build import build_callbacks
    from alexnet_exp.training.callbacks.recorder import Recorder
    from alexnet_exp.training.checkpoints.callback import Checkpoints
    from alexnet_exp.training.devices import place
    from alexnet_exp.training.trainer import build_trainer

    config = validate(container["config"])
    experiment = build(config)
    prepare(experiment)
    every = Interval(1, Unit.epochs)
    recorder = Recorder(None)
    checkpoints = Checkpoints(RunFolder(folder), experiment.card, recorder, every, Keep.all)
    callbacks = [*build_callbacks(config.callbacks), recorder, checkpoints]
    trainer = build_trainer(config.trainer, place(config.trainer), callbacks, [])
    trainer.fit(experiment.module, datamodule=experiment.data, ckpt_path=container["from"], weights_only=True)
    return Ending("done", 0)


@pytest.mark.slow
def test_columns_and_one_device_resume_each_others_checkpoints(pair: tuple[Run, Run], tmp_path: Path) -> None:
    longer = ("trainer.max_epochs=4", "trainer=cpu")
    begun = [str(run.path / "checkpoints" / "last.ckpt") for run in pair]
    for name, source, overrides in (("one", begun[1], ()), ("two", begun[0], (COLUMNS,))):
        (tmp_path / name).mkdir()
        work = {"config": compose([*WHOLE, *longer, *overrides]), "from": source}
        ending = run_ranks(go_on, 2 if overrides else 1, "gloo", work, tmp_path / name)
        assert ending == Ending("done", 0), ending.trace or ending.reason
    files = [tmp_path / name / "checkpoints" / "last.ckpt" for name in ("one", "two")]
    theirs, ours = (flat(torch.load(file, weights_only=True)) for file in files)
    assert theirs["/epoch"] == ours["/epoch"] == 3
    compared = [key for key, value in theirs.items() if isinstance(value, Tensor) and value.is_floating_point()]
    assert len(compared) > 40
    for key in compared:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-8, atol=1e-11)


# --- settings


def test_every_rank_of_columns_gets_all_images() -> None:
    from alexnet_exp.training.strategy import ColumnsStrategy

    class Trainer:
        global_rank, world_size = 1, 2

    assert (replica(Trainer()), replicas(Trainer())) == (1, 2)
    Trainer.distributed_sampler_kwargs = ColumnsStrategy().distributed_sampler_kwargs  # type: ignore[attr-defined]
    assert (replica(Trainer()), replicas(Trainer())) == (0, 1)


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        check_devices([compose_run([*NET, COLUMNS, *overrides]).config])
    return str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.groups=1"], "model.groups=1: the network has no columns; write model=paper, or"),
        (["model.width=0.0501"], "model.stages.fc6.out: 205 units cannot be split evenly over 2 columns"),
        (["trainer.devices=1", "trainer.accelerator=cpu"], "trainer.strategy=columns: model.groups=2 columns need one"),
        (["trainer.devices=4", "trainer.accelerator=cpu"], "write trainer.gpus=2, or trainer.accelerator=cpu trainer."),
        (["trainer.compile=true"], "trainer.compile=true: does not go with trainer.strategy=columns; write false"),
        (["trainer.precision=16-mixed"], "write bf16-mixed or 32-true"),
        (["trainer.sync_batchnorm=true"], "every rank sees all images"),
        (["trainer.num_nodes=2"], "the columns are of one machine"),
    ],
)
def test_impossible_columns_are_rejected_before_the_run_starts(overrides: list[str], said: str) -> None:
    assert said in refusal("trainer.gpus=0" if "trainer.devices" not in overrides[0] else "data=digits", *overrides)


def test_columns_reject_user_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "columnless.py").write_text(
        "from torch import nn\nfrom alexnet_exp.training.module import AlexNetModule\n"
        "class Net(nn.Module):\n    pass\nclass Own(AlexNetModule):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "columnless")
    container = compose(["data=digits", COLUMNS])
    container["model"], container["module"] = {"_target_": "columnless.Net"}, {"_target_": "columnless.Own"}
    with pytest.raises(UserError) as refused:
        validate(container)
    lines = str(refused.value).splitlines()
    assert lines[0].startswith("trainer.strategy=columns: columnless.Net has no columns; choose a model of stages")
    assert lines[1] == "trainer.strategy=columns: columnless.Own does not know of columns; leave module out"


@pytest.mark.parametrize(
    ("gpus", "asked", "found"),
    [
        (0, {}, ("cpu", 2)),
        (4, {}, ("cuda", 2)),
        (4, {"gpus": 0}, ("cpu", 2)),
        (4, {"accelerator": "cpu"}, ("cpu", 2)),
        (4, {"gpus": [1, 3]}, ("cuda", [1, 3])),
        (0, {"accelerator": "cpu", "devices": 3}, ("cpu", 3)),
        (1, {}, "has one GPU; add trainer.gpus=0 for the CPU"),
        (0, {"gpus": 2}, "this machine has no CUDA GPU"),
    ],
)
def test_two_columns_use_two_devices(
    monkeypatch: pytest.MonkeyPatch, gpus: int, asked: dict[str, Any], found: tuple[str, int] | str
) -> None:
    from alexnet_exp.config.schema import Trainer
    from alexnet_exp.training.devices import select_devices

    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            select_devices(Trainer(strategy="columns", **asked))
    else:
        assert select_devices(Trainer(strategy="columns", **asked))[:2] == found


def test_summary_prints_the_size_of_a_rank_and_its_messages(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from alexnet_exp.cli import summary

    assert summary.run(["model=paper", COLUMNS]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^a rank +30,482,612 +362,203,408", text, re.MULTILINE)
    assert re.search(r"^conv3 +256x13x13 +43,264 +43,264 +346,112$", text, re.MULTILINE)
    assert re.search(r"^loss +1000 +1,000 +- +4,000$", text, re.MULTILINE)
    assert re.search(r"^an image +61,672 +60,672 +489,376$", text, re.MULTILINE)
    assert summary.run(["model=paper", COLUMNS, "trainer.precision=64-true", "--json"]) == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert (columns["ranks"], columns["parameters"]) == (2, 30_482_612)
    assert columns["crossings"][0]["forward_bytes"] == 8 * 43_264


@pytest.mark.slow
def test_a_sweep_over_one_device_and_columns(command: Callable[..., Any], tmp_path: Path) -> None:
    """Ranks inside -m, by the launcher's own group."""
    varied = [*NET, "trainer.precision=64-true", "trainer.max_epochs=1", "trainer.strategy=auto,columns"]
    ended = command(*varied, "test.run=false", "hydra.sweep.dir=sweep", "-m")
    _, err = ended.communicate(timeout=200)
    assert ended.returncode == 0, err
    from alexnet_exp.runs.reader import read_steps

    runs = [file.parent for file in (tmp_path / "sweep").glob("*/result.json")]
    assert len(runs) == 2
    one, two = ([loss for _, loss, _ in read_steps(run)] for run in runs)
    assert one
    np.testing.assert_allclose(two, one, rtol=1e-12)
