"""Learning curves and schedules: what is drawn, seen in the picture's pixels."""

import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from alexnet_exp.plots import learning_curves, schedule
from alexnet_exp.plots.style import ACCENT, QUIET


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"), dtype=int)


def places(path, colour):
    """Rows and columns of the pixels that have this colour."""
    return (abs(pixels(path) - np.round(np.array(to_rgb(colour)) * 255)) <= 2).all(axis=2).nonzero()


def rows(epochs, **more):
    return [
        {"epoch": epoch, "train/loss": 1 / epoch, "train/top1": 1 - 1 / epoch, "val/loss": None, "val/top1": None}
        | {key: value(epoch) for key, value in more.items()}
        for epoch in range(1, epochs + 1)
    ]


def test_validation_is_drawn_when_there_is_some(tmp_path):
    learning_curves(rows(10), tmp_path / "train.png", "no validation")
    assert places(tmp_path / "train.png", ACCENT)[0].size == 0
    assert places(tmp_path / "train.png", QUIET)[0].size > 0
    with_val = rows(10, **{"val/loss": lambda epoch: 2 / epoch, "val/top1": lambda epoch: 0.5})
    learning_curves(with_val, tmp_path / "val.png", "with validation")
    _, columns = places(tmp_path / "val.png", ACCENT)
    width = pixels(tmp_path / "val.png").shape[1]
    assert (columns < width / 2).any(), "the loss, at the left"
    assert (columns > width / 2).any(), "the accuracy, at the right"


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        rows(1),
        rows(200),
        rows(3, **{"train/loss": lambda epoch: math.nan}),
        rows(3, **{"val/loss": lambda epoch: math.inf if epoch == 2 else 1.0}),
        [{"epoch": 1}, {"epoch": 2, "train/loss": 1.0}],
    ],
    ids=["no rows", "one row", "many rows", "NaN", "infinity", "missing columns"],
)
def test_any_run_can_be_drawn(tmp_path, damaged):
    learning_curves(damaged, tmp_path / "curves.png", "$x_$ is a name")
    assert pixels(tmp_path / "curves.png").shape == (540, 1350, 3)


def test_a_schedule_falls_across_the_picture(tmp_path):
    schedule(np.linspace(1, 0, 50).tolist(), tmp_path / "falling.png", 10, "linear")
    lines, columns = places(tmp_path / "falling.png", ACCENT)
    assert np.corrcoef(lines, columns)[0, 1] > 0.99


def test_the_levels_of_a_staircase_are_as_far_apart_as_their_ratio(tmp_path):
    schedule([0.1] * 20 + [0.01] * 20 + [0.001] * 20, tmp_path / "steps.png", title="steps")
    lines, _ = places(tmp_path / "steps.png", ACCENT)
    heights, widths = np.unique(lines, return_counts=True)
    levels = heights[widths > 100]
    levels = levels[np.insert(np.diff(levels) > 5, 0, True)]
    assert len(levels) == 3
    assert np.diff(levels)[0] == pytest.approx(np.diff(levels)[1], abs=2)


@pytest.mark.parametrize("curve", [[0.1], [0.1] * 3, [0.1, 0.1, 0.0]])
def test_any_schedule_can_be_drawn(tmp_path, curve):
    schedule(curve, tmp_path / "schedule.png")
    assert places(tmp_path / "schedule.png", ACCENT)[0].size > 0


def test_drawing_needs_no_torch_and_leaves_pyplot_alone():
    code = "import sys, alexnet_exp.plots; sys.exit(bool({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
