"""Confusion matrices: the counts against scikit-learn's, the picture by its pixels."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.metrics import confusion_matrix as reference

from alexnet_exp.plots import confusion_matrix
from alexnet_exp.plots.confusion import count
from alexnet_exp.plots.style import ACCENT

RNG = np.random.default_rng(0)


def covered(path, colour=ACCENT):
    """The part of the picture that has this colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    return (abs(pixels - np.round(np.array(to_rgb(colour)) * 255)) <= 2).all(axis=2).mean()


def test_counts_are_those_of_scikit_learn():
    labels, predictions = RNG.integers(0, 7, 500), RNG.integers(0, 6, 500)
    expected = reference(labels, predictions, labels=range(7))
    np.testing.assert_array_equal(count(labels, predictions, 7), expected)
    np.testing.assert_array_equal(count(labels.astype(np.uint8).tolist(), predictions, 7), expected)


def test_many_classes_in_small_integers_do_not_overflow():
    labels = np.full(3, 200, dtype=np.uint8)
    assert count(labels, labels, 256)[200, 200] == 3


@pytest.mark.parametrize("classes", [2, 10, 37, 250])
def test_a_perfect_diagonal_is_the_accent_colour(tmp_path, classes):
    everything = np.arange(classes)
    names = [f"class number {index} with a long name" for index in everything]
    confusion_matrix(everything, everything, names, tmp_path / "right.png")
    # the matrix covers about half of the picture, and the diagonal one part in `classes` of that
    assert 0.2 / classes < covered(tmp_path / "right.png") < 1 / classes


def test_names_are_drawn_as_plain_text(tmp_path):
    # matplotlib would refuse the first as mathematics that it cannot parse
    confusion_matrix([0, 1], [0, 1], [r"$\frac{$", "a_b^c"], tmp_path / "names.png")
    confusion_matrix([0, 1], [0, 1], ["", ""], tmp_path / "nameless.png")
    assert covered(tmp_path / "names.png") > 0  # the picture is whole
    assert (tmp_path / "names.png").read_bytes() != (tmp_path / "nameless.png").read_bytes()  # and the names are in it


def test_no_images_and_classes_without_images(tmp_path):
    confusion_matrix([], [], ["a", "b"], tmp_path / "none.png")
    confusion_matrix([0, 0], [0, 0], ["a", "b", "c"], tmp_path / "one.png")
    assert covered(tmp_path / "none.png") < covered(tmp_path / "one.png")
