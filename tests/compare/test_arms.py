"""Tests of the grouping of runs into arms and of the labels of arms."""

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_exp.compare.arms import (
    group_runs,
    label_of,
    matching_arms,
    one_run_factors,
    parse_settings,
)
from alexnet_exp.compare.factors import Factors, find_factors
from alexnet_exp.errors import UserError
from alexnet_exp.runs.run import Run
from tests.compare.made import arm, made

VALUES = (0.95, 0.96, 0.97)


def row(top1=0.9, *, metrics=None, **config):
    """A row of a CSV file: no groups, nothing typed."""
    return Run(Path("runs.csv"), str(config), "done", config, metrics or {"test/top1": top1})


def labels(runs, **options):
    return [each.label for each in group_runs(runs, "test/top1", **options).arms]


def test_a_group_is_one_factor_for_all_its_settings():
    grouping = group_runs([*arm("lrn", VALUES), *arm("bn", VALUES)], "test/top1")
    assert grouping.factors == ["model"]
    assert [(each.label, each.n, each.seeds) for each in grouping.arms] == [
        ("model=lrn", 3, [1, 2, 3]),
        ("model=bn", 3, [1, 2, 3]),
    ]


def test_factors_are_in_the_order_of_the_overrides():
    runs = [run for model in ("lrn", "bn") for lr in (0.1, 0.01) for run in arm(model, VALUES, lr=lr)]
    assert find_factors(runs).keys == ["model", "optim.lr"]
    assert labels(runs)[1] == "model=lrn optim.lr=0.01"


def test_overrides_that_change_together_are_both_factors():
    """lrn at one rate against bn at another does not compare lrn with bn alone."""
    assert labels([*arm("lrn", VALUES, lr=0.1), *arm("bn", VALUES, lr=0.01)]) == [
        "model=lrn optim.lr=0.1",
        "model=bn optim.lr=0.01",
    ]


def test_an_override_is_a_factor_if_its_group_does_not_vary():
    plain = arm("lrn", VALUES)
    changed = arm("lrn", VALUES, config={"model.norm": "bn"}, overrides=["model.norm=bn"])
    assert labels([*plain, *changed]) == ["model.norm=lrn", "model.norm=bn"]


def test_a_setting_that_several_others_determine_is_a_factor():
    """Dropout differs between two arms and is determined by norm and rate, but it may be the cause."""
    rows = [("lrn", 0.5, 0.01), ("none", 0.5, 0.01), ("lrn", 0.0, 0.005)]
    runs = [row(norm=norm, dropout=p, lr=lr, seed=seed) for norm, p, lr in rows for seed in (1, 2, 3)]
    assert find_factors(runs).keys == ["norm", "dropout", "lr"]


def test_a_setting_changed_by_an_experiment_is_a_factor():
    """`experiment=dropout optim.lr=0.005` differs from the others in model.dropout, which is not an override."""

    def of(experiment, *overrides, lr=0.1, **model):
        config = {f"model.{key}": had for key, had in {"norm": "lrn", "dropout": 0.5, **model}.items()}
        facts = {"overrides": [f"experiment={experiment}", *overrides]}
        return [
            replace(run, choices={"model": "lrn", "experiment": experiment}, facts={**run.facts, **facts})
            for run in arm("lrn", VALUES, lr=lr, config=config)
        ]

    runs = [
        *of("analogue/dropout", "optim.lr=0.005", lr=0.005, dropout=0),
        *of("analogue/lrn", "model.norm=none", norm="none"),
        *of("analogue/base"),
    ]
    assert find_factors(runs).keys == ["optim.lr", "model.norm", "model.dropout"]


def test_an_experiment_that_changes_many_settings_is_a_factor():
    def of(experiment, lr, value):
        config = {f"{node}.{key}": value for node in ("data", "model", "schedule") for key in ("a", "b", "c", "d")}
        facts = {"overrides": [f"experiment={experiment}", f"optim.lr={lr}"]}
        return [
            replace(run, choices={"model": "lrn", "experiment": experiment}, facts={**run.facts, **facts})
            for run in arm("lrn", VALUES, lr=lr, config=config)
        ]

    runs = [*of("small", 0.1, 1), *of("large", 0.01, 2), *of("large", 0.1, 2)]
    assert find_factors(runs) == Factors(["experiment", "optim.lr"])


