"""`bench` as a user types it: what it tells, that it leaves nothing behind, what bad input gets. No time is judged."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from alexnet_exp.__main__ import main
from alexnet_exp.bench import run as bench_run
from alexnet_exp.bench.run import MODULE_KINDS
from alexnet_exp.bench.steps import BenchPlan, Step, usual
from alexnet_exp.kernels.native import native

TINY = "data.batch_size=16 model.width=0.05 trainer=cpu --steps 3"

Bench = Callable[[str], dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an empty home; the ceiling is 100 GFLOP/s."""
    native()  # found before the home is empty, where they would be compiled anew
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(bench_run, "measure_peak", lambda *_: 100.0)
    return work


@pytest.fixture
def bench(folder: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """What `bench --json LINE` prints, read back; nothing else is on stdout."""

    def typed(line: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["bench", "--json", *shlex.split(line)]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return typed


def test_the_result_of_a_measurement(bench: Bench, folder: Path, tmp_path: Path) -> None:
    found = bench(f"{TINY} optim=sgd")
    assert (found["model"], found["data"], found["optim"]) == ("bn", "digits", "sgd")
    assert (found["batch_size"], found["images_per_step"], found["steps"]) == (16, 16, 3)
    assert found["images_per_s"] == pytest.approx(16 / found["step_ms"]["median"] * 1000)
    assert found["step_ms"]["q1"] <= found["step_ms"]["median"] <= found["step_ms"]["q3"]
    assert found["flop_per_step"] == 16 * found["flop_per_image"]
    assert found["gflops"] == pytest.approx(found["flop_per_image"] * found["images_per_s"] / 1e9)
    assert found["mfu"] == pytest.approx(found["gflops"] / 100)
    assert found["warm_up"]["steps"] >= 3
    assert found["peak_memory_bytes"] > 0
    assert found["bound"]
    assert not found["data_note"]
    parts = {part["name"]: part for part in found["parts"]}
    assert [*parts] == ["forward", "backward", "optimizer", "data wait", "augmentation", "framework"]
    assert found["data_wait"] == parts["data wait"]["share"]
    assert [*folder.iterdir()] == [*tmp_path.glob("cache/*")] == []


def test_layers_have_the_networks_names_and_shares_sum_to_about_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_EXP_NATIVE", "0")  # each module by itself
    found = bench(TINY.replace("--steps 3", "--steps 8"))
    from alexnet_exp.config.compose import compose_run
    from alexnet_exp.training.build import build

    network = build(compose_run(TINY.split()[:2]).config).network
    leaves = [name for name, module in network.named_modules() if not list(module.children())]
    assert [row["name"] for row in found["layers"]] == leaves
    kinds = {row["name"]: row["kind"] for row in found["layers"]}
    assert (kinds["conv1.conv"], kinds["conv1.norm"], kinds["conv1.act"]) == ("conv", "bn", "relu")
    rows = {row["name"]: row for row in found["layers"]}
    assert rows["conv2.conv"]["forward_ms"] > 0
    assert rows["conv2.conv"]["backward_ms"] > 0
    assert sum(row["gflop"] or 0 for row in found["layers"]) == pytest.approx(found["flop_per_step"] / 1e9)
    both = rows["conv2.conv"]["forward_ms"] + rows["conv2.conv"]["backward_ms"]
    assert rows["conv2.conv"]["gflops"] == pytest.approx(rows["conv2.conv"]["gflop"] / both * 1000)
    shares = sum(row["share"] for row in [*found["layers"], *found["outside_layers"]])
    assert shares == pytest.approx(1, abs=0.02)
    assert sum(part["share"] for part in found["parts"]) == pytest.approx(1, abs=0.02)


def test_without_layers_and_several_batch_sizes(bench: Bench) -> None:
    assert bench(f"{TINY} --no-layers")["layers"] == []
    found = bench(f"{TINY} --batch 64,8,8")
    assert [each["batch_size"] for each in found["batches"]] == [8, 64]
    assert [each["flop_per_step"] for each in found["batches"]] == [
        each["images_per_step"] * found["batches"][0]["flop_per_image"] for each in found["batches"]
    ]
    assert all(each["mfu"] and not each["layers"] for each in found["batches"])


def test_candidates_of_each_layer_at_the_batch_of_the_run(bench: Bench) -> None:
    found = bench(f"{TINY} --candidates")
    layers = {row["layer"] for row in found["candidates"]}
    assert {"(images)", "conv2.conv", "conv2.norm+act+pool"} <= layers
    assert all("torch" in row["ms"] for row in found["candidates"])


def test_a_batch_larger_than_the_data_repeats_images(bench: Bench) -> None:
    found = bench("data.batch_size=150 model.width=0.05 trainer=cpu data.subset=96 --steps 3 --no-layers")
    assert (found["images_per_step"], found["steps"]) == (150, 3)


def test_a_step_is_all_the_batches_of_an_optimizer_step(bench: Bench) -> None:
    found = bench(f"{TINY} trainer.accumulate_grad_batches=3 callbacks=[ema,early_stopping]")
    assert (found["batch_size"], found["images_per_step"]) == (16, 48)
    assert found["left_out"] == ["early_stopping"]


@pytest.mark.parametrize(
    ("overrides", "size", "classes"),
    [
        ("data=cifar10", 32, 10),
        ("data=cifar100 schedule=plateau data.pca=fit", 32, 100),
        ("data=imagenet model=paper data.crop=64 data.size=72 model.input_size=64", 72, 1000),
    ],
)
def test_missing_data_is_replaced_and_reported(
    overrides: str, size: int, classes: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any) -> None:
        raise AssertionError("bench must not download")

    monkeypatch.setattr("alexnet_exp.data.cifar.download", download)
    built: list[Any] = []
    build = bench_run.build

    def noted(config: Any) -> Any:
        built.append(build(config))
        return built[-1]

    monkeypatch.setattr(bench_run, "build", noted)
    found = bench(f"{overrides} {TINY} --no-layers")
    name = overrides.split()[0].removeprefix("data=")
    assert found["data_note"].startswith(f"data={name} is not on this machine; random images of {size}x{size}")
    assert ("decoding is not measured" in found["data_note"]) == (name == "imagenet")
    (experiment,) = built
    assert experiment.data.source.train.shape == (3, size, size)
    assert len(experiment.card["classes"]) == classes


def test_on_a_terminal_a_report_and_elsewhere_json_after_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *TINY.split()]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["model"] == "bn"
    report = "\n".join(text)
    for word in ("images/s", "quartiles", "data wait", "MFU", "peak", "conv1.conv", "loss and metrics", "Bottleneck: "):
        assert word in report
    assert max(map(len, text)) <= 200


def test_a_report_on_a_terminal_has_no_json(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["bench", *TINY.split(), "--batch", "8,16"]) == 0
    out = capsys.readouterr().out
    assert "images/s" in out
    assert "{" not in out


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (
            "--candidates --batch 8,16",
            "bench: --candidates: measures one batch size; write data.batch_size=N in place of ",
        ),
        ("--steps 0", "bench: argument --steps: '0' must be an integer of at least 1; "),
        ("--batch 32,x", "bench: argument --batch: 'x' must be an integer of at least 1; "),
        ("modle=lrn", "modle=lrn: unknown setting; did you mean model?"),
        (
            "data=folder",
            "data.root=null: must be a folder of images arranged as train/CLASS/* or CLASS/*; write data.root=",
        ),
        ("model=paper", "model.num_classes=1000: the data has 10 classes; "),
        ("trainer.num_nodes=2", "trainer.num_nodes=2: bench runs on one machine; write 1"),
    ],
)
def test_bad_input_gets_one_line(line: str, answer: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *line.split()]) == 2
    out, complaints = capsys.readouterr()
    assert not out
    assert complaints.startswith(answer)
    assert len(complaints.splitlines()) == 1
    assert [*folder.iterdir()] == []


