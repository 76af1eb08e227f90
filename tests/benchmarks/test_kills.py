"""The comparison of a killed run with an undisturbed one, by folders made by hand: whatever is planted is found."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_exp.runs import checksum
from benchmarks import kills
from benchmarks.equal_runs import Difference, Rows, bits, compared, differences, state, unequal
from benchmarks.kills import Kill, Outcome, Undisturbed, judge, next_victim, phase, torn, totals
from benchmarks.processes import MARK, Command
from benchmarks.processes import kill as kill_process

METRICS = "epoch,step,train/loss,seconds,images_per_s\n1,2,0.5,1.25,100.0\n2,4,0.25,1.5,90.0\n"
STEPS = "step,train/loss,lr\n1,0.75,0.1\n2,0.5,0.1\n3,0.375,0.1\n4,0.25,0.1\n"
PEACEFUL = Kill("parent", "1.00 s after it began to train", "training", True, 0, [])


def checkpoint() -> dict[str, Any]:
    return {
        "state_dict": {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(4)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3, dtype=torch.bfloat16)}}}],
        "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 2}}}},
        "callbacks": {"Ema": {"average": torch.zeros(3)}, "Recorder": {"seconds": 1.5, "images": (64, 128)}},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder."""
    path = tmp_path / "run"
    for name in (".hydra", "checkpoints", "predictions"):
        (path / name).mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text("seed: 1\n")
    (path / "metrics.csv").write_text(METRICS)
    (path / "steps.csv").write_text(STEPS)
    (path / "result.json").write_text(json.dumps({"format": 1, "status": "done", "metrics": {"val/top1": 0.5}}))
    save(path, checkpoint())
    np.savez(path / "predictions" / "test.npz", labels=np.arange(3), probabilities=np.ones((3, 2), np.float32))
    return path


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """A copy, for the run that was killed."""
    return Path(shutil.copytree(run, tmp_path / "other"))


def save(run: Path, content: dict[str, Any]) -> None:
    file = run / "checkpoints" / "last.ckpt"
    torch.save(content, file)
    checksum.write(file)


def test_equal_runs_may_differ_in_their_times_alone(run: Path, other: Path) -> None:
    (other / "metrics.csv").write_text(METRICS.replace("1.25", "9.0").replace("90.0", "3.0"))
    content = checkpoint()
    content["callbacks"]["Recorder"]["seconds"] = 99.0
    save(other, content)
    assert unequal(run, other) == []


def flipped(tensor: torch.Tensor) -> None:
    """Flips the last bit of the first value, in place."""
    tensor.flatten().view(torch.uint8)[0] ^= 1


@pytest.mark.parametrize(
    "place",
    [("state_dict", "weight"), ("optimizer_states", 0, "state", 0, "exp_avg"), ("callbacks", "Ema", "average")],
)
def test_a_single_bit_of_a_checkpoint_is_found(place: tuple[Any, ...], run: Path, other: Path) -> None:
    content = checkpoint()
    flipped(reduce(getitem, place, content))
    save(other, content)
    assert unequal(run, other) == [Difference(".".join(map(str, ("last", *place))), 1)]


def test_a_counter_a_result_and_a_prediction_are_found(run: Path, other: Path) -> None:
    content = checkpoint()
    content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = 3
    save(other, content)
    (other / "result.json").write_text(json.dumps({"format": 1, "status": "done", "metrics": {"val/top1": 0.25}}))
    np.savez(other / "predictions" / "test.npz", labels=np.arange(3), probabilities=np.zeros((3, 2), np.float32))
    counter, result, prediction = unequal(run, other)
    assert str(counter) == "last.loops.fit_loop.epoch_progress.current.processed: 2 and 3"
    assert str(result) == "result.json: metrics: {'val/top1': 0.5} and {'val/top1': 0.25}"
    # 1.0 is 0x3F800000, which has seven ones
    assert prediction == Difference("predictions.test.probabilities", 6 * 7)


def test_what_is_missing_is_found(run: Path, other: Path) -> None:
    (other / "checkpoints" / "last.ckpt").unlink()
    (other / "predictions" / "test.npz").unlink()
    (other / "metrics.csv").unlink()
    rows, missing, predictions = map(str, unequal(run, other))
    assert rows == "metrics.csv: Rows(expected=2, lost=2, repeated=0, changed=0)"
    assert missing == "last.ckpt is not in both"
    assert predictions == "predictions: ['test.labels', 'test.probabilities']"


def test_nan_is_equal_to_itself_and_zero_not_to_minus_zero() -> None:
    assert differences(torch.tensor(float("nan")), torch.tensor(float("nan"))) == []
    assert differences(torch.tensor(0.0), torch.tensor(-0.0)) == [Difference("", 1)]
    assert len(differences(torch.zeros(2), torch.zeros(2, dtype=torch.float64))) == 1
    assert len(differences(torch.zeros(2), torch.zeros(3))) == 1
    assert len(differences([1, 2], [1])) == 1


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (STEPS, Rows(4, 0, 0, 0)),
        (STEPS.replace("3,0.375,0.1\n", ""), Rows(4, 1, 0, 0)),
        (STEPS + "4,0.25,0.1\n", Rows(4, 0, 1, 0)),
        (STEPS + "5,0.2,0.1\n", Rows(4, 0, 1, 0)),
        (STEPS.replace("0.375", "0.3750000001"), Rows(4, 0, 0, 1)),
        (STEPS[:-3], Rows(4, 1, 0, 0)),  # a line that was cut off is none
    ],
)
def test_rows_are_counted_by_their_first_column(text: str, rows: Rows, run: Path, other: Path) -> None:
    (other / "steps.csv").write_text(text)
    assert compared(run / "steps.csv", other / "steps.csv") == rows


