"""Tests of evaluation: saved predictions, several views of an image, ensembles of runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_exp.__main__ import main
from alexnet_exp.config.schema import Test as TestSettings
from alexnet_exp.data.spec import Digits
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.inference.classifier import load
from alexnet_exp.training.build import refuse_views
from alexnet_exp.training.datamodule import ImageData
from alexnet_exp.training.evaluate import Ensemble, Predictions
from alexnet_exp.training.module import AlexNetModule
from tests.conftest import Run, opened_data, train_into


def test_few_classes_are_saved_whole(tmp_path: Path) -> None:
    probabilities = np.full((3, 20), 0.05, dtype=np.float16)
    Predictions(np.arange(3), np.log(probabilities.astype(np.float32))).save(tmp_path / "test.npz")
    saved = np.load(tmp_path / "test.npz")
    assert set(saved.files) == {"labels", "probabilities"}
    np.testing.assert_array_equal(saved["probabilities"], probabilities)
    assert [path.name for path in tmp_path.iterdir()] == ["test.npz"]


def test_only_the_most_probable_of_many_classes_are_saved(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).permuted(np.tile(np.linspace(0, 1, 100), (5, 1)), axis=1)
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities.astype(np.float32))
    Predictions(np.arange(5), logs).save(tmp_path / "test.npz")
    saved = np.load(tmp_path / "test.npz")
    assert saved["classes"].shape == saved["probabilities"].shape == (5, 20)
    for row in range(5):
        np.testing.assert_array_equal(probabilities[row, saved["classes"][row]], np.linspace(0, 1, 100)[:-21:-1])
    assert saved["probabilities"][:, 0].tolist() == [1.0] * 5


# --- several views, several runs

# A constant rate: at the end of a one-cycle of two steps the network has learned nothing, and its classes are all but
# equally probable, so that rounding would decide which is first.
CROPPED = ("data.crop=24", "data.subset=64", "trainer.max_epochs=1", "schedule=constant", "optim.lr=0.01")


@pytest.fixture(scope="module")
def cropped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on crops of 24 of 32, which tests itself with ten views."""
    run = train_into(tmp_path_factory.mktemp("views") / "outputs" / "train" / "cropped", *CROPPED, "test.views=10")
    assert run.code == 0
    return run


def network_and_images(run: Run) -> tuple[torch.nn.Module, Tensor, NDArray[np.int64]]:
    """The run's classifier, its whole test images, uint8, and their labels."""
    classifier, test = load(run.path, "best"), opened_data(run).source.test
    return classifier, test.images(torch.arange(len(test))), test.labels.numpy()


@torch.no_grad()
def by_hand(run: Run, views: int) -> NDArray[np.float64]:
    """Averaged probabilities [N, classes], a view after the other, cut by hand."""
    classifier, images, _ = network_and_images(run)
    if views == 10:
        places = [(0, 0), (0, 8), (4, 4), (8, 0), (8, 8)]
    elif views == 9:
        places = [(top, left) for top in (0, 4, 8) for left in (0, 4, 8)]
    else:
        places = [(4, 4)]
    squares = [images[:, :, top : top + 24, left : left + 24] for top, left in places]
    squares += [torch.flip(square, [-1]) for square in squares] if views in (2, 10) else []
    found = [classifier(square.contiguous()).double().softmax(1).numpy() for square in squares]
    return np.mean(found, axis=0)


