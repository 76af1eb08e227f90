"""Tests of the comparison from runs to sentences: verdicts, errors, selection."""

import math
import random
from pathlib import Path

import pytest
from scipy import stats

from alexnet_exp.compare.compare import compare
from alexnet_exp.compare.options import CompareOptions
from alexnet_exp.compare.result import Verdict
from alexnet_exp.compare.statistics import REPEATED_TEST_PERCENT
from alexnet_exp.errors import UserError
from alexnet_exp.runs.read_runs import read_runs
from tests.compare.made import arm, made

ABLATION = Path(__file__).parents[2] / "benchmarks" / "results" / "ablation" / "runs.csv"
LRN = (0.975, 0.977, 0.974, 0.976, 0.978)
NONE = (0.970, 0.972, 0.969, 0.971, 0.974)
BASE = CompareOptions(baseline="model=none")


def only(runs, options=BASE):
    (difference,) = compare(runs, options).differences
    return difference


def test_better_with_its_interval_in_one_sentence():
    found = compare([*arm("lrn", LRN), *arm("none", NONE)], BASE)
    low, high = stats.ttest_ind(LRN, NONE, equal_var=False).confidence_interval()
    assert found.sentence == (
        f"lrn beats none by 0.48 points of test top-1 (95% interval {100 * low:.2f} to {100 * high:.2f}; 5 seeds each)."
    )
    assert found.differences[0].verdict is Verdict.better
    assert found.differences[0].interval == pytest.approx((low, high))
    assert found.differences[0].command is None


def test_worse_with_the_interval_mirrored():
    found = only([*arm("lrn", LRN), *arm("none", NONE)], CompareOptions(baseline="model.norm=lrn"))
    assert found.verdict is Verdict.worse
    assert found.sentence.startswith("none is worse than lrn by 0.48 points of test top-1 (95% interval 0.")
    assert found.interval[1] < 0


def test_less_loss_is_better():
    runs = [
        made(model, seed, 0.9, metrics={"test/loss": loss + 0.001 * seed})
        for model, loss in (("lrn", 0.1), ("none", 0.2))
        for seed in (1, 2, 3)
    ]
    found = compare(runs, CompareOptions(metric="test/loss", baseline="model=none"))
    assert found.differences[0].verdict is Verdict.better
    assert found.sentence.startswith("lrn beats none by 0.1 of test loss (95% interval 0.09")


def test_inconclusive_reports_the_detectable_difference():
    found = only([*arm("lrn", (0.97, 0.98, 0.975)), *arm("none", (0.968, 0.979, 0.974))])
    assert found.verdict is Verdict.inconclusive
    assert 0.005 < found.bound < 0.1
    assert f"detectable difference: {100 * found.bound:.2f} points" in found.sentence


def test_a_tiny_difference_has_no_command():
    found = only([*arm("lrn", (0.97, 0.98, 0.975)), *arm("none", (0.968, 0.979, 0.974))])
    assert (found.more_seeds, found.more_seeds_range, found.command) == (None, None, None)
    assert found.sentence.endswith(
        "Even 100 more seeds per arm are too few to detect a difference of 0.13 points with 80% power, if that is "
        "the true difference"
    )


def test_no_difference_above_the_margin():
    runs = [*arm("lrn", (0.9701, 0.9702, 0.9705)), *arm("none", (0.9703, 0.9700, 0.9706))]
    found = only(runs, CompareOptions(baseline="model=none", margin=0.005))
    assert (found.verdict, found.bound) == (Verdict.no_difference, 0.005)
    assert found.sentence.startswith("no difference above 0.50 points of test top-1 between lrn and none: -0.003 (90% ")
    assert only(runs).verdict is Verdict.inconclusive


@pytest.mark.parametrize("overrides", [(), None])
def test_inconclusive_for_a_margin_reports_the_seeds_needed(overrides):
    """As a range, since three seeds say little of the spread; for runs from a CSV file (nothing was typed) too."""
    values = {"lrn": (0.97, 0.98, 0.975), "none": (0.968, 0.979, 0.974)}
    runs = [run for model, each in values.items() for run in arm(model, each, overrides=overrides)]
    base = "model.norm=none"
    found = only(runs, CompareOptions(baseline=base, margin=0.01))
    low, high = found.more_seeds_range
    assert found.verdict is Verdict.inconclusive
    assert low < found.more_seeds < high
    assert (
        f"{low} to {high} more seeds per arm ({found.more_seeds} on average over the likely spread) are needed to "
        "detect a difference of 1.00 points with 80% power. Testing all seeds again afterwards gives a false verdict "
        f"in {REPEATED_TEST_PERCENT} of 100 cases instead of 5"
    ) in found.sentence
    assert found.more_seeds < only(runs, CompareOptions(baseline=base, margin=0.005)).more_seeds
    if overrides is not None:
        seeds = ",".join(str(4 + place) for place in range(found.more_seeds))
        assert found.command == f"python -m alexnet_exp -m model=lrn,none optim.lr=0.1 seed={seeds}"