def test_the_bits_that_are_compared_are_those_of_tensors_and_arrays() -> None:
    assert bits({"a": [torch.zeros(3), torch.zeros(2, dtype=torch.bool)], "b": (np.zeros(4, np.int64), 7)}) == 8 * 46


@pytest.mark.parametrize("harm", ["cut result", "cut config", "cut checkpoint", "flipped", "unchecked", "cut arrays"])
def test_torn_files_are_found(harm: str, run: Path) -> None:
    assert torn(run) == []
    name = {"cut result": "result.json", "cut config": ".hydra/config.yaml", "cut arrays": "predictions/test.npz"}
    file = run / name.get(harm, "checkpoints/last.ckpt")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    if harm == "flipped":
        content[middle] ^= 1
    file.write_bytes(content if harm == "flipped" else content[:middle])
    if harm == "unchecked":
        checksum.checksum_file(file).unlink()
    (found,) = torn(run)
    assert found.startswith(name.get(harm, "checkpoints/last.ckpt"))


def test_unfinished_files_and_a_last_line_that_was_cut_are_not_torn(run: Path) -> None:
    (run / "steps.csv").write_text(STEPS[:-3])
    (run / "checkpoints" / "next.ckpt").write_bytes(b"part")
    (run / "checkpoints" / ".next.ckpt.7.tmp").write_bytes(b"part")
    assert torn(run) == []
    (run / "steps.csv").write_text(STEPS.replace("2,0.5,0.1", "2,0.5"))
    assert len(torn(run)) == 1


def test_what_a_run_was_doing_is_told_by_its_folder(run: Path, other: Path) -> None:
    alone = Undisturbed(run, 1.0, 1.0, 4)
    assert phase(other, False, alone) == "starting"
    assert phase(other, True, alone) == "testing"
    (other / "metrics.csv").write_text(METRICS[: METRICS.index("2,4")])
    assert phase(other, True, alone) == "training"
    (other / "checkpoints" / ".last.ckpt.partial").touch()
    assert phase(other, True, alone) == "saving"


def test_a_run_is_good_where_nothing_is_lost_left_or_torn(run: Path, other: Path) -> None:
    good = Outcome("one process", "1 steps", kills=[PEACEFUL], resumes=1)
    judge(good, run, other)
    assert good.is_good
    assert totals([good])["bits compared"] == bits(state(run)) + 8 * (3 * 8 + 6 * 4)
    assert totals([good])["steps.csv: expected"] == 4
    assert not replace(good, kills=[replace(PEACEFUL, orphans=1)]).is_good
    assert not replace(good, kills=[replace(PEACEFUL, torn=["result.json"])]).is_good
    assert not replace(good, failures=["exit code 1"]).is_good
    (other / ".result.json.77.tmp").touch()
    judge(good, run, other)
    assert good.left_over == [".result.json.77.tmp"]
    assert not good.is_good


def test_the_report_counts_what_differs(run: Path, other: Path) -> None:
    content = checkpoint()
    flipped(content["state_dict"]["weight"])
    save(other, content)
    (other / "steps.csv").write_text(STEPS.replace("3,0.375,0.1\n", ""))
    bad = Outcome("one process", "5 steps", kills=[PEACEFUL, replace(PEACEFUL, orphans=2)], resumes=2)
    judge(bad, run, other)
    found = totals([bad, Outcome("two ranks", "1 steps", failures=["hangs"])])
    assert (found["runs"], found["kills"], found["orphans"], found["commands that failed"]) == (2, 2, 2, 1)
    assert (found["bits that differ"], found["differences"], found["steps.csv: lost"]) == (1, 2, 1)
    *_, every = kills.table([bad]).splitlines()
    assert [cell.strip() for cell in every.strip("|").split("|")][5:8] == ["1", "4", "1"]


def test_a_rank_is_killed_as_often_as_the_others_and_never_where_there_is_none() -> None:
    waiting: list[str] = []
    chance = random.Random(1)
    made = [next_victim(waiting, ("all", "parent", "rank"), number % 2 == 1, chance) for number in range(60)]
    assert {victim: made.count(victim) for victim in made} == {"all": 20, "parent": 20, "rank": 20}
    assert "rank" not in made[::2]
    assert next_victim(["rank"], ("all", "parent", "rank"), False, chance) == "parent"


def test_every_process_of_a_command_is_found_whoever_its_parent_is() -> None:
    mark = f"test-{os.getpid()}"
    process = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60; true"], env=os.environ | {MARK: mark})
    command = Command(process, mark, time.monotonic())
    try:
        while len(command.processes()) < 3:
            time.sleep(0.01)
        kill_process(process.pid)
        assert process.wait() == -9
        assert len(command.left(0.1)) == 2, "they have another parent now"
    finally:
        command.kill()
    assert command.left(5) == []
