"""A split through a network: what is saved of the answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_exp.evaluate import Predictions, save_predictions


def test_few_classes_are_saved_whole(tmp_path: Path) -> None:
    probabilities = np.full((3, 20), 0.05, dtype=np.float16)
    save_predictions(tmp_path / "test.npz", Predictions(np.arange(3), probabilities))
    saved = np.load(tmp_path / "test.npz")
    assert set(saved.files) == {"labels", "probabilities"}
    np.testing.assert_array_equal(saved["probabilities"], probabilities)
    assert [path.name for path in tmp_path.iterdir()] == ["test.npz"]


def test_of_many_classes_the_most_probable_are_saved_with_their_numbers(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).permuted(np.tile(np.linspace(0, 1, 100), (5, 1)), axis=1)
    save_predictions(tmp_path / "test.npz", Predictions(np.arange(5), probabilities.astype(np.float16)))
    saved = np.load(tmp_path / "test.npz")
    assert saved["classes"].shape == saved["probabilities"].shape == (5, 20)
    for row in range(5):
        np.testing.assert_array_equal(probabilities[row, saved["classes"][row]], np.linspace(0, 1, 100)[:-21:-1])
    assert saved["probabilities"][:, 0].tolist() == [1.0] * 5
