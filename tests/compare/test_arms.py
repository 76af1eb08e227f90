"""Which runs make an arm, and what it is called."""

from dataclasses import replace

import pytest

from alexnet_exp.compare.arms import find_factors, fold, label_of, matching, parse_settings
from alexnet_exp.settings import UserError
from tests.compare.made import arm, made

VALUES = (0.95, 0.96, 0.97)


def labels(runs, **options):
    return [each.label for each in fold(runs, "test/top1", **options).arms]


def test_a_group_stands_for_all_that_its_option_sets():
    folded = fold([*arm("lrn", VALUES), *arm("bn", VALUES)], "test/top1")
    assert folded.factors == ["model"]
    assert [(each.label, each.n, each.seeds) for each in folded.arms] == [
        ("model=lrn", 3, [1, 2, 3]),
        ("model=bn", 3, [1, 2, 3]),
    ]


def test_settings_that_were_swept_are_named_in_the_order_typed():
    runs = [run for model in ("lrn", "bn") for lr in (0.1, 0.01) for run in arm(model, VALUES, lr=lr)]
    assert find_factors(runs) == ["model", "optim.lr"]
    assert labels(runs)[1] == "model=lrn optim.lr=0.01"


def test_what_was_typed_in_lockstep_is_named_too():
    """lrn at one rate against bn at another is no comparison of lrn with bn alone."""
    assert labels([*arm("lrn", VALUES, lr=0.1), *arm("bn", VALUES, lr=0.01)]) == [
        "model=lrn optim.lr=0.1",
        "model=bn optim.lr=0.01",
    ]


def test_a_setting_typed_beside_its_group_tells_arms_apart_where_the_group_does_not():
    plain = arm("lrn", VALUES)
    changed = arm("lrn", VALUES, config={"model.norm": "bn"}, overrides=["model.norm=bn"])
    assert labels([*plain, *changed]) == ["model.norm=lrn", "model.norm=bn"]


def test_what_the_group_decides_is_not_named_again():
    runs = [*arm("lrn", VALUES, overrides=["model.norm=lrn"]), *arm("bn", VALUES, overrides=["model.norm=bn"])]
    assert find_factors(runs) == ["model"]


def test_a_dropped_stage_is_told_from_one_that_is_there():
    there = arm("lrn", VALUES, config={"model.stages.conv4.out": 384, "model.stages.conv4.kernel": 3})
    dropped = arm("lrn", VALUES, config={"model.stages.conv4": None}, overrides=["model.stages.conv4=null"])
    assert labels([*there, *dropped]) == ["model.stages.conv4=kept", "model.stages.conv4=null"]


def test_an_experiment_is_named_only_where_nothing_else_was_typed():
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

    assert find_factors([*of("a", 0.1), *of("b", 0.01, "optim.lr=0.01")]) == ["optim.lr"]
    assert find_factors([*of("a", 0.1), *of("b", 0.01)]) == ["experiment"]


def test_without_what_was_typed_one_setting_stands_for_those_that_change_together():
    runs = [*arm("lrn", VALUES, overrides=None), *arm("bn", VALUES, overrides=None)]
    assert len(find_factors(runs)) == 1
    assert len(labels(runs)) == 2


@pytest.mark.parametrize(
    "key",
    [
        *("name", "note", "tags", "objective", "trainer.devices", "trainer.gpus", "logger.csv.name", "checkpoint.keep"),
        *("paths.output_dir", "callbacks.model_checkpoint.dirpath", "data.workers", "data_root", "paper_claim.text"),
    ],
)
def test_names_places_and_placement_make_no_arm(key):
    runs = [made("lrn", seed, 0.9, config={key: f"x{seed}"}, overrides=[f"{key}=x{seed}"]) for seed in (1, 2, 3)]
    assert [each.n for each in fold(runs, "test/top1").arms] == [3]
    assert find_factors(runs) == []


def test_a_group_that_only_places_makes_no_arm():
    runs = [
        replace(run, choices={**run.choices, "trainer": place}, facts={**run.facts, "overrides": [f"trainer={place}"]})
        for place in ("cpu", "default")
        for run in [made("lrn", len(place), 0.9, config={"trainer.accelerator": place})]
    ]
    assert find_factors(runs) == []


def test_a_second_seed_that_follows_the_first_makes_no_arm():
    runs = [made("lrn", seed, 0.9, config={"data.split_seed": seed + 100}, overrides=None) for seed in (1, 2, 3)]
    assert [each.n for each in fold(runs, "test/top1").arms] == [3]