def test_a_stage_removed_by_an_experiment_makes_an_arm():
    there = arm("lrn", VALUES, config={"model.stages.conv4.out": 384})
    dropped = arm("lrn", VALUES, config={"model.stages.conv4": None})
    assert labels([*there, *dropped]) == ["model.stages.conv4=kept", "model.stages.conv4=null"]


def test_a_setting_that_refers_to_another_is_no_factor_of_its_own():
    runs = [
        *arm("lrn", VALUES, config={"data.random_crop": True, "data.mirror": True}),
        *arm("lrn", VALUES, config={"data.random_crop": False, "data.mirror": False}, overrides=["data.random_crop=0"]),
    ]
    assert find_factors(runs) == Factors(["data.random_crop"], together={"data.random_crop": ["data.mirror"]})


def test_settings_of_two_nodes_that_change_together_are_two_factors():
    runs = [row(**{"optim.lr": x, "schedule.warmup": x}) for x in (1, 2)]
    assert find_factors(runs).keys == ["optim.lr", "schedule.warmup"]


def test_a_setting_determined_by_its_group_is_no_factor():
    runs = [*arm("lrn", VALUES, overrides=["model.norm=lrn"]), *arm("bn", VALUES, overrides=["model.norm=bn"])]
    assert find_factors(runs).keys == ["model"]


def test_an_override_given_with_every_option_of_its_group_is_no_factor():
    runs = [
        *arm("lrn", VALUES, config={"model.width": 1}, overrides=["model.width=1"]),
        *arm("bn", VALUES, config={"model.width": 2}, overrides=["model.width=2"]),
    ]
    found = find_factors(runs)
    assert found.keys == ["model"]
    assert found.together == {"model": ["model.width"]}
    plain = [made(model, 9, 0.9, config={"model.width": width}) for model, width in (("lrn", 1), ("bn", 2))]
    assert find_factors([*runs, *plain]).together == {}  # the options themselves set it


def test_a_removed_stage_differs_from_an_existing_one():
    there = arm("lrn", VALUES, config={"model.stages.conv4.out": 384, "model.stages.conv4.kernel": 3})
    dropped = arm("lrn", VALUES, config={"model.stages.conv4": None}, overrides=["model.stages.conv4=null"])
    assert labels([*there, *dropped]) == ["model.stages.conv4=kept", "model.stages.conv4=null"]


def test_an_experiment_is_a_factor_only_without_other_overrides():
    """It is a bundle of settings: `experiment=a` and `experiment=b optim.lr=0.01` differ in the rate and no more."""

    def of(experiment, lr, *overrides):
        return [
            replace(
                run,
                choices={**run.choices, "experiment": experiment},
                facts={**run.facts, "overrides": [f"experiment={experiment}", *overrides]},
            )
            for run in arm("lrn", VALUES, lr=lr)
        ]

    assert find_factors([*of("a", 0.1), *of("b", 0.01, "optim.lr=0.01")]).keys == ["optim.lr"]
    assert find_factors([*of("a", 0.1), *of("b", 0.01)]).keys == ["experiment"]


def test_without_overrides_a_few_settings_that_change_together_are_all_factors():
    runs = [*arm("lrn", VALUES, overrides=None), *arm("bn", VALUES, overrides=None)]
    assert find_factors(runs) == Factors(["model.norm", "model.init", "model.stages.conv1.then"])


def test_without_overrides_one_setting_represents_many_that_change_together():
    runs = [row(**{f"model.{key}": value for key in "abcde"}, seed=seed) for value in (1, 2) for seed in (1, 2)]
    assert find_factors(runs) == Factors(["model.a"], together={"model.a": [f"model.{key}" for key in "bcde"]})
    assert labels(runs) == ["model.a=1", "model.a=2"]


