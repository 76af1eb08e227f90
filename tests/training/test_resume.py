"""Tests that a run which is killed and resumed is bit-identical to an uninterrupted run.

A run is trained in a forked child, which ends itself with `os._exit` at the n-th call of some function: nothing is
flushed and no handler runs, as with SIGKILL. Then the run is resumed, and its folder is compared with that of the
uninterrupted run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from alexnet_exp.__main__ import main
from alexnet_exp.config.composition import Composition
from alexnet_exp.config.schema import Interval, Unit
from alexnet_exp.errors import Refused
from alexnet_exp.runs import checksum
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import read_config, read_result, read_steps
from alexnet_exp.runs.start import ALREADY_A_RUN
from alexnet_exp.training.checkpoints import callback
from alexnet_exp.training.checkpoints.callback import Checkpoints
from alexnet_exp.training.continue_run import with_changes
from alexnet_exp.training.launch import run_ranks
from alexnet_exp.training.module import AlexNetModule
from alexnet_exp.training.train import train_rank
from benchmarks.equal_runs import differences, rows, state, unequal
from tests.conftest import TINY, Run, tree
from tests.sweep import works

KILLED = 9
TrainRun = Callable[..., Run]


@dataclass(frozen=True)
class Moment:
    """The n-th call of a function, before it does anything."""

    owner: Any
    name: str
    call: int

    def __str__(self) -> str:
        return f"{getattr(self.owner, '__name__', self.owner)}.{self.name}-{self.call}"


def begin(path: Path, *overrides: str) -> None:
    from alexnet_exp.config.compose import compose

    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(compose([*TINY, *overrides])), path / ".hydra" / "config.yaml")


def attempt(path: Path, moment: Moment | None = None) -> int:
    """Trains in a child, from the folder's resume point; returns the exit code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if moment is not None:
                _end_at(moment)
            from alexnet_exp.training.train import train

            code = train(read_config(path), path)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _end_at(moment: Moment) -> None:
    original, calls = getattr(moment.owner, moment.name), 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment.call:
            os._exit(KILLED)
        return original(*arguments, **options)

    setattr(moment.owner, moment.name, dying)


def assert_equal(one: Path, two: Path) -> None:
    """Asserts that two run folders are equal, except for times."""
    assert unequal(one, two) == []
    assert read_result(two)["status"] == "done"


# Kinds of runs: each has some state that must not be lost. 3 batches per epoch unless noted.
CASES = {
    "one cycle, dropout, crops": ("model=lrn", "data.pad=2", "data.mirror=true", "model.dropout=0.5"),
    "averaged weights, accumulation": (
        *("callbacks=ema", "trainer.accumulate_grad_batches=2", "data.batch_size=16", "optim=sgd"),
        *("schedule=cosine", "data.subset=72"),  # 5 batches: the last step has one
    ),
    "stages of groups": (
        *("model=lrn", "model.dropout=0.5", "optim=krizhevsky", "schedule=four_stages", "trainer.max_epochs=2"),
        "+schedule.layers.conv1={milestones:[1],factors:[0],biases:false}",
    ),
    "muon, whitened layer, alternating mirrors": (
        *("optim=muon", "optim.other_lr=4", "model.stages.conv1.whiten=true", "model.stages.conv1.out=16"),
        *("model.width=1", "data.mirror=true", "data.mirror_alternately=true"),
    ),
    "Keras's Adam": ("optim=adam", "optim.eps=1e-3", "optim.eps_mode=keras"),
    "plateau": ("optim=sgd", "schedule=plateau", "schedule.patience=0", "trainer.max_epochs=3"),
    "a number of steps": ("trainer.max_steps=7", "trainer.max_epochs=null"),
    "validation in mid-epoch": ("trainer.val_check_interval=2", "data.batch_size=16"),
    "early stopping": (
        *("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optim.lr=1e-9"),
        "trainer.max_epochs=4",
    ),
    "no validation": ("data.val=none", "objective=train/loss"),
    "error on training images": ("callbacks=train_error",),
}
MOMENTS = (
    Moment(AlexNetModule, "training_step", 3),
    Moment(AlexNetModule, "training_step", 5),
    Moment(AlexNetModule, "on_validation_epoch_end", 1),
    Moment(Checkpoints, "_rotate", 4),
    Moment(AlexNetModule, "test_step", 1),
)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a case that nothing comes between, trained once."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def run(case: str) -> Path:
        path = folder / case.replace(" ", "_")
        if not path.exists():
            begin(path, *CASES[case], "checkpoint.every=1 epoch")
            assert attempt(path) == 0
        return path

    return run