class Own(nn.Module):
    """A network that is no chain of stages."""

    def __init__(self, num_classes: int, in_channels: int, input_size: int = 32):
        super().__init__()
        self.maps, self.norm, self.out = nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.norm(self.maps(images)).mean((2, 3)))
        return logits


class OwnData(LightningDataModule):
    """Two batches of 8 and one of 4 an epoch."""

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        images = torch.zeros(20, 1, 9, 9, dtype=torch.uint8)
        return DataLoader(TensorDataset(images, torch.arange(20) % 3), batch_size=8)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", __name__.partition(".")[0])
    conf = tmp_path / "conf"
    for group, text in (
        ("model", f"_target_: {__name__}.Own\nnum_classes: 3\nin_channels: 1\n"),
        ("data", f"_target_: {__name__}.OwnData\n"),
    ):
        (conf / group).mkdir(parents=True)
        (conf / group / "own.yaml").write_text(text)
    return f"--config-dir {conf} model=own"


def test_a_network_of_the_users_is_counted_by_torch(own: str, bench: Bench) -> None:
    found = bench(f"{own} model.num_classes=10 data.batch_size=16 trainer=cpu --steps 3")
    conv, last = 2 * 30 * 30 * 4 * 9, 2 * 4 * 10
    assert found["flop_per_image"] == 2 * conv + 3 * last
    assert [(row["name"], row["kind"]) for row in found["layers"]] == [("maps", "conv"), ("norm", "bn"), ("out", "fc")]
    assert {"conv", "bn", "fc"} <= {*MODULE_KINDS.values()}


