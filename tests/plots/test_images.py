"""The two halves of the paper's Figure 4, seen in the picture's pixels and in what is written."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from alexnet_exp.plots import neighbours, predictions
from alexnet_exp.plots.images import _digits, _percent
from alexnet_exp.plots.style import OTHER, TRUE, WRONG, words

RNG = np.random.default_rng(0)
NAMES = ["cat", "dog", "ship", "truck", "frog", "bird"]


def places(path, colour):
    """Rows and columns of the pixels that have this colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    return (abs(pixels - np.round(np.array(to_rgb(colour)) * 255)) <= 1).all(axis=2).nonzero()


def grey(*shape):
    """Images without any of the colours that mean something."""
    return np.full((*shape, 3), 128, dtype=np.uint8)


@pytest.fixture
def written(monkeypatch):
    """All text of the figures that are saved meanwhile."""
    texts = []
    save = Figure.savefig

    def reading(figure, *arguments, **options):
        texts.extend(text.get_text() for text in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)])
        return save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", reading)
    return texts


def predicted(path, labels, top, probabilities, names=NAMES, size=8):
    predictions(
        grey(len(labels), size, size), np.array(labels), np.array(top), np.array(probabilities), names, path, "said"
    )


def test_bars_are_as_long_as_the_probabilities_and_the_true_one_is_blue(tmp_path):
    predicted(tmp_path / "p.png", [1], [[0, 1, 2]], [[0.5, 0.25, 0.125]])
    blue_rows, blue = places(tmp_path / "p.png", TRUE)
    orange_rows, orange = places(tmp_path / "p.png", OTHER)
    upper = orange[orange_rows < blue_rows.min()]
    lower = orange[orange_rows > blue_rows.max()]
    spans = [np.ptp(each) for each in (upper, blue, lower)]
    assert spans[0] / spans[1] == pytest.approx(2, rel=0.05)
    assert spans[1] / spans[2] == pytest.approx(2, rel=0.1)


def test_a_true_class_outside_of_the_bars_is_written(tmp_path, written):
    predicted(tmp_path / "p.png", [5], [[0, 1, 2, 3, 4]], [[0.4, 0.3, 0.1, 0.1, 0.1]])
    assert places(tmp_path / "p.png", TRUE)[0].size == 0
    assert {"bird", "cat", "40.0%", "said"} <= set(written)


@pytest.mark.parametrize(("count", "size", "classes"), [(1, 8, 2), (5, 224, 5), (8, 1, 3)])
def test_any_number_of_images_can_be_drawn(tmp_path, count, size, classes):
    top = np.tile(np.arange(classes), (count, 1))
    predicted(tmp_path / "p.png", np.zeros(count, int), top, np.full(top.shape, 1 / classes), size=size)
    assert places(tmp_path / "p.png", TRUE)[0].size > 0


def test_names_are_words_cut_to_what_fits(tmp_path, written):
    assert words("n01440764 tench, Tinca tinca", 20) == "tench"
    assert words("n01440764", 20) == "n01440764"
    assert words("salt, pepper", 20) == "salt, pepper"
    assert words("a$b", 20) == r"a\$b"
    assert words("Chesapeake Bay retriever", 10) == "Chesapeak…"
    names = [f"n0000000{each} a class with a name as long as can be, {each}" for each in range(6)]
    predicted(tmp_path / "p.png", [0], [[0, 1, 2, 3, 4]], [[0.2] * 5], names=names)
    assert all(len(text) <= 30 for text in written)
    assert not any("n0000" in text for text in written)


def test_a_probability_is_never_rounded_to_certainty():
    assert [_percent(each) for each in (0.0, 1e-5, 0.123, 0.9999, 1.0)] == [
        "0.0%",
        "<0.1%",
        "12.3%",
        ">99.9%",
        "100.0%",
    ]


def test_distances_have_three_digits():
    shown = [_digits(each) for each in (0.0, 0.00357, 2.1, 13.0, 99.99, 123.4, 12345.6)]
    assert shown == ["0", "0.00357", "2.10", "13.0", "100", "123", "12,346"]


def test_neighbours_of_another_class_are_framed_and_no_others(tmp_path, written):
    def drawn(near_labels):
        k = len(near_labels)
        neighbours(
            grey(1, 8, 8),
            np.array([0]),
            grey(1, k, 8, 8),
            np.array([near_labels]),
            np.arange(1.0, k + 1)[None],
            NAMES,
            tmp_path / "n.png",
            "said",
        )
        return places(tmp_path / "n.png", WRONG)

    assert drawn([0, 0, 0])[0].size == 0
    _, first = drawn([1, 0, 0])
    _, last = drawn([0, 0, 1])
    assert first.max() < last.min()
    assert written.index("1.00") < written.index("2.00") < written.index("3.00")


def test_the_caption_is_saved_in_the_picture(tmp_path):
    predicted(tmp_path / "p.png", [0], [[0]], [[1.0]])
    with Image.open(tmp_path / "p.png") as image:
        assert image.info["Description"] == "said"