@pytest.mark.parametrize(
    "key",
    [
        *("name", "note", "tags", "objective", "trainer.devices", "trainer.gpus", "logger.csv.name", "checkpoint.keep"),
        *("paths.output_dir", "callbacks.model_checkpoint.dirpath", "data.workers", "data_root", "paper_claim.text"),
    ],
)
def test_names_places_and_placement_make_no_arm(key):
    runs = [made("lrn", seed, 0.9, config={key: f"x{seed}"}, overrides=[f"{key}=x{seed}"]) for seed in (1, 2, 3)]
    assert [each.n for each in group_runs(runs, "test/top1").arms] == [3]
    assert find_factors(runs).keys == []


def test_a_group_that_only_changes_placement_makes_no_arm():
    runs = [
        replace(run, choices={**run.choices, "trainer": place}, facts={**run.facts, "overrides": [f"trainer={place}"]})
        for place in ("cpu", "default")
        for run in [made("lrn", len(place), 0.9, config={"trainer.accelerator": place})]
    ]
    assert find_factors(runs).keys == []


def test_a_second_seed_that_follows_the_first_makes_no_arm():
    runs = [made("lrn", seed, 0.9, config={"data.split_seed": seed + 100}, overrides=None) for seed in (1, 2, 3)]
    assert [each.n for each in group_runs(runs, "test/top1").arms] == [3]


def test_a_setting_that_counts_with_the_seed_makes_no_arm_and_is_reported():
    grouping = group_runs([row(seed=n, depth=n, norm=norm) for n in (1, 2, 3) for norm in ("lrn", "bn")], "test/top1")
    assert [one.n for one in grouping.arms] == [3, 3]
    assert grouping.together == {"seed": ["depth"]}


def test_a_setting_that_older_runs_do_not_have_makes_no_arm():
    runs = [*arm("lrn", VALUES[:2]), made("lrn", 3, 0.9, config={"model.new": 1})]
    assert labels(runs) == ["all runs"]
    assert group_runs(runs, "test/top1").partial == ["model.new"]


def test_true_is_not_one():
    runs = [made("lrn", 1, 0.9, config={"model.x": True}, overrides=None), made("lrn", 2, 0.9, config={"model.x": 1})]
    assert len(labels(runs)) == 2


def test_the_first_started_run_of_a_repeated_seed_counts():
    """Which run ended first depends on how many ran at once, and on whether one was resumed."""
    late = made("lrn", 1, 0.5, start="2026-01-01T00:05:00+00:00", end="2026-01-01T00:06:00+00:00")
    early = made("lrn", 1, 0.9, end="2026-01-01T00:09:00+00:00", overrides=["note=again"])
    (only,) = group_runs([late, early, made("lrn", 2, 0.8)], "test/top1").arms
    assert (only.seeds, only.values) == ([1, 2], [0.9, 0.8])
    assert only.repeated == [late]


def test_the_first_row_of_a_repeated_seed_counts():
    rows = [replace(row(0.9 if line == 2 else 0.5, seed=1), name=f"line {line}") for line in range(2, 12)]
    (only,) = group_runs(rows, "test/top1").arms
    assert (only.values, len(only.repeated)) == ([0.9], 9)


def test_a_second_seed_that_differs_at_one_seed_makes_arms():
    """Of three splits and three seeds no nine runs are three by the order in which they ended."""
    runs = [made("lrn", seed, 0.9, config={"data.split_seed": split}) for split in (1, 2) for seed in (1, 2, 3)]
    assert [(one.label, one.n) for one in group_runs(runs, "test/top1").arms] == [
        ("data.split_seed=1", 3),
        ("data.split_seed=2", 3),
    ]
    assert len(labels([runs[0], runs[3]])) == 2
    (only,) = group_runs(runs, "test/top1", average_over=["data.split_seed"]).arms
    assert (only.n, len(only.runs), only.repeated) == (3, 6, [])


