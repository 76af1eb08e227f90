"""Exported networks give the same logits, in any batch size, from the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from alexnet_exp.__main__ import main
from alexnet_exp.inference import export
from alexnet_exp.inference.classifier import load
from alexnet_exp.inference.export import export_onnx, export_safetensors
from alexnet_exp.model.weights import load_weights
from tests.conftest import Run

ROOT = Path(__file__).parents[2]


def test_onnx_gives_the_same_logits_in_any_batch_size(finished: Run, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    classifier = load(finished.path)
    file, difference = export_onnx(classifier, tmp_path)
    assert 0 <= difference < 1e-3
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        images = torch.randint(0, 256, (batch, 1, 32, 32), dtype=torch.uint8)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), classifier(images), rtol=1e-3, atol=1e-4)


def test_a_wrong_export_is_detected(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    classifier = load(finished.path)
    file, _ = export_onnx(classifier, tmp_path)
    with torch.no_grad():
        classifier.network.fc8.fc.bias += 1
    with pytest.raises(RuntimeError, match="its logits differ from torch's by 1"):
        export._difference(file, classifier, torch.zeros(3, 1, 32, 32, dtype=torch.uint8))


def test_without_onnx_the_weights_are_written_and_one_line_says_what_to_install(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    line = "export: model.onnx was not written; the package onnx is not installed; pip install -e '.[onnx]'\n"
    assert main(["export", str(finished.path), "--out", str(tmp_path / "both")]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{tmp_path}/both/model.safetensors\n", line)
    assert sorted(file.name for file in (tmp_path / "both").iterdir()) == ["classes.json", "model.safetensors"]
    assert main(["export", str(finished.path), "--out", str(tmp_path / "onnx"), "--format", "onnx"]) == 2
    assert capsys.readouterr().err == line
    assert not (tmp_path / "onnx").exists()


def test_what_to_install_is_spelled_one_way() -> None:
    """A name in quotes after `pip install` would be looked up in a registry, which does not know this project."""
    places = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    places += (ROOT / "alexnet_exp").rglob("*.py")
    assert [file for file in places if "pip install 'alexnet_exp" in file.read_text(encoding="utf-8")] == []


def test_safetensors_load_back(finished: Run, tmp_path: Path) -> None:
    classifier = load(finished.path)
    file = export_safetensors(classifier, tmp_path)
    with safe_open(file, "pt") as content:
        assert json.loads(content.metadata()["classes"]) == classifier.classes
        assert content.metadata()["input_size"] == "32"
        assert torch.equal(content.get_tensor("preprocess.mean"), classifier.preprocess.mean)
    again = load(finished.path)
    with torch.no_grad():
        for parameter in again.network.parameters():
            parameter.zero_()
    load_weights(again.network, file)
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again(images), classifier(images))