def test_a_setting_that_older_runs_do_not_have_makes_no_arm():
    runs = [*arm("lrn", VALUES[:2]), made("lrn", 3, 0.9, config={"model.new": 1})]
    assert labels(runs) == ["all runs"]


def test_true_is_not_one():
    runs = [made("lrn", 1, 0.9, config={"model.x": True}, overrides=None), made("lrn", 2, 0.9, config={"model.x": 1})]
    assert len(labels(runs)) == 2


def test_a_seed_that_ran_twice_counts_once_the_first_that_ended():
    late = made("lrn", 1, 0.5, end="2026-01-01T00:09:00+00:00")
    early = made("lrn", 1, 0.9, end="2026-01-01T00:01:00+00:00", overrides=["note=again"])
    (only,) = fold([late, early, made("lrn", 2, 0.8)], "test/top1").arms
    assert (only.seeds, only.values) == ([1, 2], [0.9, 0.8])
    assert only.repeated == [late]


def test_runs_without_a_seed_all_count():
    runs = [replace(made("lrn", None, value), name=str(value)) for value in VALUES]
    (only,) = fold(runs, "test/top1").arms
    assert (only.n, only.seeds) == (3, [None] * 3)


def test_only_done_runs_with_the_metric_count():
    runs = [
        made("lrn", 1, 0.9),
        *[made("lrn", 2, 0.9, status=status) for status in ("failed", "running", "interrupted", "pruned", "died")],
        made("lrn", 3),
        made("lrn", 4, float("nan")),
    ]
    (only,) = fold(runs, "test/top1").arms
    assert (only.values, len(only.uncounted)) == ([0.9], 7)


def test_runs_on_other_images_are_not_pooled():
    runs = [*arm("lrn", VALUES), *arm("lrn", VALUES, fingerprint="cifar"), *arm("lrn", VALUES, test_images=100)]
    folded = fold(runs, "test/top1")
    assert [each.n for each in folded.arms] == [3, 3, 3]
    assert len({each.label for each in folded.arms}) == 3
    assert folded.factors == ["fingerprint"]


def test_a_run_that_failed_before_its_images_were_known_stays_in_its_arm():
    failed = made("lrn", 4, status="failed", fingerprint=None, test_images=None)
    (only,) = fold([*arm("lrn", VALUES), failed], "test/top1").arms
    assert (only.n, only.uncounted) == (3, [failed])


def test_data_that_goes_with_the_arm_splits_nothing():
    folded = fold([*arm("lrn", VALUES), *arm("bn", VALUES, fingerprint="cifar")], "test/top1")
    assert folded.factors == ["model"]
    assert folded.data == [("digits", 360), ("cifar", 360)]


def test_group_by_pools_what_differs_otherwise_and_says_so():
    runs = [*arm("lrn", VALUES, lr=0.1), *[made("lrn", seed, 0.9, lr=0.01) for seed in (4, 5)], *arm("bn", VALUES)]
    folded = fold(runs, "test/top1", group_by=["model"])
    assert [(each.label, each.n) for each in folded.arms] == [("model=lrn", 5), ("model=bn", 3)]
    assert folded.stray == {"optim.lr": [0.01, 0.1]}


def test_another_setting_can_be_the_seed():
    runs = [made("lrn", 1, 0.9, config={"run.number": n}, overrides=[f"run.number={n}"]) for n in (1, 2, 3)]
    (only,) = fold(runs, "test/top1", seed_key="run.number").arms
    assert only.seeds == [1, 2, 3]


def test_a_baseline_is_written_as_settings():
    arms = fold([run for m in ("lrn", "none") for lr in (0.1, 0.01) for run in arm(m, VALUES, lr=lr)], "test/top1").arms
    found = matching(arms, parse_settings("model.norm=none,optim.lr=0.10"))
    assert [each.label for each in found] == ["model=none optim.lr=0.1"]
    assert [each.label for each in matching(arms, parse_settings("model=lrn"))] == [arms[0].label, arms[1].label]


def test_a_list_in_a_baseline_keeps_its_commas():
    assert [condition.text for condition in parse_settings("a=[1,2],b=3")] == ["[1,2]", "3"]


def test_what_is_no_setting_is_refused():
    with pytest.raises(UserError, match="not a condition"):
        parse_settings("none")


def test_labels_are_as_one_types_them():
    assert label_of({"a": None, "b.c": True, "d": [1, 2]}) == "a=null b.c=true d=[1, 2]"
