"""Which end of a metric is good, and how its values and differences are written."""

import pytest

from alexnet_exp.runs.metric import difference_text, higher_is_better, is_accuracy, label, unit, value_text


@pytest.mark.parametrize(
    ("key", "higher", "accuracy", "name"),
    [
        ("test/top1", True, True, "test top-1"),
        ("val/top5", True, True, "val top-5"),
        ("val/loss", False, False, "val loss"),
        ("val/loss_precise_bn", False, False, "val loss precise bn"),
        ("val/top1_precise_bn", True, True, "val top-1 (precise bn)"),
        ("test/acc", True, True, "test acc"),
        ("test/f1", True, False, "test f1"),
        ("images_per_s", True, False, "images/s"),
        ("minutes", False, False, "minutes"),
        ("val/top1_error", False, True, "val top-1 (error)"),
        ("test/mse", False, False, "test mse"),
        ("test/RMSE", False, False, "test RMSE"),
        ("test/MeanSquaredError", False, False, "test MeanSquaredError"),
        ("val/nll", False, False, "val nll"),
    ],
)
def test_what_a_key_says(key, higher, accuracy, name):
    assert (higher_is_better(key), is_accuracy(key), label(key)) == (higher, accuracy, name)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("test/top1", 0.97361, "97.36%"),
        ("test/top1", 1.0, "100.00%"),
        ("test/loss", 0.0931917, "0.09319"),
        ("test/top1", None, "-"),
    ],
)
def test_values(key, value, text):
    assert value_text(key, value) == text


@pytest.mark.parametrize(
    ("key", "difference", "sign", "text"),
    [
        ("test/top1", 0.0042, False, "0.42"),
        ("test/top1", 0.0042, True, "+0.42"),
        ("test/top1", -0.0042, True, "-0.42"),
        ("test/top1", 0.00004, False, "0.004"),
        ("test/top1", 0.0, True, "0"),
        ("test/loss", 0.012345, False, "0.0123"),
    ],
)
def test_differences(key, difference, sign, text):
    assert difference_text(key, difference, sign=sign) == text


def test_units():
    assert unit("test/top1") == "points of test top-1"
    assert unit("val/loss") == "of val loss"
