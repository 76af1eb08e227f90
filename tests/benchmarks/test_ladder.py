"""The ladder's table and picture, from kept runs."""

import json
from pathlib import Path

import pytest

from benchmarks import ladder


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of rungs 1, 2 and 6, and the tutorial's two seeds, in a folder of their own."""
    monkeypatch.setattr(ladder, "KEPT", tmp_path / "ladder")
    monkeypatch.setattr(ladder, "TUTORIAL", tmp_path)
    for seed, last in ((1, 0.5), (2, 0.6)):
        (tmp_path / f"seed{seed}.csv").write_text(f"epoch,val/top1\n1,0.1\n2,{last}\n")
    for number, top1 in ((1, 0.1), (2, 0.7), (6, 0.9)):
        run = tmp_path / f"run{number}"
        run.mkdir()
        result = {"format": 1, "status": "done", "seed": 3, "epochs": 2, "seconds": 100.0, "parameters": 7}
        result |= {"multiply_adds": 1_000_000, "metrics": {"test/top1": top1}}
        result |= {"precision": "bf16-mixed", "device": "A processor, 1 thread"}
        (run / "result.json").write_text(json.dumps(result))
        (run / "metrics.csv").write_text("epoch\n1\n")
        ladder.keep(number, run)
    return tmp_path


def test_a_rung_is_held_against_the_one_before(kept: Path) -> None:
    _, _, *rows = ladder.table(ladder.rungs()).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == ["1", "2", "6"]
    # of two seeds, 50 % and 60 %, the interval is 12.7 times 5 points
    assert [row[2] for row in cells] == ["55.00 % ± 63.53", "70.00 %", "90.00 %"]
    assert [row[3] for row in cells] == ["", "+15.00", ""]  # of rung 6 the one before is not there
    assert [row[6] for row in cells] == ["100 s, bf16, 1 thread"] * 3


def test_the_arithmetic_of_a_rung(kept: Path) -> None:
    # 100,000 images of 1 million multiply-adds: 2 operations each, forward and twice as many backward
    assert ladder.rungs()[1].teraflop == pytest.approx(100_000 * 1e6 * 2 * 3 / 1e12)


def test_the_picture_is_drawn(kept: Path) -> None:
    ladder.picture(ladder.rungs(), kept / "ladder.png")
    assert (kept / "ladder.png").stat().st_size > 10_000
