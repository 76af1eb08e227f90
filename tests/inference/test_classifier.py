"""A run's network from its checkpoint: the same answers, weights for another run; what is damaged is refused."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import alexnet_exp
from alexnet_exp.__main__ import main
from alexnet_exp.errors import UserError
from alexnet_exp.inference import classifier as loading
from alexnet_exp.inference.classifier import load
from tests.conftest import Run, opened_data

TrainRun = Callable[..., Run]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import alexnet_exp, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert alexnet_exp.load is load
    assert not hasattr(alexnet_exp, "unheard_of")


def test_predictions_equal_those_that_the_run_saved(finished: Run) -> None:
    classifier = alexnet_exp.load(finished.path)
    data, saved = opened_data(finished), np.load(finished.path / "predictions" / "test.npz")
    images = data.centred(data.source.test.images(torch.arange(360)))
    with torch.no_grad():
        probabilities = classifier(images).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, saved["probabilities"], atol=1e-3)
    assert classifier.classes == [str(digit) for digit in range(10)]
    assert not classifier.training


def test_image_files_are_read_as_the_run_reads_its_own(finished: Run, tmp_path: Path) -> None:
    classifier, data = load(finished.path), opened_data(finished)
    pixels = data.source.test.images(torch.arange(3))
    files = []
    for index, image in enumerate(pixels):
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(image[0].numpy()).save(files[-1])
    with torch.no_grad():
        expected = classifier(pixels).softmax(1)
    torch.testing.assert_close(classifier.predict(files), expected)
    for one in (files[0], str(files[0])):
        torch.testing.assert_close(classifier.predict(one), expected[:1])


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros((2, 3, 32, 32), dtype=torch.uint8),
        torch.zeros((2, 1, 32, 32)),
        torch.zeros((1, 32, 32), dtype=torch.uint8),
        torch.zeros((2, 1, 8, 8), dtype=torch.uint8),
    ],
    ids=["colour", "floats", "one image", "too small"],
)
def test_other_images_are_rejected_in_one_line(images: torch.Tensor, finished: Run) -> None:
    given = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
    with pytest.raises(UserError) as refused:
        load(finished.path)(images)
    file = finished.path / "checkpoints" / "best.ckpt"
    assert str(refused.value) == f"{file}: needs images uint8 [N, 1, 32, 32]; got {given}"


def test_the_repr_of_a_classifier_is_one_line(finished: Run) -> None:
    shown = repr(load(finished.path))
    assert shown.startswith("Classifier(AlexNet of ")
    assert shown.endswith("best.ckpt: uint8 [N, 1, 32, 32], 10 classes)")


def test_best_and_last_are_two_checkpoints(train_run: TrainRun) -> None:
    run = train_run("run", "callbacks=ema", "callbacks.ema.decay=0.1", "trainer.max_epochs=3")
    for name in ("best", "last"):
        state = run.checkpoint(name)["state_dict"]
        assert torch.equal(load(run.path, name).network.fc8.fc.weight, state["network.fc8.fc.weight"])
    file = run.path / "checkpoints" / "last.ckpt"
    assert load(run.path, str(file)).source == file


def test_a_new_run_starts_from_anothers_weights(train_run: TrainRun, finished: Run, tmp_path: Path) -> None:
    from_run = train_run("run", f"model.weights={finished.path}", "optim.lr=1e-30", "schedule=constant")
    weights = finished.checkpoint("best")["state_dict"]
    file = tmp_path / "weights.pt"
    torch.save({key.removeprefix("network."): v for key, v in weights.items() if key.startswith("network.")}, file)
    from_file = train_run("file", f"model.weights={file}", "optim.lr=1e-30", "schedule=constant")
    for run in (from_run, from_file):
        assert run.code == 0, run.log
        state = run.checkpoint("last")["state_dict"]
        for name, value in weights.items():
            if name.startswith("network.") and name.endswith("weight"):
                torch.testing.assert_close(state[name], value, msg=name)
    assert from_run.losses == from_file.losses
    assert from_run.losses != finished.losses


def test_damaged_checkpoints_are_rejected_in_one_line(finished: Run, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(finished.path, run)
    best = run / "checkpoints" / "best.ckpt"
    whole = best.read_bytes()
    best.write_bytes(whole[:-1000])
    with pytest.raises(UserError, match=r"best\.ckpt: damaged or truncated"):
        load(run)
    best.with_name("best.ckpt.sha256").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt: truncated"):
        load(run)


def changed_card(finished: Run, file: Path, key: str, value: Any) -> Path:
    content = finished.checkpoint("best")
    node = content["alexnet_exp"]
    *path, last = key.split(".")
    for part in path:
        node = node[part]
    if value is MISSING:
        del node[last]
    else:
        node[last] = value
    torch.save(content, file)
    return file


MISSING = object()
BAD_CARDS: list[tuple[str, Any]] = [
    *(("stored_size", value) for value in (0, -16, 1 << 40, 3.5, "32", None, True, float("nan"), [32], MISSING)),
    *(("crop", value) for value in (0, -1, 33, "x", MISSING)),
    *(("input_size", value) for value in (0, -224, 1 << 62, None, "big", MISSING)),
    *(("in_channels", value) for value in (0, -3, 1 << 40, 2, {}, MISSING)),
    *(("classes", value) for value in ([], None, 7, "abc", ["a", "b"], [[1]], {"a": 1}, MISSING)),
    *(("model", value) for value in (None, [], {}, {1: 2}, MISSING)),
    *(("images", value) for value in ([], {"shape": [1]}, {"shape": [1, -1, 3], "dtype": "uint8", "source": "x"})),
    *(("model.stages", value) for value in (None, 5, {}, {"conv1": {"out": 1 << 60, "kernel": 3}})),
    ("model.num_classes", 11),
    ("model.width", -1.0),
    ("format", None),
]


@pytest.mark.parametrize(
    ("key", "value"), BAD_CARDS, ids=lambda value: "missing" if value is MISSING else str(value)[:30]
)
def test_an_invalid_card_is_rejected_in_one_line(key: str, value: Any, finished: Run, tmp_path: Path) -> None:
    file = changed_card(finished, tmp_path / "changed.ckpt", key, value)
    with pytest.raises(UserError) as refused:
        load(finished.path, str(file))
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)


def test_predict_of_a_changed_card_exits_with_2(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (40, 50)).save(tmp_path / "a.png")
    file = changed_card(finished, tmp_path / "changed.ckpt", "stored_size", 0)
    assert main(["predict", str(finished.path), str(tmp_path / "a.png"), "--ckpt", str(file)]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"{file}: invalid stored_size 0; the file is damaged or was changed\n"
    assert shown.out == ""


def test_weights_without_names_are_rejected(finished: Run, tmp_path: Path) -> None:
    content = finished.checkpoint("best")
    content["state_dict"] = {1: torch.zeros(1)}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: invalid weights, without names"):
        load(finished.path, str(tmp_path / "a.ckpt"))


def test_predict_reads_a_batch_at_a_time(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, random = load(finished.path), np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(11)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (40, 50), dtype=np.uint8)).save(file)
    monkeypatch.setattr(loading, "BATCH_SIZE", 4)
    together, sizes = [], []
    monkeypatch.setattr(classifier.network, "forward", noting_sizes(classifier.network.forward, sizes))
    found = classifier.each(files)
    together.append(next(found))
    assert sizes == [4], "the others are not read yet"
    together += found
    assert sizes == [4, 4, 3]
    alone = torch.cat([classifier.predict(file) for file in files])
    torch.testing.assert_close(torch.stack(together), alone)
    torch.testing.assert_close(classifier.predict(files), alone)
    assert classifier.predict([]).shape == (0, 10)


def noting_sizes(forward: Callable[[torch.Tensor], torch.Tensor], sizes: list[int]) -> Callable[..., torch.Tensor]:
    def noted(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return forward(images)

    return noted


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit('it ran')",)


def test_other_files_are_rejected_and_not_executed(finished: Run, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.ckpt"
    bomb.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="bomb"):
        load(finished.path, str(bomb))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of a run"):
        load(finished.path, str(tmp_path / "other.ckpt"))
    content = finished.checkpoint("best")
    content["alexnet_exp"]["model"]["width"] = 0.1
    torch.save(content, tmp_path / "wider.ckpt")
    with pytest.raises(UserError, match="a checkpoint of another network than that of"):
        load(finished.path, str(tmp_path / "wider.ckpt"))
    content["alexnet_exp"]["format"] = 99
    torch.save(content, tmp_path / "newer.ckpt")
    with pytest.raises(UserError, match="format 99, this version reads 1"):
        load(finished.path, str(tmp_path / "newer.ckpt"))
