"""Tests of the interval for new images against the true spread of images and seeds."""

from dataclasses import replace

import numpy as np
import pytest

from alexnet_exp.compare.bootstrap import Answers, bootstrap_interval
from alexnet_exp.compare.compare import compare
from alexnet_exp.compare.options import CompareOptions
from alexnet_exp.compare.render.text import details
from tests.compare.made import made


def with_predictions(folder, model, seed, right, labels, classes=4, top=None):
    """A run in `folder` that is right on the images where `right` says so."""
    guessed = np.where(right, labels, (labels + 1) % classes)
    probabilities = np.full((len(labels), classes), 0.1, np.float16)
    probabilities[np.arange(len(labels)), guessed] = 0.7
    arrays = {"labels": labels, "probabilities": probabilities}
    if top:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top].astype(np.int32)
        arrays |= {"classes": order, "probabilities": np.take_along_axis(probabilities, order, axis=1)}
    path = folder / f"{model}-{seed}"
    (path / "predictions").mkdir(parents=True)
    np.savez_compressed(path / "predictions" / "test.npz", **arrays)
    return replace(made(model, seed, float(right.mean())), path=path)


def two_arms(folder, images=400, seeds=4, gap=0.05, number=0, **options):
    """Images are hard or easy for all runs alike; the first arm is better by `gap`; no seed is better than another."""
    generator = np.random.default_rng(number)
    labels, hard = generator.integers(0, 4, images), generator.random(images)
    return [
        [
            with_predictions(
                folder, model, seed, 0.6 * hard + 0.4 * generator.random(images) < 0.6 + more, labels, **options
            )
            for seed in range(1, seeds + 1)
        ]
        for model, more in (("lrn", gap), ("none", 0.0))
    ]


def test_the_interval_contains_the_difference_and_is_reproducible(tmp_path):
    first, second = two_arms(tmp_path)
    measured = np.mean([run.metrics["test/top1"] for run in first]) - np.mean(
        [run.metrics["test/top1"] for run in second]
    )
    low, high = bootstrap_interval(first, second, Answers("test/top1"))
    assert low < measured < high
    assert bootstrap_interval(first, second, Answers("test/top1")) == (low, high)


def test_the_width_equals_the_spread_of_new_images(tmp_path):
    """Without any effect of the seed, against the spread of the difference over fresh images and runs."""
    differences = []
    for number in range(60):
        first, second = two_arms(tmp_path / str(number), images=200, seeds=3, number=number)
        differences.append(
            np.mean([run.metrics["test/top1"] for run in first]) - np.mean([r.metrics["test/top1"] for r in second])
        )
    widths = []
    for number in range(60):
        first, second = (
            [replace(made("lrn", s, 0.5), path=tmp_path / str(number) / f"{m}-{s}") for s in (1, 2, 3)]
            for m in ("lrn", "none")
        )
        low, high = bootstrap_interval(first, second, Answers("test/top1"))
        widths.append(high - low)
    truth = 2 * 1.96 * np.std(differences, ddof=1)
    # what an image and a seed do together is in both parts: too wide, never too narrow
    assert 0.9 * truth < np.mean(widths) < 2.5 * truth


@pytest.mark.parametrize("seeds", [3, 5, pytest.param(25, marks=pytest.mark.slow)])
def test_coverage(tmp_path, seeds):
    """Arms without a difference, whose seeds matter: each run is right with a probability of its own."""
    held = 0
    for number in range(200):
        generator = np.random.default_rng(number)
        labels = generator.integers(0, 4, 400)
        answers = Answers("test/top1")
        arms = []
        for model in ("lrn", "none"):
            runs = [
                replace(made(model, seed, 0.5), path=tmp_path / f"{number}-{model}-{seed}") for seed in range(seeds)
            ]
            for run in runs:
                answers._read[run.path] = labels, generator.random(400) < generator.normal(0.6, 0.08)
            arms.append(runs)
        low, high = bootstrap_interval(*arms, answers)
        held += low <= 0 <= high
    assert held >= 0.92 * 200, "a bootstrap of three seeds holds it 9 times in 10"


def test_predictions_of_only_the_first_classes_suffice(tmp_path):
    whole = two_arms(tmp_path / "whole", classes=4)
    cut = two_arms(tmp_path / "cut", classes=4, top=2)
    assert bootstrap_interval(*whole, Answers("test/top1")) == bootstrap_interval(*cut, Answers("test/top1"))


def test_top5_allows_five_guesses(tmp_path):
    first, second = two_arms(tmp_path, classes=4)
    assert bootstrap_interval(first, second, Answers("test/top5")) == (0.0, 0.0)


@pytest.mark.parametrize("damage", ["missing", "cut short", "other labels", "no labels"])
def test_no_interval_for_missing_or_damaged_predictions(tmp_path, damage):
    first, second = two_arms(tmp_path)
    file = first[1].path / "predictions" / "test.npz"
    if damage == "missing":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "other labels":
        np.savez(file, labels=np.zeros(400, int), probabilities=np.ones((400, 4)))
    else:
        np.savez(file, probabilities=np.ones((400, 4)))
    assert bootstrap_interval(first, second, Answers("test/top1")) is None


def test_no_interval_for_another_metric_or_too_few_seeds(tmp_path):
    first, second = two_arms(tmp_path)
    assert bootstrap_interval(first, second, Answers("val/top1")) is None
    assert bootstrap_interval(first[:2], second, Answers("test/top1")) is None


def test_the_comparison_contains_the_interval(tmp_path):
    first, second = two_arms(tmp_path)
    (difference,) = compare([*first, *second], CompareOptions(baseline="model=none")).differences
    assert difference.images_interval == bootstrap_interval(first, second, Answers("test/top1"))
    comparison = compare([*first, *second], CompareOptions(baseline="model=none"))
    (text,) = [line for line in [*details(comparison), *comparison.caveats] if "over new test images" in line]
    assert text.startswith("lrn against none, over new test images as well as new seeds: ")
    assert (text in details(comparison)) == (difference.images_interval[0] > 0)
    (without,) = compare([*first, *second], CompareOptions(baseline="model=none", images=False)).differences
    assert without.images_interval is None


def test_a_verdict_that_depends_on_the_images_is_marked(tmp_path):
    """Each arm is right on images of its own, whatever the seed: these 60 images decide, not the change."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 60)
    runs = []
    for model, right in (("lrn", 44), ("none", 38)):
        own = generator.permutation(60) < right
        runs += [with_predictions(tmp_path, model, seed, own ^ (np.arange(60) == seed), labels) for seed in range(1, 6)]
    found = compare(runs, CompareOptions(baseline="model=none"))
    (difference,) = found.differences
    assert difference.interval[0] > 0 > difference.images_interval[0]
    assert found.sentence.startswith("lrn beats none on these test images by ")
    assert found.table.rows[0][found.table.keys.index("verdict")] == "better on these images"
    assert any("on other images of this kind there may be no difference" in line for line in found.caveats)
    without = compare(runs, CompareOptions(baseline="model=none", images=False))
    assert without.sentence.startswith("lrn beats none by ")