def test_a_folder_of_data_that_differs_at_one_seed_makes_arms_and_one_of_each_run_does_not():
    runs = [row(0.9, data_dir=data, log_dir=f"{data}{n}", seed=n) for data in ("a", "b") for n in (1, 2, 3)]
    assert labels(runs) == ["data_dir=a", "data_dir=b"]


def test_runs_without_a_seed_all_count():
    runs = [replace(made("lrn", None, value), name=str(value)) for value in VALUES]
    (only,) = group_runs(runs, "test/top1").arms
    assert (only.n, only.seeds) == (3, [None] * 3)


def test_only_done_runs_with_the_metric_count():
    runs = [
        made("lrn", 1, 0.9),
        *[made("lrn", 2, 0.9, status=status) for status in ("failed", "running", "interrupted", "pruned", "died")],
        made("lrn", 3),
        made("lrn", 4, float("nan")),
    ]
    (only,) = group_runs(runs, "test/top1").arms
    assert (only.values, len(only.uncounted)) == ([0.9], 7)


def test_runs_on_other_images_are_not_pooled():
    runs = [*arm("lrn", VALUES), *arm("lrn", VALUES, fingerprint="cifar"), *arm("lrn", VALUES, test_images=100)]
    grouping = group_runs(runs, "test/top1")
    assert [each.n for each in grouping.arms] == [3, 3, 3]
    assert len({each.label for each in grouping.arms}) == 3
    assert grouping.factors == ["fingerprint"]


def test_a_run_that_failed_before_its_images_were_known_is_in_its_arm():
    failed = made("lrn", 4, status="failed", fingerprint=None, test_images=None)
    (only,) = group_runs([*arm("lrn", VALUES), failed], "test/top1").arms
    assert (only.n, only.uncounted) == (3, [failed])


def test_data_that_the_arm_determines_does_not_split_it():
    grouping = group_runs([*arm("lrn", VALUES), *arm("bn", VALUES, fingerprint="cifar")], "test/top1")
    assert grouping.factors == ["model"]
    assert grouping.data == [("digits", 360), ("cifar", 360)]


def optimizers():
    """Two optimizers, each at two rates of its own, of which the first is better by 0.02."""
    rates = {"sgd": (0.1, 0.01), "adam": (0.001, 0.0003)}
    return [
        row(0.9 + 0.001 * seed - 0.02 * place, optimizer=name, lr=lr, seed=seed)
        for place in (0, 1)
        for name, lrs in rates.items()
        for lr in lrs[place : place + 1]
        for seed in (1, 2, 3)
    ]


def test_group_by_does_not_mix_settings():
    with pytest.raises(UserError) as refused:
        group_runs(optimizers(), "test/top1", group_by=["optimizer"])
    assert str(refused.value) == (
        "--group-by optimizer: runs of one arm differ in lr (0.1, 0.01); add --best-of lr to give each arm its own "
        "best value, --where lr=VALUE to keep one value, or --average-over lr to count the mean per seed"
    )


def test_group_by_with_best_of_makes_arms_of_both():
    grouping = group_runs(optimizers(), "test/top1", group_by=["optimizer"], best_of=["lr"])
    assert grouping.factors == ["optimizer", "lr"]
    assert [one.n for one in grouping.arms] == [3] * 4


def test_settings_that_change_with_group_by_are_factors():
    assert labels(optimizers()[:6], group_by=["optimizer"]) == ["optimizer=sgd lr=0.1", "optimizer=adam lr=0.001"]


@pytest.mark.parametrize("group_by", [[], ["optimizer"]])
def test_an_average_over_a_setting_has_one_value_a_seed(group_by):
    first, second = group_runs(optimizers(), "test/top1", group_by=group_by, average_over=["lr"]).arms
    assert (first.label, first.seeds, len(first.runs)) == ("optimizer=sgd", [1, 2, 3], 6)
    assert first.values == pytest.approx([0.891, 0.892, 0.893])
    assert second.n == 3