def test_a_significant_difference_below_the_margin_is_reported():
    found = only([*arm("lrn", LRN), *arm("none", NONE)], CompareOptions(baseline="model=none", margin=0.02))
    assert found.verdict is Verdict.better


def test_one_run_each():
    found = only([made("lrn", 1, 0.97), made("none", 1, 0.96)])
    assert found.verdict is Verdict.inconclusive
    assert found.interval is None
    assert "lrn 97.00%, none 96.00%, one run each, which does not separate the change from chance" in found.sentence
    assert found.command == "python -m alexnet_exp -m model=lrn,none optim.lr=0.1 seed=2,3"


def test_two_runs_each_show_both_values_and_no_interval():
    found = only([*arm("lrn", (0.97, 0.98)), *arm("none", (0.96, 0.95))])
    assert (found.interval, found.bound, found.more_seeds) == (None, None, 1)
    assert "lrn 97.00% and 98.00%, none 96.00% and 95.00%" in found.sentence


def test_an_arm_without_a_finished_run():
    found = only([made("lrn", 1, status="failed"), *arm("none", NONE)])
    assert math.isnan(found.difference)
    assert found.sentence == "inconclusive (lrn against none): lrn has no finished run"


def test_values_without_spread():
    found = only([*arm("lrn", (1.0, 1.0, 1.0)), *arm("none", (0.5, 0.5, 0.5))])
    assert (found.verdict, found.bound) == (Verdict.inconclusive, None)
    assert "without spread" in found.sentence


def test_several_arms_are_tested_together():
    found = compare([*arm("lrn", LRN), *arm("bn", (0.99, 0.991, 0.989, 0.992, 0.99)), *arm("none", NONE)], BASE)
    assert [difference.method for difference in found.differences] == ["Welch with Holm"] * 2
    alone = [stats.ttest_ind(each, NONE, equal_var=False).pvalue for each in ((0.99, 0.991, 0.989, 0.992, 0.99), LRN)]
    assert [difference.p for difference in found.differences] == pytest.approx([2 * alone[0], alone[1]])
    assert found.sentence.startswith("bn beats none by")
    assert "95% interval for 2 arms together" in found.sentence
    assert found.sentence.endswith("The other one is better, by less.")


def test_the_sentence_is_about_the_largest_difference_not_the_smallest_p():
    """A small difference of seeds that hardly vary has the smaller p, and is not what a reader looks for."""
    sure, large = arm("bn", (0.9801, 0.9802, 0.9801, 0.98, 0.9801)), arm("lrn", (0.978, 0.995, 0.985, 0.999, 0.988))
    found = compare([*sure, *large, *arm("none", NONE)], BASE)
    by_name = {difference.arm.label: difference for difference in found.differences}
    assert by_name["model=bn"].p < by_name["model=lrn"].p < 0.05
    assert found.sentence.startswith("lrn beats none by 1.78 points")
    assert found.sentence.endswith("The other one is better, by less.")


def test_pairs_only_on_request_and_with_their_correlation():
    noise = random.Random(1)
    shared = [noise.gauss(0, 0.02) for _ in range(6)]
    lrn = arm("lrn", [0.952 + each + noise.gauss(0, 0.0005) for each in shared])
    none = arm("none", [0.950 + each + noise.gauss(0, 0.0005) for each in shared])
    assert only([*lrn, *none]).verdict is Verdict.inconclusive
    found = only([*lrn, *none[1:]], CompareOptions(baseline="model=none", paired=True))
    assert (found.verdict, found.method) == (Verdict.better, "paired t")
    values = [[run.metrics["test/top1"] for run in runs] for runs in (lrn[1:], none[1:])]
    assert found.interval == pytest.approx(tuple(stats.ttest_rel(*values).confidence_interval()))
    assert found.correlation == pytest.approx(stats.pearsonr(*values).statistic)
    assert "5 seeds in common, paired, correlation 1.00" in found.sentence


