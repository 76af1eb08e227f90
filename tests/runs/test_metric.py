"""Which end of a metric is good, and how its values and differences are written."""

import pytest

from alexnet_exp.runs.metric import (
    declare,
    difference_text,
    direction_is_known,
    direction_text,
    higher_is_better,
    is_accuracy,
    is_time,
    label,
    metric_name,
    unit,
    value_text,
)


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
def test_direction_and_label_of_keys(key, higher, accuracy, name):
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


SMALLER = """test error (%)|Error (%)|err@1|err1|test/err@5|RMSE (m)|('ose_metrics.csv', 'rmse')
test_loss (mean)|loss[val]|NLL/token|latency_ms|time|wall_time
misclassification|MeanSquaredError|NLLLoss|valloss|val/top1_error|minutes|test/seconds
negative_log_likelihood|sparse_categorical_crossentropy|train/epochs_to_target|test.err|Loss/train"""
GREATER = """test/top1|top-5|val/acc@5|accuracy (%)|Test Accuracy|test/f1|R2|mAP50|ms_ssim|images/s|samples/sec
tokens_per_second|neg_mean_squared_error|inferred_score|recall@10"""
UNKNOWN = "terrace|timestep|sometimes|mirror_count|errand|lossless_ratio|val/elo|inferred|stop1|topology"


@pytest.mark.parametrize("key", SMALLER.replace("\n", "|").split("|"))
def test_lower_is_better(key):
    assert not higher_is_better(key)
    assert direction_is_known(key)
    assert direction_text(key) == "Lower is better"


@pytest.mark.parametrize("key", GREATER.replace("\n", "|").split("|"))
def test_higher_is_better(key):
    assert higher_is_better(key)
    assert direction_is_known(key)


@pytest.mark.parametrize("key", UNKNOWN.split("|"))
def test_words_that_contain_a_metric_word_have_no_direction(key):
    assert not direction_is_known(key)
    assert not is_accuracy(key)
    assert "--lower-is-better" in direction_text(key)


def test_declare_overrides_the_name_in_every_split():
    with declare("test/elo", higher_is_better=False, percent=True):
        assert not higher_is_better("test/elo")
        assert not higher_is_better("val/elo")
        assert direction_text("val/elo") == "Lower is better"
        assert value_text("val/elo", 0.5) == "50.00%"
        assert higher_is_better("test/acc")
    assert higher_is_better("test/elo")
    assert value_text("val/elo", 0.5) == "0.5"


def test_times_and_settings_with_time_in_the_name_are_distinguished():
    times = ("wall_time", "epoch_time_s", "latency_ms", "images/s", "minutes")
    assert [is_time(name) for name in times] == [True] * len(times)
    others = ("time_embedding", "time_steps", "epochs", "timestep", "hourglass")
    assert [is_time(name) for name in others] == [False] * len(others)


def test_names_of_other_projects():
    columns = (
        "test_acc",
        "valid/loss",
        "validation_f1",
        "train.acc",
        "Test Accuracy",
        "Loss/train",
        "lr-Adam",
        "NLL/token",
    )
    assert [metric_name(column) for column in columns] == [
        *("test/acc", "val/loss", "val/f1", "train/acc", "test/accuracy", "train/Loss", "lr-Adam", "NLL/token")
    ]