def test_data_of_the_users_keeps_its_batches(own: str, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{own} data=own trainer=cpu test.run=false --steps 9 --no-layers"
    found = bench(line)
    assert (found["batch_size"], found["images_per_step"]) == (None, 8)
    assert main(["bench", *line.split(), "--batch", "8"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("bench: --batch: your own data module sets the batch size; ")
    )


@pytest.mark.slow
def test_two_processes(folder: Path, tmp_path: Path) -> None:
    """As a user starts them, so with a ceiling that is really measured."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    command = [
        sys.executable,
        "-m",
        "alexnet_exp",
        "bench",
        "--json",
        "--no-layers",
        *TINY.replace("=cpu", "=ddp_cpu").split(),
    ]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert (found["ranks"], found["threads"], found["images_per_step"]) == (2, 1, 16)
    assert found["mfu"] == pytest.approx(found["gflops"] / found["ceiling_gflops"])
    assert [*folder.iterdir()] == [*scratch.glob("alexnet_exp-bench-*")] == []


@pytest.mark.slow
def test_ctrl_c(folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "alexnet_exp", "bench", *TINY.split()[:-2], "--steps", "100000"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "images of" not in process.stderr.readline():  # the data is open: soon it trains
        pass
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, complaints = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert complaints.splitlines()[-1] == "interrupted"
    assert [*folder.iterdir()] == []


# --- how long it takes, and which steps count


def test_few_long_steps_and_many_short_ones_fit_into_the_time() -> None:
    assert BenchPlan.of(3.5, None, True, 1.0) == BenchPlan(warm=1, counted=3, layered=3)
    assert BenchPlan.of(0.1, None, True, 1.0) == BenchPlan(warm=8, counted=80, layered=41)
    assert BenchPlan.of(1e-9, None, False, 1.0) == BenchPlan(warm=8, counted=1000, layered=0)
    assert BenchPlan.of(0.1, None, False, 0.25).counted == 20
    assert BenchPlan.of(3.5, 7, False, 1.0).counted == 7


def test_the_first_step_of_an_epoch_and_an_odd_batch_do_not_count() -> None:
    steps = [Step(1.0 + i, {}, images, first) for i, (images, first) in enumerate([(8, True), (8, False), (4, False)])]
    assert usual(steps) == [steps[1]]
    assert usual(steps[:1]) == steps[:1]
    assert usual([]) == []