def test_pairs_need_seeds_in_common():
    runs = [*arm("lrn", LRN), *[made("none", seed, 0.9) for seed in (5, 6, 7)]]
    found = only(runs, CompareOptions(baseline="model=none", paired=True))
    assert found.verdict is Verdict.inconclusive
    assert "they share 1 seed" in found.sentence


def grid(best):
    """Both models at two rates, five seeds each; `best` is the rate of each model that wins on val."""
    noise = random.Random(2)
    return [
        made(model, seed, top + noise.gauss(0, 0.002), lr=lr, val=top + (0.02 if best[model] == lr else -0.02))
        for model, top in (("lrn", 0.96), ("none", 0.95))
        for lr in (0.1, 0.01)
        for seed in range(1, 6)
    ]


def test_in_a_grid_arms_are_compared_at_equal_settings():
    found = compare(grid({"lrn": 0.1, "none": 0.1}), BASE)
    pairs = [(each.arm.settings["optim.lr"], each.baseline.settings["optim.lr"]) for each in found.differences]
    assert sorted(pairs) == [(0.01, 0.01), (0.1, 0.1)]
    assert all("for all comparisons together" in each.sentence for each in found.differences)
    # each rate's verdict is at half of 5 in 100
    first = found.differences[0]
    expected = stats.ttest_ind(first.arm.values, first.baseline.values, equal_var=False).confidence_interval(0.975)
    assert first.interval == pytest.approx(tuple(expected))


def test_each_arm_at_its_own_best_rate_chosen_on_val():
    found = compare(grid({"lrn": 0.1, "none": 0.01}), CompareOptions(baseline="model=none", best_of=["optim.lr"]))
    (difference,) = found.differences
    assert difference.arm.settings["optim.lr"] == 0.1
    assert difference.baseline.settings["optim.lr"] == 0.01
    assert found.sentence.endswith("Each arm is at its own best optim.lr by val top-1.")
    assert any("fresh seeds" in line for line in found.caveats)


def test_the_test_metric_does_not_select():
    """The rate that is better on test and worse on val is not taken."""
    runs = [
        made(model, seed, 0.9 + 0.05 * (lr == 0.1) + 0.001 * seed, val=0.9 - 0.05 * (lr == 0.1), lr=lr)
        for model in ("lrn", "none")
        for lr in (0.1, 0.01)
        for seed in (1, 2, 3)
    ]
    found = compare(runs, CompareOptions(best_of=["optim.lr"]))
    assert [each.settings["optim.lr"] for each in found.arms] == [0.01, 0.01]
    assert compare(runs).arms[0].settings["optim.lr"] == 0.01


def test_one_lucky_seed_is_not_an_arms_best():
    runs = [*arm("lrn", LRN), made("lrn", 1, 0.999, lr=0.01), *arm("none", NONE)]
    found = compare(runs, CompareOptions(best_of=["optim.lr"]))
    assert {each.settings["optim.lr"] for each in found.arms} == {0.1}


def test_best_of_reports_unequal_tuning_and_a_best_value_at_the_edge():
    """A value that was tried and failed counts as tried: nothing beyond it is left to try."""
    runs = [
        run
        for model, rates in (("lrn", {0.1: 0.9, 0.2: 0.92, 0.4: 0.95}), ("none", {0.1: 0.95, 0.2: 0.9}))
        for lr, top1 in rates.items()
        for run in arm(model, [top1, top1 + 0.001, top1 - 0.001], lr=lr)
    ]
    best = CompareOptions(baseline="model=none", best_of=["optim.lr"])
    lines = compare(runs, best).tuning
    assert lines == [
        "unequal tuning: values of optim.lr to select from: 3 for model=lrn; 2 for model=none. The arm with more looks "
        "better than it is; give each arm the same number",
        "the best optim.lr is the highest of the 3 tried (0.1, 0.2, 0.4) for model=lrn: a value beyond it may be "
        "better",
        "the best optim.lr is the lowest of the 2 tried (0.1, 0.2) for model=none: a value beyond it may be better",
    ]
    assert set(lines) < set(compare(runs, best).caveats)
    failed = [made(model, 1, lr=lr, status="failed") for model, lr in (("lrn", 0.8), ("none", 0.05), ("none", 0.4))]
    assert compare([*runs, *failed], best).tuning == []