def scores(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    order = np.argsort(-probabilities, axis=1, kind="stable")
    truth = probabilities[np.arange(len(labels)), labels]
    return {
        "test/loss": float(-np.log(truth).mean()),
        "test/top1": float((order[:, 0] == labels).mean()),
        "test/top5": float((order[:, :5] == labels[:, None]).any(1).mean()),
    }


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["eval", *arguments]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("views", [2, 9, 10])
def test_views_average_probabilities(cropped: Run, views: int, capsys: pytest.CaptureFixture[str]) -> None:
    line = told(capsys, str(cropped.path), "--views", str(views))
    labels = network_and_images(cropped)[2]
    assert line["views"] == views
    assert line["metrics"] == pytest.approx(scores(by_hand(cropped, views), labels), abs=1e-6)
    assert line["centre"] == pytest.approx(scores(by_hand(cropped, 1), labels), abs=1e-6)
    assert line["metrics"]["test/loss"] != line["centre"]["test/loss"]
    assert told(capsys, str(cropped.path), "--views", "1")["metrics"] == line["centre"], "from the one pass"


def test_eval_repeats_the_test_with_several_views(cropped: Run, capsys: pytest.CaptureFixture[str]) -> None:
    expected = scores(by_hand(cropped, 10), network_and_images(cropped)[2])
    tested = {key: value for key, value in cropped.result["metrics"].items() if key.startswith("test/")}
    assert tested == pytest.approx(expected, abs=1e-6)
    assert cropped.result["test_views"] == 10
    assert cropped.result["test_centre"] == pytest.approx(
        scores(by_hand(cropped, 1), network_and_images(cropped)[2]), abs=1e-6
    )
    saved = np.load(cropped.path / "predictions" / "test.npz")
    np.testing.assert_allclose(saved["probabilities"], by_hand(cropped, 10), atol=1e-3)
    assert f"from 10 views, {cropped.result['test_centre']['test/top1']:.4f} from the centre" in cropped.log
    assert told(capsys, str(cropped.path))["metrics"] == tested, "the same test again: the same number"
    val = told(capsys, str(cropped.path), "--split", "val")
    assert val["metrics"]["val/top1"] == cropped.metrics[-1]["val/top1"], "validation is of the centre"


def test_ensemble_averages_probabilities(
    cropped: Run, train_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = train_run("other", *CROPPED, "seed=2", "model.width=0.07")
    labels = network_and_images(cropped)[2]
    line = told(
        capsys, str(cropped.path), str(other.path), "--views", "10", "--save", str(tmp_path / "both.npz")
    )  # fmt: skip
    parts = [by_hand(cropped, 10), by_hand(other, 10)]
    for run, one, part in zip((cropped, other), line["runs"], parts, strict=True):
        assert one["run"] == str(run.path)
        assert one["metrics"] == pytest.approx(scores(part, labels), abs=1e-6)
    assert line["together"]["metrics"] == pytest.approx(scores(np.mean(parts, axis=0), labels), abs=1e-6)
    saved = np.load(tmp_path / "both.npz")
    np.testing.assert_allclose(saved["probabilities"], np.mean(parts, axis=0), atol=1e-3)
    np.testing.assert_array_equal(saved["labels"], labels)


def test_ensemble_rejects_different_images_or_classes(
    cropped: Run, finished: Run, train_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    larger = train_run("larger", *CROPPED, "data.size=40")
    # finished: the same images, another crop; its validation is the same too
    assert told(capsys, str(cropped.path), str(finished.path), "--views", "1")["together"]
    for line, said in (
        ((cropped, larger), f"{larger.path} and {cropped.path} have different images; they cannot be ensembled"),
        ((cropped, finished, cropped), f"{cropped.path} is given twice"),
    ):
        assert main(["eval", *(str(run.path) for run in line)]) == 2
        (error,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("eval:")]
        assert said in error
    together = Ensemble()
    together.check_images(Path("a"), ["x", "y"], None)
    with pytest.raises(UserError, match="b and a have different classes"):
        together.check_images(Path("b"), ["y", "x"], None)
    together.add(Predictions(np.arange(3), np.zeros((3, 4), np.float32)))
    with pytest.raises(UserError, match="different labels"):
        together.add(Predictions(np.arange(3) + 1, np.zeros((3, 4), np.float32)))


def test_ensemble_averages_probabilities_not_logarithms() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(6, 0.3), size=(7, 50))
    labels, together = random.integers(0, 6, 50), Ensemble()
    for part in probabilities:
        together.add(Predictions(labels, np.log(part).astype(np.float32)))
    assert together.metrics("test") == pytest.approx(scores(probabilities.mean(0), labels), rel=1e-5)
    # a network that rules the truth out does not rule it out for all
    together.add(Predictions(labels, np.full((50, 6), -1e4, np.float32)))
    assert np.isfinite(together.metrics("test")["test/loss"])


def test_invalid_eval_arguments_are_rejected_before_any_run(
    cropped: Run, finished: Run, tmp_path: Path, train_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    kept_none = train_run("none", *CROPPED, "checkpoint.keep=none")
    one, another = str(cropped.path), str(finished.path)
    for line, said in (
        ([another, "--views", "10"], "eval: --views 10: a crop of 32 has only one view in images stored at 32x32; "),
        ([one, str(kept_none.path)], f"{kept_none.path}: has no checkpoint"),
        ([one, another, "--ckpt", "some.ckpt"], "eval: --ckpt some.ckpt: names one checkpoint for 2 runs; write "),
        ([one, "--save", "predictions"], "eval: --save predictions: must end in .npz"),
        ([one, "--save", "nowhere/x.npz"], "eval: --save nowhere/x.npz: the folder nowhere does not exist"),
        ([one, "--views", "5"], "eval: argument --views: invalid choice: 5"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(["eval", *line]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_folder_of_a_sweep_means_all_its_runs(cropped: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cropped.path.parent
    second = folder / "second"
    shutil.copytree(cropped.path, second)
    try:
        line = told(capsys, str(folder))
    finally:
        shutil.rmtree(second)
    assert [one["run"] for one in line["runs"]] == [str(cropped.path), str(second)]
    assert line["together"]["metrics"] == pytest.approx(line["runs"][0]["metrics"])


def test_impossible_views_are_rejected_before_training(
    train_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run("whole", "test.views=10")
    assert run.code == 2
    assert run.metrics == []
    assert "test.views=10: a crop of 32 has only one view in images stored at 32x32; train with data.crop=28" in (
        capsys.readouterr().err
    )
    with pytest.raises(Refused, match=r"views=5: must be 1, 2, 9 or 10"):
        TestSettings(views=5)


def test_user_test_step_allows_one_view() -> None:
    class Own(AlexNetModule):
        def test_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().test_step(batch, batch_idx)

    data = ImageData(Digits(crop=24), 24, 1, 1)
    data.setup()
    experiment = SimpleNamespace(data=data, module=Own.__new__(Own))
    with pytest.raises(UserError, match=r"test\.views=9: the test_step of Own uses one view; write 1"):
        refuse_views(experiment, 9, "test.views=")  # type: ignore[arg-type]
    experiment.data = pl.LightningDataModule()  # type: ignore[assignment]
    with pytest.raises(UserError, match="needs a data module that subclasses ImageData; LightningDataModule does not"):
        refuse_views(experiment, 9, "test.views=")  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_ranks_evaluate_as_one(command: Callable[..., Any], tmp_path: Path) -> None:
    """Ten views on two processes: each image once, in the images' order."""
    process = command(*CROPPED, "test.views=10", "name=two", "trainer=ddp_cpu")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (path,) = (tmp_path / "outputs" / "two").iterdir()
    run = Run(path, 0)
    labels = network_and_images(run)[2]
    tested = {key: value for key, value in run.result["metrics"].items() if key.startswith("test/")}
    assert tested == pytest.approx(scores(by_hand(run, 10), labels), abs=1e-6)
    saved = np.load(path / "predictions" / "test.npz")
    np.testing.assert_array_equal(saved["labels"], labels)
    np.testing.assert_allclose(saved["probabilities"], by_hand(run, 10), atol=1e-3)


def test_a_run_in_bf16_is_evaluated_in_bf16(train_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    from alexnet_exp.cli import eval as command

    run = train_run("bf16", "trainer.precision=bf16-mixed", "trainer.max_epochs=1")
    assert (run.code, run.result["precision"], run.result["channels_last"]) == (0, "bf16-mixed", True)
    assert command.run([str(run.path)]) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert metrics == {key: value for key, value in run.result["metrics"].items() if key.startswith("test/")}
