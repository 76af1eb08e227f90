"""Tests of the caveats of a comparison."""

import pytest

from alexnet_exp.compare.compare import compare
from alexnet_exp.compare.options import CompareOptions
from tests.compare.made import arm, made

VALUES = (0.95, 0.96, 0.97)


def lines(runs, **options):
    return compare(runs, CompareOptions(**options)).caveats


def test_no_caveats():
    assert lines([*arm("lrn", VALUES), *arm("none", VALUES)]) == []


@pytest.mark.parametrize(
    ("key", "one", "other", "told"),
    [
        ("commit", "a" * 40, "b" * 40, "the code's commit differs between the arms"),
        ("device", "H100", "CPU", "the device differs between the arms"),
        ("precision", "32-true", "bf16-mixed", "the precision differs between the arms"),
        ("effective_batch", 128, 256, "the effective batch differs between the arms"),
        ("versions", {"torch": "2.9"}, {"torch": "2.14"}, "the version of torch differs between the arms"),
        ("ranks", 1, 2, "the number of processes differs between the arms"),
    ],
)
def test_a_fact_that_differs_between_arms(key, one, other, told):
    found = lines([*arm("lrn", VALUES, **{key: one}), *arm("none", VALUES, **{key: other})])
    (line,) = found
    assert line.startswith(told)
    assert "model=lrn" in line


def test_a_fact_that_differs_within_an_arm_is_counted():
    runs = [*arm("lrn", VALUES), *[made("none", seed, 0.9, device="A100" if seed == 1 else None) for seed in (1, 2, 3)]]
    assert lines(runs) == ["the device differs: unknown (5 runs), A100 (1 run)"]


def test_facts_changed_by_a_factor_are_no_caveat():
    runs = [
        made(
            "lrn",
            seed,
            0.9,
            config={"data.batch_size": size},
            overrides=[f"data.batch_size={size}"],
            effective_batch=size,
        )
        for size in (128, 256)
        for seed in (1, 2, 3)
    ]
    assert lines(runs) == []


def test_uncommitted_changes():
    (line,) = lines([*arm("lrn", VALUES, dirty=True), *arm("none", VALUES)])
    assert line.startswith("uncommitted changes in the code of 3 of 6 runs")


def test_failed_and_running_runs_by_arm():
    runs = [
        *arm("lrn", VALUES),
        made("lrn", 4, status="failed"),
        made("lrn", 5, status="running"),
        *arm("none", VALUES),
    ]
    assert lines(runs) == ["model=lrn: 1 failed, 1 running, not counted"]


def test_a_repeated_seed():
    again = made("lrn", 1, 0.9, overrides=["note=again"], end="2026-02-01T00:00:00+00:00")
    assert lines([*arm("lrn", VALUES), again, *arm("none", VALUES)]) == [
        "model=lrn: seed 1 ran more than once; the run started first counts"
    ]


def test_different_seeds():
    runs = [*arm("lrn", VALUES), *[made("none", seed, 0.9) for seed in (2, 3, 5)]]
    assert lines(runs) == ["the arms have different seeds: model=lrn 1-3; model=none 2-3, 5"]


def test_the_least_common_seeds_come_first():
    runs = [made("lrn", seed, 0.9, lr=lr) for lr in (0.1, 0.2, 0.3, 0.4, 0.5) for seed in (1, 2, 3)]
    (line,) = lines(runs[:-1])
    assert line.startswith("the arms have different seeds: optim.lr=0.5 1-2; optim.lr=0.1")
    assert line.endswith(" 1-3")


def test_settings_that_are_no_factor_are_listed():
    both = [{"data.crop": value, "data.mirror": value} for value in (True, False)]
    crops = [[], ["data.crop=false"]]
    runs = [run for c, o in zip(both, crops, strict=True) for run in arm("lrn", VALUES, config=c, overrides=o)]
    assert lines(runs) == ["data.crop never changes alone: data.mirror changes with it"]
    newer = arm("none", VALUES, config={"data.new": 1})
    assert lines([*arm("lrn", VALUES), *newer]) == ["only some runs recorded data.new (another version of the code?)"]


def test_a_second_seed_is_listed_if_the_arm_determines_it():
    both = (("lrn", 0), ("none", 7))
    runs = [run for model, split in both for run in arm(model, VALUES, config={"data.split_seed": split})]
    assert lines(runs) == [
        "data.split_seed differs between the arms, which may be the cause of the difference: 0 for model=lrn; "
        "7 for model=none"
    ]
    follows = [made(m, n, 0.9, config={"data.split_seed": n + 100}) for m in ("lrn", "none") for n in (1, 2, 3)]
    assert lines(follows) == []


def test_average_over_is_listed():
    runs = [run for lr in (0.1, 0.3) for run in arm("lrn", VALUES, lr=lr)]
    assert lines(runs, average_over=["optim.lr"]) == [
        "optim.lr makes no arms; the value of a seed is the mean over its runs"
    ]


def test_seeds_added_by_another_sweep(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").touch()
    runs = [
        made("lrn", seed, 0.9, sweep=str(tmp_path / ("first" if seed < 4 else "second")), start=f"2026-01-0{seed}")
        for seed in (1, 2, 3, 4, 5)
    ]
    (line,) = lines(runs)
    assert line.startswith("seeds were added in several batches: all runs (1-3, then 4-5)")


def test_runs_started_more_than_an_hour_apart_are_batches():
    def at(hour):
        return {"start": f"2026-01-01T{hour:02}:00:00+00:00", "end": f"2026-01-01T{hour:02}:50:00+00:00"}

    together = [made("lrn", seed, 0.9, **at(seed)) for seed in (1, 2, 3)]
    assert lines(together) == []
    (line,) = lines([*together, made("lrn", 4, 0.9, **at(9))])
    assert "(1-3, then 4)" in line


def test_an_invalid_claim_is_listed():
    (line,) = lines(arm("lrn", VALUES, paper_claim={"text": "much better"}))
    assert "not shown, because paper_claim.difference=null: must be a number" in line
