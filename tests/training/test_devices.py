"""Tests of `trainer.gpus` and related settings, on simulated machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alexnet_exp.cli import train
from alexnet_exp.config.schema import Trainer
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.processes.ranks import is_rank
from alexnet_exp.training.devices import NVML_CHECK_VARIABLE, place, select_devices, skip_nvml_check
from tests.conftest import Run

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    def has(gpus: int = 0, mps: bool = False, bf16: bool = True, cpu_bf16: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "made up")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_bf16, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)

    return has


@pytest.mark.parametrize(
    ("gpus", "there", "expected"),
    [
        (None, 0, ("cpu", 1)),
        (None, 4, ("cuda", 1)),
        (0, 4, ("cpu", 1)),
        (1, 4, ("cuda", [0])),
        (2, 4, ("cuda", [0, 1])),
        (-1, 3, ("cuda", [0, 1, 2])),
        ([0, 2], 4, ("cuda", [0, 2])),
    ],
)
def test_gpus(machine: Machine, gpus: object, there: int, expected: tuple[str, object]) -> None:
    machine(gpus=there)
    assert select_devices(Trainer(gpus=gpus))[:2] == expected


def test_default_uses_apples_gpu(machine: Machine) -> None:
    machine(mps=True)
    assert select_devices(Trainer())[:2] == ("mps", 1)


@pytest.mark.parametrize(
    ("settings", "there", "said"),
    [
        ({"gpus": 2}, 0, "trainer.gpus=2: this machine has no CUDA GPU; write trainer.gpus=0 for the CPU"),
        ({"gpus": 2}, 1, "this machine has one GPU, number 0; write trainer.gpus=1"),
        ({"gpus": [0, 4]}, 4, "this machine has GPUs 0 to 3"),
        ({"gpus": -1}, 0, "no CUDA GPU"),
        ({"accelerator": "cuda", "devices": 3}, 2, "trainer.devices=3: this machine has 2"),
        ({"accelerator": "cuda"}, 0, "trainer.accelerator=cuda: this machine has none"),
        (
            {"gpus": 0, "precision": "16-mixed"},
            1,
            "trainer.precision=16-mixed: the CPU does not train in float16; write bf16",
        ),
        (
            {"precision": "16-true"},
            0,
            "trainer.precision=16-true: the CPU does not train in float16; write bf16-mixed or",
        ),
        ({"accelerator": "cpu", "devices": 0}, 0, "trainer.devices=0: must be at least 1"),
        ({"accelerator": "cpu", "devices": [0, 1]}, 0, "trainer.devices=[0, 1]: the CPU is one device; write a number"),
    ],
)
def test_missing_devices_are_rejected(machine: Machine, settings: dict[str, object], there: int, said: str) -> None:
    machine(gpus=there)
    with pytest.raises(Refused, match=said.replace("[", r"\[").replace("]", r"\]")):
        place(Trainer(**settings))  # type: ignore[arg-type]


def test_float16_on_a_cpu_is_rejected_before_a_folder_is_created(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the CPU does not train in float16"):
        train.run(["trainer.precision=16-mixed"])
    assert not list(tmp_path.iterdir())


def test_several_devices_use_ddp(machine: Machine) -> None:
    machine(gpus=2)
    assert place(Trainer(gpus=1)).strategy == "auto"
    two = place(Trainer(gpus=2))
    assert (two.strategy, two.ranks) == ("ddp", 2)
    assert place(Trainer(gpus=2, strategy="fsdp")).strategy == "fsdp"
    assert place(Trainer(gpus=1, num_nodes=2)).strategy == "ddp"
    assert place(Trainer(accelerator="cpu", devices=2)).ranks == 2


def test_auto_precision_is_bf16_on_a_gpu_that_supports_it(machine: Machine) -> None:
    machine(gpus=1)
    assert place(Trainer()).precision == "bf16-mixed"
    assert place(Trainer(gpus=0)).precision == "32-true"
    assert place(Trainer(precision="16-mixed")).precision == "16-mixed"
    machine(gpus=1, bf16=False)
    assert place(Trainer()).precision == "32-true"


@pytest.mark.parametrize(
    ("settings", "gpus", "size", "expected"),
    [
        ({}, 1, 10**9, True),
        ({}, 1, None, None),
        ({}, 0, 10**9, None),
        ({"deterministic": True}, 1, 10**9, None),
        ({"deterministic": "warn"}, 1, 10**9, None),
        ({"benchmark": False}, 1, 10**9, False),
        ({"benchmark": True}, 1, None, True),
    ],
)
def test_cudnn_measures_its_algorithms_for_fixed_shapes(
    machine: Machine, settings: dict[str, object], gpus: int, size: int | None, expected: bool | None
) -> None:
    machine(gpus=gpus)
    assert place(Trainer(**settings), size).benchmark is expected  # type: ignore[arg-type]


def test_a_gpu_in_half_precision_gets_channels_last(machine: Machine) -> None:
    machine(gpus=1)
    assert place(Trainer(), 10**9).channels_last
    assert not place(Trainer(precision="32-true"), 10**9).channels_last
    assert not place(Trainer(channels_last=False), 10**9).channels_last
    assert not place(Trainer(), None).channels_last, "a network of the user's"


LARGE, SMALL = 700_000_000, 400_000  # multiply-adds an image


@pytest.mark.parametrize(
    ("settings", "computes", "size", "expected", "said"),
    [
        ({}, True, LARGE, ("bf16-mixed", True), "precision bf16-mixed: this CPU computes in bf16; channels_last"),
        ({}, True, SMALL, ("32-true", True), "the network is too small to gain from bf16; channels_last"),
        ({}, False, LARGE, ("32-true", True), "precision 32-true: this CPU does not compute in bf16; channels_last"),
        # a network of the user's may not take channels_last: `view` refuses it
        ({}, True, None, ("bf16-mixed", False), "precision bf16-mixed: this CPU computes in bf16"),
        ({"precision": "32-true"}, True, LARGE, ("32-true", True), "precision 32-true, as set; channels_last"),
        ({"precision": "bf16-mixed"}, False, SMALL, ("bf16-mixed", True), "bf16-mixed, as set; channels_last"),
        ({"precision": "64-true"}, True, LARGE, ("64-true", False), "precision 64-true, as set"),
        ({"channels_last": False}, True, LARGE, ("bf16-mixed", False), "this CPU computes in bf16"),
        ({"channels_last": True}, True, None, ("bf16-mixed", True), "this CPU computes in bf16; channels_last"),
        ({"strategy": "columns"}, True, LARGE, ("32-true", True), "columns on the CPU"),
    ],
)
def test_auto_precision_on_a_cpu(
    machine: Machine,
    settings: dict[str, object],
    computes: bool,
    size: int | None,
    expected: tuple[str, bool],
    said: str,
) -> None:
    machine(cpu_bf16=computes)
    found = place(Trainer(gpus=0, **settings), size)  # type: ignore[arg-type]
    assert (found.precision, found.channels_last) == expected
    assert said in found.why
    assert ("channels_last" in found.why) == found.channels_last


def test_channels_last_on_a_gpu_follows_half_precision(machine: Machine) -> None:
    machine(gpus=1)
    assert place(Trainer(), LARGE).channels_last
    assert not place(Trainer(precision="32-true"), LARGE).channels_last
    machine(mps=True)
    assert not place(Trainer(), LARGE).channels_last


def test_a_rank_is_known_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert not is_rank()
    monkeypatch.setenv("SLURM_NTASKS", "2")  # of an allocation, in which this process may be alone
    assert not is_rank()
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert is_rank()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not is_rank()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_rank()


@pytest.mark.parametrize(("precision", "rounds"), [("32-true", False), ("bf16-mixed", True)])
def test_float32_is_not_rounded_to_tf32_in_convolutions(precision, rounds, monkeypatch):
    from alexnet_exp.training.trainer import build_trainer

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    settings = Trainer(gpus=0, precision=precision, max_epochs=1)
    build_trainer(settings, place(settings), [], [])
    assert torch.backends.cudnn.allow_tf32 is rounds


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_step_on_the_cpu_does_not_search_for_nvml(
    train_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []
    monkeypatch.setattr(torch.cuda, "_raw_device_count_nvml", lambda: searches.append(1) or -1)
    monkeypatch.setenv(NVML_CHECK_VARIABLE, "1")  # as Lightning sets it
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    torch.optim.AdamW([weight]).step()
    assert searches, "torch's optimizers ask no more: skip_nvml_check can go"
    searches.clear()
    assert train_run("cpu", "optim=adamw", "trainer.max_epochs=5").code == 0
    assert len(searches) < 15, "no more than its steps"
    assert os.environ[NVML_CHECK_VARIABLE] == "1"


def test_nvml_check_stays_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NVML_CHECK_VARIABLE, "1")
    with skip_nvml_check("cuda"):
        assert os.environ[NVML_CHECK_VARIABLE] == "1"