QUICK = {("one cycle, dropout, crops", 0), ("averaged weights, accumulation", 1), ("a number of steps", 3)}


def _cases() -> Iterator[Any]:
    for case in CASES:
        for number, moment in enumerate(MOMENTS):
            marks = [] if (case, number) in QUICK else [pytest.mark.slow]
            yield pytest.param(case, moment, id=f"{case}-{moment}", marks=marks)


@pytest.mark.parametrize(("case", "moment"), _cases())
def test_resumed_run_is_bit_identical(
    case: str, moment: Moment, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(run, *CASES[case], "checkpoint.every=1 steps")
    first = attempt(run, moment)
    assert first in (0, KILLED)  # some cases have fewer calls
    if first == KILLED:
        assert attempt(run) == 0
        assert read_result(run)["attempts"][0]["status"] == "died"
    assert_equal(undisturbed(case), run)


NEW_SETTINGS = ("schedule.biases", "schedule.layers", "data.pca_epochs", "optim.eps_mode", "data.mirror_alternately")


def test_run_without_a_new_setting_resumes_with_its_default(tmp_path: Path) -> None:
    begin(tmp_path / "run", "checkpoint.every=1 steps")
    begin(tmp_path / "new", "checkpoint.every=1 steps")
    config = read_config(tmp_path / "run")
    for key in NEW_SETTINGS:
        group, name = key.split(".")
        del config[group][name]
    OmegaConf.save(OmegaConf.create(config), tmp_path / "run" / ".hydra" / "config.yaml")
    assert attempt(tmp_path / "run", Moment(AlexNetModule, "training_step", 4)) == KILLED
    assert attempt(tmp_path / "run") == 0
    assert attempt(tmp_path / "new") == 0
    one, two = (read_steps(tmp_path / name) for name in ("run", "new"))
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "call"), [(0, 2), (1, 2), (0, 4), (1, 5), (0, 6)])
def test_resume_of_two_ranks_is_bit_identical(
    rank: int, call: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("trainer=ddp_cpu", "callbacks=ema", "trainer.accumulate_grad_batches=2", "data.batch_size=16")
    alone = tmp_path_factory.getbasetemp() / "two-ranks"
    if not alone.exists():
        begin(alone, *overrides, "checkpoint.every=1 epoch")
        assert run_ranks(train_rank, 2, "gloo", Composition.of(read_config(alone)), alone).status == "done"
    run = tmp_path / "run"
    begin(run, *overrides, "checkpoint.every=1 steps")
    monkeypatch.setenv("KILLED_AT", f"{rank} {call}")
    ending = run_ranks(works.killed_training, 2, "gloo", Composition.of(read_config(run)), run)
    assert ending.status == "failed"
    assert "SIGKILL" in ending.reason
    assert run_ranks(train_rank, 2, "gloo", Composition.of(read_config(run)), run).status == "done"
    assert_equal(alone, run)


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 4, 5])
def test_resume_with_loader_workers_is_bit_identical(
    call: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.getbasetemp()
    images, alone, run = base / "images", base / "workers", tmp_path / "run"
    if not images.exists():
        _photographs(images)
    overrides = ("data=folder", f"data.root={images}", "data.size=40", "data.crop=32", "data.decode=always")
    overrides = (*overrides, "data.workers=2", "model.input_size=32", "data.subset=null", "data.batch_size=8")
    if not alone.exists():
        begin(alone, *overrides, "checkpoint.every=1 epoch")
        assert attempt(alone) == 0
    begin(run, *overrides, "checkpoint.every=1 steps")
    assert attempt(run, Moment(AlexNetModule, "training_step", call)) == KILLED
    assert attempt(run) == 0
    assert_equal(alone, run)


def _photographs(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (48, 56, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")


# Signals to a real process: it saves behind the step, says how it ended, and ends with what a scheduler requeues on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "number", "code", "reason"),
    [
        (1, signal.SIGTERM, 75, "by SIGTERM"),
        (1, signal.SIGINT, 130, "by Ctrl-C (SIGINT)"),
        (2, signal.SIGUSR1, 75, "by SIGUSR1"),
    ],
)
def test_run_stopped_by_a_signal_loses_no_step(
    ranks: int,
    number: signal.Signals,
    code: int,
    reason: str,
    command: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    overrides = ["trainer.max_epochs=30", "callbacks=ema", "checkpoint.every=1 hour"]
    overrides += ["trainer=ddp_cpu"] if ranks == 2 else []
    alone = tmp_path_factory.getbasetemp() / f"signals-{ranks}"
    if not alone.exists():
        begin(alone, *overrides)
        assert run_ranks(train_rank, ranks, "gloo", Composition.of(read_config(alone)), alone).status == "done"
    run = tmp_path / "run"
    process = command(*overrides, f"hydra.run.dir={run}")
    wait_for(lambda: (run / "steps.csv").exists() or (run / "metrics.csv").exists())
    process.send_signal(number)
    assert process.wait(60) == code
    result = read_result(run)
    assert (result["status"], result["error"]) == ("interrupted", reason)
    stood = state(run)["global_step"]
    assert 0 < stood < 90
    assert main(["resume", str(run)]) == 0
    assert read_result(run)["attempts"][0]["status"] == "interrupted"
    assert_equal(alone, run)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# The command


def stopped(path: Path, *overrides: str, call: int = 5) -> None:
    """A run that was killed at a training step."""
    begin(path, *overrides, "checkpoint.every=1 steps")
    assert attempt(path, Moment(AlexNetModule, "training_step", call)) == KILLED


def test_resume_logs_the_resume_point(
    undisturbed: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    stopped(run, *CASES["one cycle, dropout, crops"])
    capfd.readouterr()
    assert main(["resume", str(run)]) == 0
    told = capfd.readouterr()
    assert "resuming from last.ckpt: step 4, epoch 1 done, batch 1 of the next" in told.err
    assert json.loads(told.out)["status"] == "done"
    assert_equal(undisturbed("one cycle, dropout, crops"), run)
    assert main(["resume", str(run)]) == 0
    assert "is already done; trainer.max_epochs=N trains longer" in capfd.readouterr().out


RESTART = ("schedule.restarts=[2]", "schedule.restart_from=0.5")


@pytest.mark.parametrize(
    ("schedule", "restart", "told_then"),
    [
        (["schedule=constant"], (), ()),
        (["schedule=cosine"], RESTART, ()),
        (["schedule=one_cycle"], (), RESTART),
    ],
    ids=["constant", "restart told before", "restart told then"],
)
def test_extended_run_equals_a_longer_run(
    tmp_path: Path, schedule: list[str], restart: tuple[str, ...], told_then: tuple[str, ...]
) -> None:
    """With a rate that does not hang on the length of the run, or is lifted again where the shorter one ended."""
    overrides = (*schedule, *restart, "callbacks=ema", "checkpoint.every=1 epoch")
    begin(tmp_path / "short", *overrides)
    begin(tmp_path / "long", *overrides, *told_then, "trainer.max_epochs=3")
    assert attempt(tmp_path / "short") == attempt(tmp_path / "long") == 0
    assert main(["resume", str(tmp_path / "short"), "trainer.max_epochs=3", *told_then]) == 0
    assert_equal(tmp_path / "long", tmp_path / "short")
    assert read_config(tmp_path / "short")["trainer"]["max_epochs"] == 3
    assert read_result(tmp_path / "short")["config"]["trainer.max_epochs"] == 3


@pytest.mark.parametrize(
    ("begun_with", "added", "answer"),
    [
        (
            ["schedule=cosine", "schedule.restarts=[1]", "schedule.restart_from=0.5"],
            ["schedule.restart_from=1"],
            "schedule.restart_from=1.0: would change the learning rates of the 2 epochs that have begun; start",
        ),
        (
            ["schedule=cosine", "schedule.restarts=[1]"],
            ["schedule.restarts=[]"],
            "schedule.restarts=[]: would change the learning rates of the 2 epochs that have begun; write [2],",
        ),
        (
            ["trainer.max_epochs=null", "trainer.max_steps=5"],
            ["trainer.max_steps=9", "schedule.restarts=[2]"],
            "schedule.restarts=[2]: restarts cannot be changed on resume where the length is in steps; start a new run",
        ),
    ],
    ids=["restart_from", "taken away", "steps"],
)
def test_resume_rejects_changed_learning_rates_of_past_epochs(
    begun_with: list[str], added: list[str], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path, *begun_with)
    assert attempt(tmp_path) == 0
    longer = [] if "trainer.max_steps=9" in added else ["trainer.max_epochs=3"]
    assert main(["resume", str(tmp_path), *longer, *added]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert answer in line


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("optim.lr=1", "optim.lr=1: cannot be changed on resume (was 0.002); start a new run"),
        ("optim.rate=1", "optim.rate=1: not a setting of this run"),
        ("trainer.max_epochs=2,3", "only key=value can be changed on resume"),
        ("~trainer.max_epochs", "only key=value can be changed on resume"),
        ("+trainer.x=1", "only key=value can be changed on resume"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: must be at least 1"),
        ("trainer.max_epochs=1", "trainer.max_epochs=1: the run has trained for 2 epochs; write at least 2"),
        ("trainer.max_steps=5", "trainer.max_steps=5: the run has trained for 6 steps; write at least 6"),
        (
            "schedule.restarts=[1]",
            "schedule.restarts=[1]: would change the learning rates of the 2 epochs that have begun; "
            "write [2], the run's former end",
        ),
        (
            "schedule.restarts=[50%]",
            "schedule.restarts=[50%]: would change the learning rates of the 2 epochs that have begun; "
            "write [2], the run's former end",
        ),
        ("schedule.restarts=never", "schedule.restarts=never: must be"),
        ("=", "=: cannot be read; write key=value"),
    ],
)
def test_resume_rejects_changed_settings(
    finished: Run, override: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_config(finished.path)
    assert main(["resume", str(finished.path), override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert answer in line
    assert read_config(finished.path) == before


def test_resume_rejects_changed_settings_of_a_user_schedule() -> None:
    schedule = {"_target_": "mine.Halves", "restarts": 3}
    with pytest.raises(Refused, match=r"cannot be changed on resume \(was 3\)"):
        with_changes({"schedule": schedule}, ["schedule.restarts=4"])


def test_without_a_checkpoint_training_starts_from_the_beginning(
    undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(run, *CASES["no validation"], "checkpoint.every=1 epoch")
    assert attempt(run, Moment(AlexNetModule, "training_step", 3)) == KILLED
    assert not list((run / "checkpoints").glob("*.ckpt"))
    assert attempt(run) == 0
    assert_equal(undisturbed("no validation"), run)


@pytest.mark.parametrize("harm", ["cut", "flipped", "cut and unchecked", "gone"])
def test_damaged_checkpoint_is_replaced_by_the_previous_one(
    harm: str, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stopped(run, *CASES["no validation"])
    newest = run / "checkpoints" / "last.ckpt"
    content = newest.read_bytes()
    middle = len(content) // 2
    newest.unlink()
    if harm == "flipped":
        newest.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif harm != "gone":
        newest.write_bytes(content[:middle])
    if harm == "cut and unchecked":
        checksum.checksum_file(newest).unlink()
    assert attempt(run) == 0
    log = (run / "train.log").read_text()
    assert "resuming from previous.ckpt: step 3, epoch 1 done" in log
    assert ("the previous checkpoint is used" in log) == (harm != "gone")
    assert_equal(undisturbed("no validation"), run)


def test_rows_after_the_checkpoint_are_removed(undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    """They would be of another training, where what comes is not equal to the last bit."""
    run = tmp_path / "run"
    stopped(run, *CASES["no validation"])
    for name, row in (("steps.csv", "5,0.25,1.0\n6,0.25,1.0\n"), ("metrics.csv", "2,6,1.0,0.25,1.0,,,,1,1\n")):
        with (run / name).open("a") as file:
            file.write(row)
    assert attempt(run) == 0
    assert_equal(undisturbed("no validation"), run)


def test_kill_after_a_damaged_checkpoint_keeps_the_intact_one(
    undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stopped(run, *CASES["no validation"])
    newest = run / "checkpoints" / "last.ckpt"
    newest.unlink()
    newest.write_bytes(b"cut")
    assert attempt(run, Moment(callback, "_link_checkpoint", 1)) == KILLED, "during the first save"
    assert attempt(run) == 0
    assert "no checkpoint is intact" not in (run / "train.log").read_text()
    assert_equal(undisturbed("no validation"), run)


def test_damaged_best_is_not_tested(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run, "callbacks=early_stopping")
    assert attempt(run, Moment(AlexNetModule, "test_step", 1)) == KILLED
    best = run / "checkpoints" / "best.ckpt"
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.unlink()  # it may be a second name of `last`
    best.write_bytes(content)
    assert attempt(run) == 0
    assert read_result(run)["tested"] == "last"


def test_failed_resume_keeps_the_earlier_metrics(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run)
    assert attempt(run) == 0
    before = read_result(run)["metrics"]
    assert attempt(run, Moment(AlexNetModule, "test_step", 1)) == KILLED
    assert read_result(run)["metrics"].items() >= {k: v for k, v in before.items() if "test" not in k}.items()


def test_without_an_intact_checkpoint_training_starts_over_and_logs_it(
    undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stopped(run, *CASES["no validation"])
    for file in (run / "checkpoints").glob("*.ckpt"):
        file.unlink()
        file.write_bytes(b"nothing")
    assert attempt(run) == 0
    assert "no checkpoint is intact; training starts from the beginning" in (run / "train.log").read_text()
    assert (run / "checkpoints" / "last.ckpt.damaged").read_bytes() == b"nothing"
    assert_equal(undisturbed("no validation"), run)


def test_intact_checkpoint_without_training_state_is_rejected_and_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(run, *CASES["no validation"])
    newest = run / "checkpoints" / "last.ckpt"
    content = torch.load(newest, weights_only=True)
    del content["loops"]
    newest.unlink()
    torch.save(content, newest)
    checksum.write(newest)
    before = {file.name: file.read_bytes() for file in (run / "checkpoints").iterdir()}
    steps = (run / "steps.csv").read_bytes()
    assert attempt(run) == 2
    assert {file.name: file.read_bytes() for file in (run / "checkpoints").iterdir()} == before
    assert (run / "steps.csv").read_bytes() == steps


def test_resume_rejects_changed_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images, run = tmp_path / "images", tmp_path / "run"
    _photographs(images)
    stopped(run, "data=folder", f"data.root={images}", "data.size=32", "data.subset=null", "data.batch_size=8")
    (images / "train" / "cat" / "0.jpg").unlink()
    before = tree(run)
    assert attempt(run) == 2
    assert "the data has changed since the run started" in capfd.readouterr().err
    assert tree(run) == before


def test_repeated_command_resumes_a_run_of_an_earlier_version(
    finished: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its configuration lacks a setting that is new since then: this has its default there."""
    run = shutil.copytree(finished.path, tmp_path / "run")
    words = [*TINY, f"hydra.run.dir={run}", "resume=true", f"name={read_result(run)['name']}"]
    file = run / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config["optim"].pop("eps_mode") == "torch"
    file.write_text(yaml.safe_dump(config))
    result = read_result(run)
    del result["config"]["optim.eps_mode"]
    (run / "result.json").write_text(json.dumps(result))
    before = tree(run)
    assert main(words) == 0
    assert json.loads(capfd.readouterr().out)["status"] == "done"
    assert main([*words, "optim.eps_mode=keras"]) == 2
    assert "optim.eps_mode is None there and 'keras' here" in capfd.readouterr().err
    assert tree(run) == before


def test_ranks_do_not_wait_for_a_rank_0_that_rejects_the_folder(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished.path, tmp_path / "run")
    told = f"hydra.run.dir={run}: {ALREADY_A_RUN}\n"
    for rank, said in (("0", told), ("1", "")):
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        assert main([*TINY, f"hydra.run.dir={run}"]) == 2
        assert capfd.readouterr().err == said
    assert (run / "result.json").read_bytes() == (finished.path / "result.json").read_bytes()


def test_resume_setting_resumes_a_run_in_the_folder(
    undisturbed: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [*TINY, *CASES["one cycle, dropout, crops"], "checkpoint.every=1 steps"]
    stopped(run, *CASES["one cycle, dropout, crops"])
    before = (run / "result.json").read_text()
    there = f"hydra.run.dir={run}"
    assert main([*words, there]) == 2
    assert "the folder already contains a run; add resume=true to resume it" in capfd.readouterr().err
    assert main([*words, there, "resume=true", "optim.lr=1"]) == 2
    assert (
        "the folder contains a run of another experiment: optim.lr is 0.002 there and 1.0 here"
        in capfd.readouterr().err
    )
    assert (run / "result.json").read_text() == before
    assert main([*words, there, "resume=true"]) == 0
    assert_equal(undisturbed("one cycle, dropout, crops"), run)
    capfd.readouterr()
    assert main([*words, there, "resume=true"]) == 0, "it is done: nothing is left to do"
    assert json.loads(capfd.readouterr().out)["status"] == "done"


def test_running_run_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    stopped(run, *CASES["no validation"])
    with RunFolder(run).lock():
        assert main(["resume", str(run)]) == 2
    assert f"{run} is in use by process {os.getpid()} on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500 steps", Interval(500, Unit.steps)),
        ("1 step", Interval(1, Unit.steps)),
        ("10 minutes", Interval(600, Unit.seconds)),
        ("2 hours", Interval(7200, Unit.seconds)),
        ("1 epoch", Interval(1, Unit.epochs)),
        ("0 steps", None),
        ("-1 epochs", None),
        ("1.5 hours", None),
        ("epoch", None),
        ("10", None),
        ("", None),
    ],
)
def test_intervals(text: str, interval: Interval | None) -> None:
    assert Interval.read(text) == interval


def test_epoch_interval_skips_epochs_without_improvement(tmp_path: Path) -> None:
    begin(tmp_path, "data.val=none", "objective=train/loss", "trainer.max_epochs=5", "checkpoint.every=2 epochs")
    assert attempt(tmp_path, Moment(AlexNetModule, "test_step", 1)) == KILLED
    steps = [state(tmp_path, name)["global_step"] for name in ("previous", "last")]
    assert steps == [4 * 3, 5 * 3], "the last epoch's is saved whatever the interval is"


def test_run_ended_by_max_time_is_extended_by_a_longer_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    begin(run, "trainer.max_time='00:00:00:01'", "trainer.max_epochs=100000", "schedule=constant", "test.run=false")
    assert attempt(run) == 0
    first = read_result(run)
    assert (first["status"], first["stopped_early"]) == ("done", "trainer.max_time is over")
    assert f"stopped early, after epoch {first['epochs']}: trainer.max_time is over" in (run / "train.log").read_text()

    assert main(["resume", str(run)]) == 0
    assert "trainer.max_time is over; a larger trainer.max_time=DD:HH:MM:SS" in capsys.readouterr().out
    before = (run / ".hydra" / "config.yaml").read_text()
    assert main(["resume", str(run), "trainer.max_epochs=200000"]) == 2
    said = capsys.readouterr().err
    assert "trainer.max_time=00:00:00:01: the run has trained for 1 seconds; write a longer time" in said
    assert (run / ".hydra" / "config.yaml").read_text() == before

    assert main(["resume", str(run), "trainer.max_time='00:00:00:02'"]) == 0
    second = read_result(run)
    assert second["epochs"] > first["epochs"]
    assert second["stopped_early"] == "trainer.max_time is over"
    assert main(["resume", str(run), "trainer.max_time=null", f"trainer.max_epochs={second['epochs'] + 1}"]) == 0
    third = read_result(run)
    assert third["epochs"] == second["epochs"] + 1
    assert "stopped_early" not in third


def test_resume_rejects_changed_early_stopping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    stopping = (
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=1",
    )
    begin(run, *stopping, "trainer.max_epochs=9", "schedule=constant", "test.run=false")
    assert attempt(run) == 0
    assert read_result(run)["epochs"] == 2
    assert main(["resume", str(run)]) == 0
    assert "for a larger patience, start a new run" in capsys.readouterr().out
    assert main(["resume", str(run), "callbacks.early_stopping.patience=5"]) == 2
    assert "cannot be changed on resume (was 1)" in capsys.readouterr().err


# Classes of the user's, which do not know where in an epoch they stand

OWN = """
import pytorch_lightning as pl, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Data(pl.LightningDataModule):
    def __init__(self, seed=1):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (96, 1, 32, 32), dtype=torch.uint8, generator=generator)
        self.all = TensorDataset(images, torch.arange(96) % 10)
    def train_dataloader(self):
        return DataLoader(self.all, batch_size=32, shuffle=True)
    def val_dataloader(self):
        return DataLoader(self.all, batch_size=32)
    test_dataloader = val_dataloader

class Module(pl.LightningModule):
    def __init__(self, network, seed=1):
        super().__init__()
        self.network = network
    def training_step(self, batch, index):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(nn.functional.dropout(images.float() / 255, 0.3)), labels)
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss
    def validation_step(self, batch, index):
        images, labels = batch
        logits = self.network(images.float() / 255)
        self.log("val/loss", nn.functional.cross_entropy(logits, labels))
        self.log("val/top1", (logits.argmax(1) == labels).float().mean())
    def test_step(self, batch, index):
        self.log("test/top1", (self.network(batch[0].float() / 255).argmax(1) == batch[1]).float().mean())
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)
"""


def test_user_classes_resume_from_the_end_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "resumed_by_us.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "resumed_by_us")
    from alexnet_exp.config.compose import compose

    container = compose([*TINY[3:], "model.width=0.05", "trainer.max_epochs=3", "checkpoint.every=1 steps"])
    container["data"] = {"_target_": "resumed_by_us.Data"}
    container["module"] = {"_target_": "resumed_by_us.Module"}
    container["model"] |= {"num_classes": 10, "in_channels": 1, "input_size": 32}
    runs = [tmp_path / "alone", tmp_path / "cut"]
    for run in runs:
        (run / ".hydra").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(container), run / ".hydra" / "config.yaml")
    assert attempt(runs[0]) == 0
    assert attempt(runs[1], Moment(callback, "_refuse_not_finite", 2)) == KILLED, "behind the second epoch, unsaved"
    assert state(runs[1])["global_step"] == 3, "in mid-epoch nothing was saved"
    assert attempt(runs[1]) == 0
    for name in ("metrics.csv", "steps.csv"):
        assert rows(runs[0] / name) == rows(runs[1] / name)
    assert differences(state(runs[0])["state_dict"], state(runs[1])["state_dict"]) == []
    assert read_result(runs[0])["metrics"] == read_result(runs[1])["metrics"]
