"""Examples and their neighbours: against loops over single images; then `plot` on whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from alexnet_exp.__main__ import main
from alexnet_exp.errors import UserError
from alexnet_exp.inference.classifier import Classifier, load
from alexnet_exp.inference.neighbours import Features, classify, draw, nearest
from alexnet_exp.model.preprocess import Preprocess
from alexnet_exp.model.spec import Input
from alexnet_exp.runs.folder import flatten
from alexnet_exp.runs.reader import read_config
from tests.conftest import Run, opened_data

CARD = {"classes": ["a", "b", "c"], "input_size": 4, "in_channels": 1, "stored_size": 4, "crop": 4}


def small(*layers: nn.Module) -> Classifier:
    """A network of our own making around bytes of 1x4x4."""
    torch.manual_seed(0)
    return Classifier(nn.Sequential(*layers), Preprocess(Input(), 1, 4), CARD, Path("none.ckpt")).eval()


def two_layers() -> Classifier:
    return small(nn.Flatten(), nn.Linear(16, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3))


def noise(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)


def test_features_are_the_last_hidden_layer_behind_its_relu_in_evaluation_mode() -> None:
    classifier = two_layers()
    images = noise(70)
    network: Any = classifier.network
    with torch.inference_mode():
        expected = network[1](classifier.preprocess(images).flatten(1)).clamp(min=0)
    features = Features(classifier)
    assert (features.layer, features.size) == ("4", 7)
    torch.testing.assert_close(features(images), expected.double(), atol=1e-6, rtol=1e-6)
    assert (features(images) == 0).any(), "the ReLU"
    assert not network[4]._forward_pre_hooks, "nothing is left behind"


def test_a_network_without_a_fully_connected_layer_is_refused() -> None:
    with pytest.raises(UserError, match="no fully connected layer"):
        Features(small(nn.Conv2d(1, 3, 4), nn.Flatten()))


@pytest.mark.parametrize("batch", [1, 7, 50, 64])
def test_the_nearest_are_those_of_a_loop_over_all_pairs(batch: int) -> None:
    features, images, others = Features(two_layers()), noise(4, 1), noise(50, 2)
    pairs = [
        [(float((features(image[None]) - features(other[None])).square().sum().sqrt()), place)]
        for image in images
        for place, other in enumerate(others)
    ]
    found = nearest(features, images, others.split(batch), k=6)
    for row in range(4):
        expected = sorted(pair for (pair,) in pairs[row * 50 : row * 50 + 50])[:6]
        assert found.places[row].tolist() == [place for _, place in expected]
        distances = torch.tensor([distance for distance, _ in expected], dtype=torch.float64)
        torch.testing.assert_close(found.distances[row], distances, rtol=1e-5, atol=1e-6)


def test_of_equal_distances_the_earlier_image_is_nearer_for_any_batches() -> None:
    image = noise(1, 3)
    others = torch.cat([noise(5, 4), image, noise(5, 5), image, image])
    for batch in (1, 2, 4, 13):
        found = nearest(lambda images: images.flatten(1).double(), image, others.split(batch), k=4)
        assert found.places[0, :3].tolist() == [5, 11, 12]
        assert found.distances[0, :3].tolist() == [0, 0, 0]


def test_an_image_is_not_its_own_neighbour_and_there_may_be_fewer_than_asked() -> None:
    features, others = Features(two_layers()), noise(3)
    found = nearest(features, others[:2], others.split(2), k=6, own=torch.tensor([0, -1]))
    assert found.places.shape == (2, 2)
    assert 0 not in found.places[0].tolist()
    assert found.places[1, 0] == 1
    assert not nearest(features, others[:1], others[:1].split(1), k=6, own=torch.tensor([0])).places.numel()


def test_correct_and_wrong_predictions_are_drawn_in_turn_and_reproducibly(finished: Run) -> None:
    classifier, data = load(finished.path), opened_data(finished)
    found = draw(classifier, data, "test", 8, seed=0)
    again = draw(classifier, data, "test", 8, seed=0)
    assert found.indices.tolist() == again.indices.tolist()
    assert found.indices.tolist() != draw(classifier, data, "test", 8, seed=1).indices.tolist()
    assert len(set(found.indices.tolist())) == 8
    alone = torch.cat([classifier(data.centred(data.source.test.images(i[None]))) for i in found.indices])
    right = (alone.argmax(1) == data.source.test.labels[found.indices]).tolist()
    assert found.right.tolist() == right
    pairs = min(sum(right), 8 - sum(right))
    assert right[: 2 * pairs] == [True, False] * pairs
    torch.testing.assert_close(found.probabilities, alone.detach().softmax(1), atol=1e-5, rtol=1e-4)


def test_a_missing_image_is_rejected(finished: Run) -> None:
    with pytest.raises(UserError, match="--images 360: there are 360 test images; give 0 to 359"):
        classify(load(finished.path), opened_data(finished), "test", torch.tensor([0, 360]))


# --- the command


@pytest.fixture
def run(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, in a folder of its own."""
    shutil.copytree(finished.path, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def described(file: Path) -> str:
    with Image.open(file) as image:
        return str(image.info["Description"])


def test_plot_draws_all_pictures_and_prints_their_paths(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "run"]) == 0
    names = ["learning_curves", "confusion_matrix", "filters", "predictions", "neighbours"]
    assert capsys.readouterr().out.split() == [f"run/plots/{name}.png" for name in names]
    assert "nearest of the 96 training images" in described(run / "plots" / "neighbours.png")
    assert "the output of fc7 after its activation" in described(run / "plots" / "neighbours.png")


