"""What is kept of the predictions comes back as it was, and what is not whole is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_exp.errors import UserError
from alexnet_exp.runs.predictions import read_predictions, write_predictions


def test_predictions_of_few_classes_are_saved_completely(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).random((7, 10)).astype(np.float16)
    labels = np.arange(7)
    write_predictions(tmp_path / "test.npz", labels, probabilities)
    kept = read_predictions(tmp_path / "test.npz")
    np.testing.assert_array_equal(kept.labels, labels)
    np.testing.assert_array_equal(kept.probabilities, probabilities)
    assert kept.classes is None
    for count in (1, 3):
        expected = [sorted(range(10), key=lambda of, row=row: -row[of])[:count] for row in probabilities]
        np.testing.assert_array_equal(kept.guesses(count), expected)


def test_guesses_of_many_classes_equal_those_of_all(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).permuted(np.tile(np.arange(100.0), (5, 1)), axis=1).astype(np.float16)
    write_predictions(tmp_path / "test.npz", np.zeros(5, np.int64), probabilities)
    kept = read_predictions(tmp_path / "test.npz")
    assert kept.probabilities.shape == (5, 20)
    np.testing.assert_array_equal(kept.guesses(1)[:, 0], probabilities.argmax(1))
    np.testing.assert_array_equal(kept.guesses(5), np.argsort(-probabilities, axis=1)[:, :5])


def test_truncated_or_corrupted_files_are_rejected_or_equal(tmp_path: Path) -> None:
    file = tmp_path / "test.npz"
    labels, probabilities = np.arange(4), np.eye(4, dtype=np.float16)
    write_predictions(file, labels, probabilities)
    content = file.read_bytes()
    refused = []
    for place in range(len(content)):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]):
            file.write_bytes(damaged)
            try:
                kept = read_predictions(file)
            except UserError as error:
                refused.append(str(error))
            else:
                np.testing.assert_array_equal(kept.labels, labels)
                np.testing.assert_array_equal(kept.probabilities, probabilities)
    assert len(refused) > len(content)  # all that are cut short, and more
    assert all(line.startswith(f"{file}: ") and "\n" not in line for line in refused)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": np.arange(3)}, "labels and probabilities are missing"),
        ({"labels": np.arange(3), "probabilities": np.zeros((2, 5))}, "do not match"),
        ({"labels": np.arange(3), "probabilities": np.zeros(3)}, "do not match"),
        ({"labels": np.arange(0), "probabilities": np.zeros((0, 5))}, "do not match"),
        ({"labels": np.arange(3) - 1, "probabilities": np.zeros((3, 5))}, "do not match"),
        ({"labels": np.ones(3), "probabilities": np.zeros((3, 5))}, "do not match"),
        (
            {"labels": np.arange(3), "probabilities": np.zeros((3, 5)), "classes": np.zeros((3, 4), int)},
            "do not match",
        ),
    ],
)
def test_other_arrays_are_rejected(tmp_path: Path, arrays: dict[str, object], words: str) -> None:
    file = tmp_path / "test.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words):
        read_predictions(file)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path("executed"),)


def test_a_pickle_in_it_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = np.empty(1, dtype=object)
    hostile[0] = Evil()
    np.savez("test.npz", labels=hostile, probabilities=np.zeros((1, 2)))
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path / "test.npz")
    assert not Path("executed").exists()
    np.load("test.npz", allow_pickle=True)["labels"]
    assert Path("executed").exists()  # the file does have it: whoever allows it runs it