def test_best_of_chooses_only_among_arms_equal_in_everything_else():
    """What makes the difference is dropout: at equal dropout, norm makes none."""
    rows = [("lrn", 0.5, 0.1, 0.50), ("none", 0.5, 0.1, 0.50), ("lrn", 0.0, 0.01, 0.55)]
    runs = [
        made(model, seed, top + 0.001 * seed, lr=lr, config={"model.dropout": p}, overrides=[f"model.dropout={p}"])
        for model, p, lr, top in rows
        for seed in (1, 2, 3)
    ]
    found = compare(runs, CompareOptions(baseline="model=lrn", best_of=["optim.lr"]))
    (difference,) = found.differences
    assert difference.baseline.settings == {"model": "lrn", "optim.lr": 0.1, "model.dropout": 0.5}
    assert difference.verdict is Verdict.inconclusive
    assert (
        "--best-of optim.lr had nothing to select: no two arms differ in optim.lr alone; those that differ in it "
        "differ in model.dropout too"
    ) in found.caveats
    assert any(line.startswith("1 more arm has model=lrn and no arm to compare with") for line in found.caveats)


def test_without_a_matching_baseline_the_differing_settings_are_reported():
    runs = [*arm("lrn", LRN, lr=0.1), *arm("none", NONE, lr=0.01)]
    with pytest.raises(UserError) as refused:
        compare(runs, BASE)
    assert str(refused.value) == (
        "--baseline model=none: every other arm differs in more than that, model=lrn optim.lr=0.1 in optim.lr (0.1 and "
        "0.01); add --best-of optim.lr to give each arm its own best value, or write --baseline "
        "model=none,optim.lr=0.01 to compare all of it together"
    )
    (difference,) = compare(runs, CompareOptions(baseline="model=none,optim.lr=0.01")).differences
    assert difference.sentence.startswith("model=lrn optim.lr=0.1 beats model=none optim.lr=0.01 by 0.48 points")


def test_settings_that_change_with_group_by_are_compared_together():
    runs = [*arm("lrn", LRN, lr=0.1), *arm("none", NONE, lr=0.01)]
    found = compare(runs, CompareOptions(baseline="model=none", group_by=["model"]))
    assert found.sentence.startswith("model=lrn optim.lr=0.1 beats model=none optim.lr=0.01 by 0.48 points")
    many = [arm(m, LRN, config={f"n{k}.x": v for k in range(7)}) for m, v in (("lrn", 1), ("none", 2))]
    with pytest.raises(UserError, match=r"and 2 more settings; add --group-by model to compare all of it together"):
        compare([*many[0], *many[1]], BASE)


def test_the_published_question_about_lrn_has_the_published_answer():
    """docs/background/reproduction.md: -0.08 points (-0.84 to +0.67), inconclusive; 12 seeds against 24."""
    runs = read_runs(ABLATION)
    for difference in compare(runs, CompareOptions(baseline="model.norm=lrn", best_of=["optim.lr"])).differences:
        if difference.arm.n == 12 and difference.baseline.n == 24:
            assert [round(100 * end, 2) for end in difference.interval] == [-0.84, 0.67]
            assert round(100 * difference.difference, 2) == -0.08
            assert difference.verdict is Verdict.inconclusive
            break
    else:
        pytest.fail("the two arms were not compared")


def test_a_column_that_differs_in_every_row_is_named_as_such():
    runs = [
        made(m, seed, 0.9, config={"seconds": 7.1 + 0.1 * seed + len(m)}) for m in ("lrn", "none") for seed in (1, 2)
    ]
    with pytest.raises(
        UserError, match="seconds differs in every run: if it is not a setting, add --average-over seconds"
    ):
        compare(runs, BASE)
    assert any(line.startswith("seconds differs in every run") for line in compare(runs).caveats)


def test_failed_runs_with_other_settings_are_named_and_change_nothing():
    runs = [*arm("lrn", LRN), *arm("none", NONE)]
    failed = made("lrn", 6, status="failed", config={"data.root": "x"}, overrides=["data.root=x"])
    found = compare([*runs, failed], BASE)
    assert found.sentence == compare(runs, BASE).sentence
    assert found.caveats[-1] == f"runs in no arm, not counted and with other settings: 1 failed ({failed.name})"


