"""Compares runs and returns a `Comparison`, which every output format shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexnet_exp.compare.arms import check_group, group_runs, is_counted, mean_of, parse_settings
from alexnet_exp.compare.caveats import find_caveats
from alexnet_exp.compare.families import find_families
from alexnet_exp.compare.headline import headline
from alexnet_exp.compare.options import CompareOptions, check_options
from alexnet_exp.compare.power import plan_seeds
from alexnet_exp.compare.result import Arm, Comparison, Difference, Metric
from alexnet_exp.compare.select import metric_keys, runs_table, sort_by_metric
from alexnet_exp.compare.tables import arms_table, is_limited_to_images
from alexnet_exp.compare.tuning import best_arms, selection_caveats, tuning_caveats
from alexnet_exp.compare.verdict import Family, Judge, images_text
from alexnet_exp.errors import UserError, suggest_name
from alexnet_exp.runs.metric import higher_is_better, is_accuracy, label
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.status import Status

# The default metric is the first of these that every finished run has.
DEFAULT_METRICS = ("test/top1", "test/acc", "test/accuracy", "val/top1", "val/acc", "val/accuracy")


def compare(
    runs: Sequence[Run],
    options: CompareOptions | None = None,
    skipped: Sequence[str] = (),
    guessed: Sequence[str] = (),
) -> Comparison:
    """Returns the comparison of runs that were selected before (`--where`).

    skipped: the folders that could not be read, for `Comparison.skipped`. guessed: caveats about guesses made when the
    runs were read; they are the last caveats. Raises UserError if an option matches none of the runs.
    """
    options = options or CompareOptions()
    check_options(runs, options)
    metric = _metric(runs, options.metric)
    _check_margin(metric, options.margin)
    conditions = parse_settings(options.baseline) if options.baseline else []
    grouping = group_runs(
        runs,
        metric.key,
        group_by=options.group_by,
        best_of=options.best_of,
        average_over=options.average_over,
        named=[condition.key for condition in conditions],
        seed_key=options.seed_key,
    )
    rank = options.rank or _rank(runs, metric.key)
    arms = _sort_arms(grouping.arms, rank)
    notes: list[str] = []
    tuning: list[str] = []
    if options.best_of:
        check_group(options.best_of, grouping.factors, "--best-of")
        every = arms
        arms = best_arms(every, grouping.factors, options.best_of, rank)
        tuning = tuning_caveats(every, arms, grouping.factors, options.best_of) if len(arms) < len(every) else []
        notes += [*selection_caveats(every, arms, grouping.factors, options.best_of, rank, metric.key), *tuning]
    families: list[Family] = []
    if options.baseline:
        families, unmatched = find_families(grouping, arms, conditions, options)
        notes += unmatched
    # The interval for new images treats every run as a seed of its own.
    with_images = options.images and not options.average_over
    judge = Judge(metric, options.margin, options.paired, options.seed_key, with_images)
    every_difference = judge.judge(families)
    shown_arms, differences = _top(arms, every_difference, options.top)
    listed = runs_table(sort_by_metric(runs, rank)[: options.top], grouping.factors, options.columns)
    table = listed
    if any(arm.n > 1 or arm.repeated for arm in arms):
        table = arms_table(shown_arms, differences, grouping.factors, metric, rank, options.columns)
    best_of = options.best_of if len(arms) < len(grouping.arms) else ()
    return Comparison(
        metric=metric,
        sentence=headline(metric, arms, every_difference, rank, best_of),
        arms=shown_arms,
        differences=differences,
        table=table,
        runs_table=listed,
        caveats=[*notes, *_images_caveats(metric, differences), *find_caveats(grouping, arms, metric.key), *guessed],
        varying=grouping.factors,
        runs=list(runs),
        skipped=list(skipped),
        margin=options.margin,
        tuning=tuning,
        plan=plan_seeds(metric, families, options.margin) if options.margin is not None else "",
    )


def default_metric(runs: Sequence[Run]) -> str:
    """Returns the metric that is compared by default."""
    done = [run for run in runs if run.status == Status.DONE]
    known = metric_keys(runs)
    of_all = [key for key in known if all(key in run.metrics for run in done)]
    others = sorted(of_all, key=lambda key: (not is_accuracy(key), not key.startswith("test"), key.startswith("train")))
    defaults = (key for key in DEFAULT_METRICS if key in of_all)
    return next(iter([*defaults, *others, *known]), DEFAULT_METRICS[0])


def _metric(runs: Sequence[Run], asked: str | None) -> Metric:
    known = metric_keys(runs)
    if asked is not None and runs and asked not in known:
        raise UserError(
            f"--metric: no run has {asked}; {suggest_name(asked, known) if known else 'no run has a metric'}"
        )
    key = default_metric(runs) if asked is None else asked
    return Metric(key, label(key), higher_is_better(key), is_accuracy(key))


def _check_margin(metric: Metric, margin: float | None) -> None:
    if margin is not None and metric.percent and margin >= 1:
        points = f"{100 * margin:g} points of {metric.label}"
        raise UserError(f"--margin {margin:g}: this is {points}; half a point is 0.005 or 0.5%")


def _rank(runs: Sequence[Run], metric: str) -> str:
    """Returns the common objective of the runs if they have its values, else val/top1, else the verdicts' metric."""
    done = [run for run in runs if is_counted(run, metric)]
    objectives = {run.config.get("objective") for run in done}
    split, _, name = metric.partition("/")
    for key in (*(objectives if len(objectives) == 1 else ()), f"val/{name}" if split == "test" else metric):
        if isinstance(key, str) and done and all(key in run.metrics for run in done):
            return key
    return metric


def _sort_arms(arms: Sequence[Arm], rank: str) -> list[Arm]:
    """Returns the arms, best first and those without a value last."""
    sign = -1 if higher_is_better(rank) else 1
    return sorted(arms, key=lambda arm: math.inf if (mean := mean_of(arm, rank)) is None else sign * mean)


def _images_caveats(metric: Metric, differences: Sequence[Difference]) -> list[str]:
    """Returns a line for each verdict that may not hold for other test images."""
    return [
        f"{images_text(metric, difference)}: on other images of this kind there may be no difference"
        for difference in differences
        if is_limited_to_images(difference)
    ]


def _top(arms: Sequence[Arm], differences: list[Difference], top: int | None) -> tuple[list[Arm], list[Difference]]:
    """Returns the first `top` arms and their baselines. All arms were tested, so the verdicts do not change."""
    if top is None:
        return list(arms), differences
    ids = {id(arm) for arm in arms[:top]}
    kept = [difference for difference in differences if id(difference.arm) in ids]
    baselines = {id(difference.baseline) for difference in kept or differences}
    return [arm for arm in arms if id(arm) in ids | baselines], kept