@pytest.mark.slow
def test_plot_draws_the_same_every_time(run: Path) -> None:
    for out in ("one", "two"):
        assert main(["plot", "run", "--only", "predictions,neighbours", "--out", out]) == 0
    for name in ("predictions", "neighbours"):
        assert Path("one", f"{name}.png").read_bytes() == Path("two", f"{name}.png").read_bytes()


def test_plot_searches_the_given_number_and_draws_the_given_images(run: Path) -> None:
    line = "plot run --only neighbours --split train --images 3,17,20 --train-images 10"
    assert main(line.split()) == 0
    said = described(run / "plots" / "neighbours.png")
    assert "3 training images (numbers 3, 17, 20)" in said
    assert "10 of 96 training images, evenly spaced, except the image itself" in said


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--only filter", "plot: --only filter: no such picture; did you mean filters?"),
        ("--images 1,two", "plot: --images 1,two: must be integers, such as 3,17,20"),
        ("--images 999", "--images 999: there are 360 test images; give 0 to 359"),
        ("--train-images 0", "plot: --train-images 0: must be at least 1"),
    ],
)
def test_plot_rejects_bad_input_in_one_line(
    line: str, told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", "run", *line.split()]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(told)


def test_without_the_data_the_other_pictures_are_drawn(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / ".hydra" / "config.yaml"
    text = config.read_text()
    assert "  name: digits\n" in text
    settings = text.replace("  name: digits\n", "  name: folder\n  root: gone\n").replace(
        "  size: 32\n", "  size: null\n"
    )
    config.write_text(settings)
    result = json.loads((run / "result.json").read_text())
    result["config"] = flatten(read_config(run))  # both are of one run
    (run / "result.json").write_text(json.dumps(result))
    assert main(["plot", "run"]) == 0
    out, err = capsys.readouterr()
    assert [Path(line).stem for line in out.split()] == ["learning_curves", "confusion_matrix", "filters"]
    (said,) = err.splitlines()
    # the whole path: a relative one is of the folder in which the run was started
    assert "run: no predictions and neighbours: data.root=/" in said
    assert said.endswith("/gone: no such folder; write the path of an existing folder")
    assert main(["plot", "run", "--only", "predictions"]) == 2


def test_a_run_without_checkpoints_has_curves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "checkpoints")
    assert main(["plot", "run"]) == 0
    out, err = capsys.readouterr()
    assert [Path(line).stem for line in out.split()] == ["learning_curves", "confusion_matrix"]
    assert err.endswith("run: no filters and predictions and neighbours: the run has no checkpoint\n")