def test_an_arm_without_a_baseline_is_reported():
    found = compare([*arm("lrn", LRN), *arm("none", NONE), *arm("lrn", LRN, lr=0.3)], BASE)
    assert len(found.differences) == 1
    assert any(
        "model=lrn optim.lr=0.3" in line and "no baseline with otherwise equal settings" in line
        for line in found.caveats
    )


def test_a_key_of_the_baseline_stands_for_its_group():
    runs = grid({"lrn": 0.1, "none": 0.1})
    assert len(compare(runs, CompareOptions(baseline="model.norm=none")).differences) == 2


def test_runs_on_other_images_get_no_verdict():
    found = compare([*arm("lrn", LRN, fingerprint="cifar"), *arm("none", NONE)], BASE)
    (difference,) = found.differences
    assert (difference.verdict, difference.interval) == (Verdict.inconclusive, None)
    assert "measured on different images" in difference.sentence
    assert any("different data" in line for line in found.caveats)


def test_a_claim_is_reported_with_the_measurement():
    claim = {"difference": 0.014, "text": "LRN, section 3.3", "against": "model.norm=none"}
    found = compare([*arm("lrn", LRN, paper_claim=claim), *arm("none", NONE)], BASE)
    claimed = found.differences[0].claim
    assert (claimed.paper.difference, claimed.paper.text) == (0.014, "LRN, section 3.3")
    # 0.5 points were measured
    assert found.sentence.endswith("; the paper claims +1.40 points: same direction (smaller than the paper's).")


@pytest.mark.parametrize(
    "claim",
    [
        {},
        {"text": "x", "difference": "more"},
        {"text": "x", "difference": 0.01, "metric": "test/top5"},
        {"text": "x", "difference": 0.01, "against": "model=bn"},
        {"text": "x", "difference": 0.01, "against": "nonsense"},
        {"text": "x", "difference": 0.01, "arm": "model=bn"},
    ],
)
def test_a_claim_about_something_else_is_ignored(claim):
    assert only([*arm("lrn", LRN, paper_claim=claim), *arm("none", NONE)]).claim is None


def test_without_a_baseline_there_is_a_ranking_and_no_verdict():
    found = compare([*arm("none", NONE), *arm("lrn", LRN)])
    assert [each.label for each in found.arms] == ["model=lrn", "model=none"]
    assert found.sentence.startswith("model=lrn is first of 2 by val top-1: test top-1 97.60% (95% interval ")
    assert found.sentence.endswith(". No verdict: run compare with --baseline KEY=VALUE.")
    assert found.differences == []


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([], "There are no runs here."),
        ([made("lrn", 1, status="failed"), made("lrn", 2, status="running")], "is done: 1 failed, 1 running."),
        ([made("lrn", 1, 0.97)], "all runs: test top-1 97.00% (one run)."),
        (arm("lrn", (0.97, 0.98)), "all runs: test top-1 97.00% and 98.00% (2 seeds)."),
        ([made("lrn", 1, 0.97), made("bn", 1, 0.96)], "one run each, which does not separate the change from chance."),
    ],
)
def test_with_few_runs_there_is_still_a_sentence(runs, sentence):
    assert compare(runs).sentence.endswith(sentence)


def test_the_default_metric():
    val_only = made("lrn", 1, metrics={"val/top1": 0.9})
    assert compare([made("lrn", 2, 0.9)]).metric.key == "test/top1"
    assert compare([made("lrn", 2, 0.9), val_only]).metric.key == "val/top1"
    assert compare([made("lrn", 2, metrics={"val/f1": 0.9, "val/loss": 0.1})]).metric.key == "val/f1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CompareOptions(metric="test/top2"), "did you mean test/top1"),
        (CompareOptions(baseline="model=code"), "model is lrn, none"),
        (CompareOptions(baseline="modle=none"), "did you mean model"),
        (CompareOptions(baseline="optim.lr=0.1"), "every run has it"),
        (CompareOptions(baseline="none"), "not a condition"),
        (CompareOptions(best_of=["optim.lr"]), "does not vary"),
        (CompareOptions(group_by=["optim.rate"]), "no run has optim.rate"),
        (CompareOptions(margin=0.01), "--baseline"),
        (CompareOptions(paired=True), "--baseline"),
        (CompareOptions(margin=0.0, baseline="model=none"), "greater than 0"),
        (CompareOptions(top=0), "at least 1"),
        (CompareOptions(margin=1, baseline="model=none"), "100 points of test top-1; half a point is 0.005 or 0.5%"),
    ],
)
def test_invalid_options_are_rejected_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as refused:
        compare([*arm("lrn", LRN), *arm("none", NONE)], options)
    assert "\n" not in str(refused.value)