def test_average_over_rejects_different_values_at_different_seeds():
    with pytest.raises(
        UserError, match=r"--average-over lr: optimizer=sgd does not have the same values at every seed"
    ):
        group_runs(optimizers()[1:], "test/top1", average_over=["lr"])
    halves = [row(0.9, optimizer="sgd", lr=0.1 if seed < 3 else 0.01, seed=seed) for seed in (1, 2, 3, 4)]
    with pytest.raises(UserError, match="does not have the same values"):
        group_runs(halves, "test/top1", average_over=["lr"])


def test_a_column_that_differs_in_every_row_can_be_averaged_over():
    runs = [row(0.9, optimizer=name, seconds=7 + 0.1 * n + 0.01 * seed, seed=seed)
            for n, name in enumerate(("sgd", "adam")) for seed in (1, 2, 3)]  # fmt: skip
    assert one_run_factors(group_runs(runs, "test/top1")) == ["seconds"]
    grouping = group_runs(runs, "test/top1", average_over=["seconds"])
    assert [(one.label, one.n) for one in grouping.arms] == [("optimizer=sgd", 3), ("optimizer=adam", 3)]
    assert one_run_factors(grouping) == []


@pytest.mark.parametrize("status", ["failed", "died", "interrupted", "pruned"])
def test_runs_that_do_not_count_add_no_factor(status):
    stray = made("lrn", 1, status=status, config={"data.root": "x"}, overrides=["data.root=x"])
    own = made("bn", 4, status=status)
    grouping = group_runs([*arm("lrn", VALUES), *arm("bn", VALUES), stray, own], "test/top1")
    assert grouping.factors == ["model"]
    assert grouping.outside == [stray]
    assert [one.uncounted for one in grouping.arms] == [[], [own]]


def test_an_arm_of_failed_runs_exists_if_it_is_named_or_differs_in_a_factor():
    failed = made("none", 1, status="failed")
    known = [*arm("lrn", VALUES), *arm("bn", VALUES)]
    assert labels([*known, failed]) == ["model=lrn", "model=bn", "model=none"]
    assert labels([*arm("lrn", VALUES), failed]) == ["all runs"]
    assert labels([*arm("lrn", VALUES), failed], named=["model"]) == ["model=lrn", "model=none"]


def test_a_running_run_has_its_arm():
    assert labels([*arm("lrn", VALUES), made("bn", 1, status="running")]) == ["model=lrn", "model=bn"]


def test_an_interval_of_accuracies_stays_between_0_and_1():
    (only,) = group_runs(arm("lrn", (0.999, 1.0, 0.99)), "test/top1").arms
    assert only.interval[1] == 1.0
    (loss,) = group_runs([row(0.9, seed=n, metrics={"test/loss": n}) for n in (1, 2, 3)], "test/loss").arms
    assert loss.interval[1] > 4


def test_another_setting_can_be_the_seed():
    runs = [made("lrn", 1, 0.9, config={"run.number": n}, overrides=[f"run.number={n}"]) for n in (1, 2, 3)]
    (only,) = group_runs(runs, "test/top1", seed_key="run.number").arms
    assert only.seeds == [1, 2, 3]


def test_a_baseline_is_written_as_settings():
    arms = group_runs(
        [run for m in ("lrn", "none") for lr in (0.1, 0.01) for run in arm(m, VALUES, lr=lr)], "test/top1"
    ).arms
    found = matching_arms(arms, parse_settings("model.norm=none,optim.lr=0.10"))
    assert [each.label for each in found] == ["model=none optim.lr=0.1"]
    assert [each.label for each in matching_arms(arms, parse_settings("model=lrn"))] == [arms[0].label, arms[1].label]


def test_a_list_in_a_baseline_keeps_its_commas():
    assert [condition.text for condition in parse_settings("a=[1,2],b=3")] == ["[1,2]", "3"]


def test_invalid_settings_are_rejected():
    with pytest.raises(UserError, match="not a condition"):
        parse_settings("none")


def test_labels_are_written_as_overrides():
    assert label_of({"a": None, "b.c": True, "d": [1, 2]}) == "a=null b.c=true d=[1, 2]"
