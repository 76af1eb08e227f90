"""Which kernels a run gets: those that it began with, else what is fastest here; and what its files and log say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_exp.config.composition import Composition
from alexnet_exp.errors import UserError
from alexnet_exp.kernels import calibration, choice
from alexnet_exp.kernels.choice import ANY, Candidate, Choice, Operator, Shape
from alexnet_exp.runs.reader import read_config
from alexnet_exp.training import kernel_choice
from alexnet_exp.training.devices import Placement
from alexnet_exp.training.kernel_choice import choose_kernels
from alexnet_exp.training.train import train_rank
from tests.conftest import Run

TrainRun = Callable[..., Run]
PACKED = Choice("float32", "measured", {each: {ANY: Candidate.PACKED} for each in Operator})


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ALEXNET_EXP_NATIVE", raising=False)
    monkeypatch.setattr(choice, "_active", {})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions that were measured; nothing is really measured."""
    asked: list[str] = []

    def stub(dtype: str) -> Choice:
        asked.append(dtype)
        return Choice(dtype, "measured", {each: {ANY: Candidate.TORCH} for each in Operator})

    monkeypatch.setattr(kernel_choice, "calibrated", stub)
    return asked


def placed(accelerator: str = "cpu", precision: str = "32-true", channels_last: bool = True) -> Placement:
    return Placement(accelerator, 1, "auto", precision, channels_last, "a processor", "")


def test_a_new_run_is_measured(measured: list[str]) -> None:
    found = choose_kernels(placed(), compiled=False)
    assert measured == ["float32"]
    assert str(found).startswith("kernels (measured")
    assert found.choice == choice.active("float32").to_json()


@pytest.mark.parametrize(
    ("given", "compiled", "why"),
    [
        (placed(channels_last=False), False, "others need trainer.channels_last=true"),
        (placed(precision="bf16-true"), False, "others need trainer.precision=32-true or bf16-mixed"),
        (placed(), True, "others need trainer.compile=false"),
    ],
)
def test_without_stages_in_kernels_nothing_is_measured(
    given: Placement, compiled: bool, why: str, measured: list[str]
) -> None:
    found = choose_kernels(given, compiled)
    assert measured == []
    assert why in str(found)
    assert found.name.startswith("LRN ")


def test_a_gpu_has_no_choice(measured: list[str]) -> None:
    found = choose_kernels(placed("cuda", "bf16-mixed"), compiled=False)
    assert found.record() == {"kernels": "images native", "kernel_choice": None}
    assert measured == []


def test_a_checkpoint_of_a_gpu_resumes_on_a_cpu_with_the_measured_choice(
    measured: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of this version and of version 0.1."""
    for began in ({"kernels": "images native", "kernel_choice": None}, {"kernels": "images"}):
        choose_kernels(placed(), compiled=False, began=began)
    assert (measured, caplog.text) == (["float32"] * 2, "")


def test_the_images_of_a_bfloat16_run_follow_its_choice() -> None:
    assert choice.of_run().candidate(Operator.IMAGES) == Candidate.NATIVE  # nothing is chosen yet
    choice.use(choice.forced("native", "float32"))
    choice.use(choice.forced("torch", "bfloat16"))
    assert choice.of_run().candidate(Operator.IMAGES) == Candidate.TORCH


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_an_invalid_variable_is_rejected(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_EXP_NATIVE", "2")
    with pytest.raises(UserError, match=r"^ALEXNET_EXP_NATIVE=2: write 0 "):
        choose_kernels(placed(accelerator), compiled=False)


def test_a_resumed_run_keeps_its_choice(measured: list[str], caplog: pytest.LogCaptureFixture) -> None:
    began = {"kernels": str(PACKED), "kernel_choice": PACKED.to_json()}
    found = choose_kernels(placed(), compiled=False, began=began)
    assert (measured, found.record(), caplog.text) == ([], began, "")
    assert choice.active("float32").candidate(Operator.FORWARD, Shape(3, 96, 32, 5)) == Candidate.PACKED


def test_kernels_that_are_missing_are_reported(
    measured: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_choice, "library", lambda: None)
    natives = choice.forced("native", "float32")
    began = {"kernels": str(natives), "kernel_choice": natives.to_json()}
    found = choose_kernels(placed(), compiled=False, began=began)
    assert found.name == "torch only"
    assert "kernels: native only when the checkpoint was saved, torch only now" in caplog.text


def test_the_environment_is_obeyed_and_the_difference_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_EXP_NATIVE", "0")
    found = choose_kernels(placed(), compiled=False, began={"kernel_choice": PACKED.to_json()})
    assert found.name == "torch only"
    assert "kernels: packed only when the checkpoint was saved, torch only now" in caplog.text


@pytest.mark.parametrize("damaged", [3, {"dtype": "float32", "lrn": 3}, {}])
def test_a_damaged_choice_is_measured_anew(damaged: Any, measured: list[str], caplog: pytest.LogCaptureFixture) -> None:
    choose_kernels(placed(), compiled=False, began={"kernel_choice": damaged})
    assert measured == ["float32"]
    assert "kernel_choice is ignored" in caplog.text


@pytest.mark.parametrize(
    ("name", "forward", "lrn"),
    [
        ("LRN, images", Candidate.TORCH, Candidate.NATIVE),
        ("step, LRN, images", Candidate.NATIVE, Candidate.NATIVE),
        ("none: no C compiler (cc) on this machine", Candidate.TORCH, Candidate.TORCH),
    ],
)
def test_checkpoints_of_version_0_1_keep_their_kernels(
    name: str, forward: Candidate, lrn: Candidate, measured: list[str]
) -> None:
    choose_kernels(placed(), compiled=False, began={"kernels": name})
    assert measured == []
    found = choice.active("float32")
    assert (found.candidate(Operator.FORWARD), found.candidate(Operator.LRN)) == (forward, lrn)


def test_the_choice_is_recorded_and_resumed(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_measured", lambda dtype: {"choice": PACKED.to_json()})
    run = train_run("run", "test.run=false", "trainer.max_epochs=1")
    assert (run.result["kernels"], run.result["kernel_choice"]) == ("packed only", PACKED.to_json())
    assert run.checkpoint("last")["alexnet_exp_standing"]["kernel_choice"] == PACKED.to_json()
    assert "kernels (measured): packed only" in run.log

    monkeypatch.setattr(choice, "_active", {})
    choice.file("float32").write_text(json.dumps({"choice": choice.forced("torch", "float32").to_json()}))
    container = read_config(run.path)
    container["trainer"]["max_epochs"] = 2
    assert train_rank(Composition.of(container), run.path).status == "done"
    assert run.result["kernels"] == "packed only"
    assert "kernels (as the run began): packed only" in run.log
    assert "when the checkpoint was saved" not in run.log


def test_other_threads_and_kernels_are_reported(train_run: TrainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_measured", lambda dtype: {"choice": PACKED.to_json()})
    run = train_run("run", "test.run=false", "trainer.max_epochs=1")
    container = read_config(run.path)
    container["trainer"]["max_epochs"] = 2
    monkeypatch.setenv("ALEXNET_EXP_NATIVE", "0")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert train_rank(Composition.of(container), run.path).status == "done"
    assert (run.result["kernels"], run.result["threads"]) == ("torch only", 3)
    assert "kernels: packed only when the checkpoint was saved, torch only now: the same experiment" in run.log
    assert "threads: 1 when the checkpoint was saved, 3 now: the same experiment, but sums" in run.log