def test_a_baseline_that_matches_two_arms_is_rejected():
    """bn and none do not differ in init, and lrn does not either: so the baseline is ambiguous."""
    runs = [*arm("lrn", LRN), *arm("none", NONE), *arm("bn", NONE)]
    with pytest.raises(UserError, match="matches both"):
        compare(runs, CompareOptions(baseline="model.init=he"))


def test_top_omits_arms_without_changing_verdicts():
    runs = [*arm("lrn", LRN), *arm("bn", (0.99, 0.991, 0.989, 0.992, 0.99)), *arm("none", NONE)]
    every, first = compare(runs, BASE), compare(runs, CompareOptions(baseline="model=none", top=1))
    assert [each.label for each in first.arms] == ["model=bn", "model=none"]
    assert [each.interval for each in first.differences] == [every.differences[0].interval]
    assert first.sentence == every.sentence


def test_top_with_the_baseline_first_keeps_the_finding():
    runs = [*arm("lrn", LRN), *arm("none", NONE)]
    found = compare(runs, CompareOptions(baseline="model=lrn", top=1))
    assert found.sentence.startswith("none is worse than lrn by 0.48 points")
    assert found.differences == []


def test_all_runs_of_a_baseline_must_match():
    mixed = [made("lrn", seed, 0.97, lr=0.3 if seed == 1 else 0.1) for seed in (1, 2, 3)]
    options = CompareOptions(baseline="optim.lr=0.3", group_by=["model"], average_over=["optim.lr"])
    mixed += [made("lrn", seed, 0.97, lr=0.1 if seed == 1 else 0.3) for seed in (1, 2, 3)]
    with pytest.raises(UserError, match="no arm has it"):
        compare([*mixed, *arm("none", NONE)], options)


def test_the_sentence_reports_a_difference_below_the_margin():
    runs = [*arm("lrn", LRN), *arm("none", NONE)]
    sentence = compare(runs, CompareOptions(baseline="model=none", margin=0.02)).sentence
    assert sentence.endswith("; this is less than the margin of 2.00 points.")
    assert "margin" not in compare(runs, CompareOptions(baseline="model=none", margin=0.005)).sentence


def test_the_first_place_may_be_shared():
    runs = [*arm("lrn", LRN, val=0.99), *arm("none", NONE, val=0.99)]
    assert compare(runs).sentence.startswith("model=lrn and 1 more are first of 2 by val top-1: ")


def test_the_table_contains_arms_if_runs_share_an_arm():
    found = compare([*arm("lrn", LRN), *arm("none", NONE)], BASE)
    row = dict(zip(found.table.keys, found.table.rows[0], strict=True))
    assert (row["model"], row["n"], row["values"], row["status"]) == ("lrn", 5, list(LRN), "5 done")
    assert row["test/top1"] == pytest.approx(0.976)
    assert row["verdict"] == "better"
    single = compare([made("lrn", 1, 0.9), made("bn", 1, 0.8)])
    assert single.table == single.runs_table


def test_columns():
    found = compare([*arm("lrn", LRN), *arm("none", NONE)], CompareOptions(columns=["model", "val/top1", "commit"]))
    assert found.table.keys == ["model", "val/top1", "commit"]
    assert found.table.rows[0] == ["lrn", pytest.approx(0.976), "a" * 40]


def test_a_baseline_can_be_a_setting_of_a_stage_that_others_remove():
    """Also where another model has that stage in another size, so that dropping it does not decide the size."""
    there = arm("lrn", (0.95, 0.96, 0.97), config={"model.stages.conv4.out": 384})
    dropped = arm("lrn", (0.9, 0.91, 0.92), config={"model.stages.conv4": None}, overrides=["model.stages.conv4=null"])
    other = arm("bn", (0.8, 0.81, 0.82), config={"model.stages.conv4.out": 192})
    found = compare([*there, *dropped, *other], CompareOptions(baseline="model.stages.conv4.out=384"))
    assert [one.arm.settings for one in found.differences] == [{"model": "lrn", "model.stages.conv4": None}]
    assert found.differences[0].difference == pytest.approx(-0.05)
