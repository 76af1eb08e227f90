"""The groups that are drawn: rows and pictures from made-up curves, and memory that two processes share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_exp.processes.cpus import cores
from benchmarks import accuracy_time, scale
from benchmarks.machine import Load
from benchmarks.memory import held
from benchmarks.processor import RESULTS
from benchmarks.rows import Missing
from benchmarks.table import Result

MACHINE = {"cpu": "CPU", "cores": 2, "threads": 2}


def drawn(module: Any, data: dict[str, Any], path: Path) -> tuple[int, int]:
    """Draws; returns the picture's size."""
    module.draw(Result("group", [], MACHINE, Load(None, None, None, None), 1.0, data), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).min() < 100
        return image.size


def points(of: dict[float, float]) -> scale.Points:
    turns = iter([of, {key: 2 * value for key, value in of.items()}])
    return scale.gathered(2, lambda: next(turns))


def test_curves_are_gathered_turn_after_turn() -> None:
    assert points({0.5: 10.0, 128: 20.0}) == {"0.5": [10, 20], "128": [20, 40]}


def test_rows_and_picture_of_scale(tmp_path: Path) -> None:
    found = {
        "batch": points(dict.fromkeys(scale.BATCHES, 500.0) | {128: 900.0, 32: 600.0}),
        "width": points({0.25: 2000.0, 0.5: 1000.0, 1.0: 500.0}),
        "threads": points({1: 400.0, cores(): 500.0}),
        "ranks": points({1: 500.0, 2: 400.0}),
        "compare": points({100: 0.2, 1000: 0.3, 10_000: 2.0}),
        "memory": {ranks: {f"{count:g}": [3072.0 * count * ranks**0.1] for count in scale.IMAGES} for ranks in (1, 2)},
    }
    rows = {row.name: row for row in scale._rows(found)}
    assert rows["batch"].ratio == 1.5
    assert rows["width"].ratio == 2
    assert rows["ranks"].ratio == 0.8
    assert rows["compare"].ratio == pytest.approx(10)
    assert rows["memory"].ratio == pytest.approx(2**0.1)
    assert rows["memory"].met is True
    data = found | {"memory": {str(ranks): each for ranks, each in found["memory"].items()}}
    assert drawn(scale, data, tmp_path / "scale.png") > (1000, 500)


KEPT = sorted(RESULTS.glob(f"*/{accuracy_time.KERAS_CURVE}"))


@pytest.fixture(params=KEPT, ids=[file.parent.name for file in KEPT])
def curve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The Keras script's curve on a processor, as that one would read it."""
    monkeypatch.setattr(accuracy_time, "results_folder", lambda: request.param.parent)
    return accuracy_time.keras_curve(None, None, None)


def test_picture_of_time_to_accuracy(tmp_path: Path, curve: list[dict[str, Any]]) -> None:
    data = {
        "runs": [{"wall": 12.0, "accuracy": 0.62}],
        "curve": [[1.0, 0.3], [8.0, 0.62]],
        "keras": curve,
    }
    assert drawn(accuracy_time, data, tmp_path / "curve.png") > (1000, 500)


def test_the_kept_curve_of_the_keras_script_is_five_epochs_that_take_minutes(curve: list[dict[str, Any]]) -> None:
    assert [each["epoch"] for each in curve] == [1, 2, 3, 4, 5]
    seconds = [each["seconds"] for each in curve]
    assert seconds == sorted(seconds)
    assert seconds[0] > 60


def test_the_keras_script_needs_its_images() -> None:
    with pytest.raises(Missing, match="--images NPZ"):
        accuracy_time.keras_curve(Path(sys.executable), None, None)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which memory is shared")
def test_two_processes_hold_one_copy_of_the_images(tmp_path: Path) -> None:
    file = tmp_path / "images.npy"
    np.save(file, np.random.default_rng(1).integers(0, 256, (10_000, 3, 32, 32), dtype=np.uint8))
    size = 10_000 * 3072
    one, two = held(file, 1), held(file, 2)
    assert size <= one < 1.3 * size
    assert size <= two < 1.5 * size
